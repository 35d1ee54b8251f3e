"""How long docs/tutorial.md takes: all that it says is done, as it stands there, in a fresh clone.

    python benchmarks/tutorial.py --json docs/benchmarks/tutorial-cpu.json --check

The clone is of the last commit and has an environment of its own. Seconds say as much about what else the machine does
as about the tutorial, and those of the installation about where packages come from; so the seconds of cores are
reported too, of all that ran.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from _report import environment, progress

_ROOT = Path(__file__).resolve().parents[1]
_PAGE = Path("docs") / "tutorial.md"
_READY = "archscore-server listening on "
#: Seconds that --check allows.
_AT_MOST = 600.0


@dataclass(frozen=True, slots=True)
class Block:
    """Something that the tutorial says to run.

    Attributes:
        section: the heading that it is under.
        kind: what it is in, "sh" or "python".
        text: what to run.
    """

    section: str
    kind: str
    text: str


def blocks(page: str) -> list[Block]:
    """What a page says to run, in its order."""
    found, section = [], ""
    for heading, kind, text in re.findall(r"^## ([^\n]+)$|^```(\w+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        if heading:
            section = heading
        elif kind in ("sh", "python"):
            found.append(Block(section, kind, text))
    return found


def measure(page: str, directory: Path) -> dict[str, float]:
    """Runs what the tutorial says: the installation, a server, and the rest while that runs.

    Args:
        page: the tutorial.
        directory: the clone that it is done in.

    Returns:
        Seconds by section.

    Raises:
        RuntimeError: a command failed.
    """
    install, serve, *rest = blocks(page)
    # What `. .venv/bin/activate` does; and the port of the tutorial may be another server's.
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("ARCHSCORE_", "PYTHON"))}
    variables["PATH"] = os.pathsep.join([str(directory / ".venv" / "bin"), variables["PATH"]])
    seconds = {install.section: _run(install, directory, variables)}
    ports = {"ARCHSCORE_PORT": "0", "ARCHSCORE_METRICS_PORT": "0"}
    started = time.monotonic()
    with subprocess.Popen(
        ["bash", "-c", f"exec {serve.text}"],
        cwd=directory,
        env={**variables, **ports},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as server:
        try:
            line = server.stdout.readline() if server.stdout else ""
            if not line.startswith(_READY):
                raise RuntimeError(f"the server did not start: {line!r}")
            seconds[serve.section] = time.monotonic() - started
            variables["ARCHSCORE_SERVER"] = line.removeprefix(_READY).split()[0]
            for block in rest:
                seconds[block.section] = seconds.get(block.section, 0.0) + _run(block, directory, variables)
        finally:
            server.terminate()
    return seconds


def _run(block: Block, directory: Path, variables: Mapping[str, str]) -> float:
    """Runs a block; returns its seconds."""
    progress(f"{block.section}: {block.text.splitlines()[0]} ...")
    command = ["bash", "-euc", block.text] if block.kind == "sh" else ["python", "-c", block.text]
    started = time.monotonic()
    ran = subprocess.run(command, cwd=directory, env=variables, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise RuntimeError(f"{block.text}ended with {ran.returncode}: {ran.stderr}")
    return time.monotonic() - started


def table(seconds: Mapping[str, float], core_seconds: float) -> str:
    """The figures, in Markdown."""
    rows = [*seconds.items(), ("all of it", sum(seconds.values())), ("seconds of a core, all of it", core_seconds)]
    return "\n".join(["| | seconds |", "|---|---|", *(f"| {name} | {value:.0f} |" for name, value in rows)])


def main(argv: Sequence[str] | None = None) -> int:
    """Clones, does what the tutorial says, reports."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--check", action="store_true", help=f"fail if all of it takes over {_AT_MOST:.0f} s")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as directory:
        clone = Path(directory) / "archscore"
        subprocess.run(["git", "clone", "--quiet", str(_ROOT), str(clone)], check=True)
        seconds = measure((clone / _PAGE).read_text(encoding="utf-8"), clone)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    core_seconds = used.ru_utime + used.ru_stime
    print(table(seconds, core_seconds))
    if options.json:
        report = {
            "environment": environment(cores=os.cpu_count()),
            "seconds": seconds,
            "total": sum(seconds.values()),
            "core_seconds": core_seconds,
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return int(options.check and sum(seconds.values()) > _AT_MOST)


if __name__ == "__main__":
    sys.exit(main())
