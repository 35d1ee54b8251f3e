"""Fuzzing: the parsers, the messages of every RPC, and the port.

Each input follows from the seed and its number. Prints a tally; exits with 1 if anything is not as it must be, and says
which input showed it: `--only TARGET --seed SEED --first NUMBER --inputs 1` does it again. `make fuzz`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import re
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from archscore import Client
from archscore._version import __version__
from archscore_server.config import Limits
from fuzz import connections, coverage, messages, parsers
from fuzz.tally import Tally
from golden_cases import cases, config, tolerance
from support.process import Holdings, ServerProcess, descriptors, holdings, resident_bytes, server_process
from support.serving import serving

#: Inputs of each target in a long run, in the order in which they are run.
INPUTS: Final = {"parsers": 1_050_000, "coverage": 200_000, "messages": 105_000, "workers": 5_000, "connections": 1_200}

#: The limits of the servers: what is let in costs little.
MOST_BYTES: Final = 2**20
LIMITS: Final = Limits(max_message_bytes=MOST_BYTES, max_batch_size=64, max_resolution=32, max_num_classes=100)
OPTIONS: Final = [
    *("--device", "cpu", "--workers", "1", "--threads", "1", "--lame-duck", "0", "--max-stored-scores", "10000"),
    *("--limit-message-bytes", str(MOST_BYTES), "--limit-batch-size", "8", "--limit-resolution", "32"),
    *("--limit-channels", "4", "--limit-cells", "1", "--limit-num-classes", "100", "--limit-repeats", "2"),
    *("--limit-parameters", "300000", "--limit-flops", "30000000"),
]

#: The reference score that is asked for in the end: cheap, and within the limits above.
GOLDEN: Final = next(case for case in cases() if (case["batch_size"], case.get("channels")) == (8, 4))

#: Part of the inputs before it is first looked at what a process holds: caches fill, and libraries start threads.
WARM_UP: Final = 0.2
#: Bytes that a front end may grow by afterwards, at rest.
SLACK: Final = 32 * 2**20
#: In this process there are the callers too, and a store without bound.
SLACK_HERE: Final = 128 * 2**20
#: A worker's caches take minibatches and streams of weights for every seed that is asked for, up to 320 MiB.
SLACK_WORKERS: Final = 64 * 2**20
#: Threads that gRPC's own pool may have more afterwards: it grows with load, and shrinks in its own time.
MORE_THREADS: Final = 4
#: Seconds in which what was begun has to end.
REST: Final = 60.0
#: Seconds after which front end and workers have given back the memory that is free.
GIVING_BACK: Final = 8.0

Progress = Callable[[Tally], None]


def fuzz(target: str, seed: int, first: int, inputs: int, *, processes: int, last: float, progress: Progress) -> Tally:
    """Runs one target."""
    if target == "parsers":
        return parsers.run(seed, first, inputs, processes=processes, last=last, progress=progress)
    if target == "coverage":
        return coverage.run(seed, inputs, last=last)
    if target == "messages":
        return asyncio.run(fuzz_messages(seed, first, inputs, last=last, progress=progress))
    return fuzz_process(target, seed, first, inputs, last=last, progress=progress)


async def fuzz_messages(
    seed: int, first: int, inputs: int, *, last: float = float("inf"), progress: Progress = lambda _: None
) -> Tally:
    """Messages to a service in this process whose workers are puppets, and what is left of them afterwards."""
    async with serving(limits=LIMITS) as served:
        served.pool.batches = deque(maxlen=8)  # type: ignore[assignment] -- it keeps them all otherwise
        address, scheduler = f"127.0.0.1:{served.server.port}", served.server._scheduler

        async def part(start: int, count: int) -> Tally:
            return await messages.run(
                address, seed, start, count, target="messages", most_bytes=MOST_BYTES, last=last, progress=progress
            )

        warm_up = round(inputs * WARM_UP)
        tally = await part(first, warm_up)
        await _rests(lambda: not scheduler.in_flight)
        tasks, links, resident = len(asyncio.all_tasks()), descriptors(os.getpid()), resident_bytes(os.getpid())
        rest = await part(first + warm_up, inputs - warm_up)
        tally.add(rest)
        tally.seconds += rest.seconds
        idle = await _rests(
            lambda: (
                not scheduler.in_flight
                and not scheduler.queued
                and len(asyncio.all_tasks()) <= tasks
                and len(descriptors(os.getpid())) <= len(links)
            )
        )
        if not idle:
            tally.violation(
                f"left: {scheduler.in_flight} evaluations, {len(asyncio.all_tasks()) - tasks} tasks more, "
                f"descriptors {descriptors(os.getpid())}, before {links}"
            )
        _growth(tally, resident, resident_bytes(os.getpid()), SLACK_HERE)
    return tally


def fuzz_process(
    target: str, seed: int, first: int, inputs: int, *, last: float = float("inf"), progress: Progress = lambda _: None
) -> Tally:
    """Messages to, or connections with, a server in a process of its own with a real worker; and a reference score."""

    async def part(address: str, start: int, count: int) -> Tally:
        if target == "connections":
            return await connections.run(address, seed, start, count, last=last, progress=progress)
        return await messages.run(
            address, seed, start, count, target=target, most_bytes=MOST_BYTES, last=last, progress=progress
        )

    with _file() as log:
        with log.open("w") as log_file, server_process(*OPTIONS, log=log_file) as server:
            warm_up = round(inputs * WARM_UP)
            tally = asyncio.run(part(server.address, first, warm_up))
            before = _at_rest(server, None)
            workers_before = _workers_resident(server)
            rest = asyncio.run(part(server.address, first + warm_up, inputs - warm_up))
            after = _at_rest(server, before)
            tally.add(rest)
            tally.seconds += rest.seconds
            tally.notes.update(rest.notes)
            if after.descriptors > before.descriptors or after.threads > before.threads + MORE_THREADS:
                tally.violation(f"left: {after}, before {before}: {descriptors(server.process.pid)}")
            if after.children != before.children:
                tally.violation(f"{after.children} child processes, not {before.children}")
            _growth(tally, before.resident, after.resident)
            _growth(tally, workers_before, _workers_resident(server), SLACK_WORKERS, of="workers")
            tally.notes["reference scores"] = _check_golden(server.address, tally)
            code = server.stop()
            if code:
                tally.violation(f"the server ended with exit code {code}")
        _check_log(log.read_text(errors="replace"), tally)
    return tally


def _check_golden(address: str, tally: Tally) -> int:
    """Asks for reference scores; returns how many were right."""
    right = 0
    for precision in ("float32", "float64"):
        with Client(address) as client:
            asked = client.score(
                GOLDEN["encoding"], list(GOLDEN["scores"]), space=GOLDEN["space"], config=config(GOLDEN, precision)
            )
        for name, score in asked.scores.items():
            expected = GOLDEN["scores"][name]
            if score.value is None or abs(score.value - expected) > tolerance(name, precision) * abs(expected):
                tally.violation(f"{name} in {precision} is {score.value}, not {expected}")
            else:
                right += 1
    return right


def _check_log(text: str, tally: Tally) -> None:
    """No traceback, nothing at level ERROR, no line that a peer has written."""
    tally.notes["log lines"] = len(text.splitlines())
    for wrong in (
        "Traceback",
        r"^ERROR forged",
        r"^\S+ \S+ (ERROR|CRITICAL) ",
        r'"level": ?"(error|critical)"',
        "\x1b",
    ):
        if found := re.search(wrong, text, re.MULTILINE):
            tally.violation(f"the log has: {text[found.start() : found.start() + 500]!r}")


def _workers_resident(server: ServerProcess) -> int:
    """Resident memory of the worker, which has been idle for a while."""
    return sum(map(resident_bytes, server.workers()))


def _growth(tally: Tally, before: int, after: int, slack: int = SLACK, of: str = "") -> None:
    name = f"MiB of {of}" if of else "MiB"
    tally.notes[f"{name} before"], tally.notes[f"{name} after"] = round(before / 2**20), round(after / 2**20)
    if after - before > slack:
        tally.violation(f"memory{f' of {of}' if of else ''} grew by {(after - before) / 2**20:.0f} MiB")


async def _rests(at_rest: Callable[[], bool]) -> bool:
    """Waits until something is at rest; says whether it is."""
    late = time.monotonic() + REST
    while not at_rest():
        if time.monotonic() > late:
            return False
        await asyncio.sleep(0.1)
    return True


def _at_rest(server: ServerProcess, before: Holdings | None) -> Holdings:
    """What a server holds once it holds no more than before, or twice the same, or after a while."""
    late = time.monotonic() + REST
    time.sleep(GIVING_BACK)
    last: Holdings | None = None
    while True:
        time.sleep(1)
        now = holdings(server.process.pid)
        if before:
            rests = now.descriptors <= before.descriptors and now.threads <= before.threads
        else:
            rests = last is not None and (now.descriptors, now.threads) == (last.descriptors, last.threads)
        if rests or time.monotonic() > late:
            return now
        last = now


@contextlib.contextmanager
def _file() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="archscore-fuzz-") as directory:
        yield Path(directory) / "log"


def _progress(tally: Tally) -> None:
    step = 2_000 if tally.target != "parsers" else 1
    if tally.inputs % step == 0:
        print(f"\r{tally.target} {tally.inputs:,}, {len(tally.violations)} violations", end="", file=sys.stderr)  # noqa: T201


def _lines(tally: Tally) -> list[str]:
    notes = ", ".join(f"{name} {value}" for name, value in tally.notes.items())
    return [
        f"{tally.target}: {tally.inputs:,} inputs in {tally.seconds:.0f} s{f' ({notes})' if notes else ''}",
        *(f"  {count:>9,}  {outcome}" for outcome, count in sorted(tally.outcomes.items())),
    ]


def _write(path: Path, seed: int, tallies: list[Tally]) -> None:
    """Writes tallies to a file, in the place of those that are there of the same targets."""
    report = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    environment = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        **{name: version(name) for name in ("grpcio", "protobuf", "torch")},
        "archscore": __version__,
    }
    for tally in tallies:
        counts = {name: dict(sorted(getattr(tally, name).items())) for name in ("kinds", "outcomes")}
        report[tally.target] = {"environment": environment, "seed": seed, **asdict(tally), **counts}
    ordered = {target: report[target] for target in INPUTS if target in report}
    path.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")


def main() -> int:
    """Runs with the options of the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Fuzzing: see the module.")
    parser.add_argument("--only", choices=tuple(INPUTS), action="append", help="this target; may be given again")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--inputs", type=int, help="of each target, if not as many as a long run has")
    parser.add_argument("--minutes", type=float, default=60.0, help="after which no more inputs are begun")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="for the parsers")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the tallies there, beside those of other targets"
    )
    options = parser.parse_args()
    last = time.monotonic() + 60 * options.minutes
    tallies = []
    for target in options.only or INPUTS:
        inputs = options.inputs or INPUTS[target]
        tally = fuzz(
            target, options.seed, options.first, inputs, processes=options.processes, last=last, progress=_progress
        )
        tallies.append(tally)
        print("\n".join(["", *_lines(tally)]), flush=True)  # noqa: T201
    if options.json:
        _write(options.json, options.seed, tallies)
    violations = [f"{tally.target}: {text}" for tally in tallies for text in tally.violations]
    for text in violations:
        print(f"WRONG: {text}")  # noqa: T201
    print("all is well" if not violations else f"{len(violations)} violations, with seed {options.seed}")  # noqa: T201
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
