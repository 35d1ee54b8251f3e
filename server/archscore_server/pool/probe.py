"""Asks a process of its own which GPUs there are: the front end does not load torch."""

from __future__ import annotations

import asyncio
import json
import subprocess
from typing import Any

from archscore_server.pool._base import PoolStartError
from archscore_server.pool._process import environment, python


async def probe_gpus() -> list[str]:
    """Names of the GPUs that torch sees, in its order. Takes as long as loading torch.

    Raises:
        PoolStartError: torch cannot be loaded.
    """
    process = await asyncio.create_subprocess_exec(
        *python(__name__), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        output, complaint = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if process.returncode != 0:
        lines = complaint.decode(errors="replace").strip().splitlines()
        raise PoolStartError(f"cannot look for GPUs: {lines[-1] if lines else f'exit code {process.returncode}'}")
    names: Any = json.loads(output.splitlines()[-1])
    return [str(name) for name in names]


if __name__ == "__main__":
    from archscore_server.pool._torch_engine import gpu_names

    print(json.dumps(gpu_names()))  # noqa: T201 -- the answer
