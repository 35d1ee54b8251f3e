"""Entry point of `archscore-server`: says what to install where the extra is missing."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys

from archscore_server import standard_streams

#: What the extra `server` brings, by module.
_NEEDED = ("click", "grpc_health", "grpc_reflection", "numpy", "prometheus_client", "structlog", "torch")


def main() -> None:
    """Runs the command line."""
    standard_streams.open_closed()
    if os.getpid() == 1:
        # The kernel drops signals that the first process of a container does not handle, and loading takes a second.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # Looked for rather than imported: this process must not load torch.
    missing = [module for module in _NEEDED if importlib.util.find_spec(module) is None]
    if missing:
        print(  # noqa: T201 -- there is no click to print with
            f"archscore-server needs what its extra brings (missing: {', '.join(missing)}): "
            "pip install 'archscore[server]'",
            file=sys.stderr,
        )
        raise SystemExit(2)
    # gRPC has a log of its own on stderr, with a line for each handshake that fails: anybody could fill the disk.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from archscore_server.cli import main as command_line

    command_line(prog_name="archscore-server")


if __name__ == "__main__":
    main()
