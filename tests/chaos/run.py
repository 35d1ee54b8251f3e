"""Chaos: many clients, a third of their requests malformed, a tenth abandoned, and workers that die all the time.

Every request that was not abandoned must get its one right answer, and nothing may be left behind. Prints a tally;
exits with 1 if anything is not as it must be. `make chaos`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import random
import sys
import tempfile
import time
import urllib.request
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from chaos.asking import Request, requests
from chaos.clients import Tally, run_client
from chaos.sabotage import Saboteur
from chaos.universe import MAX_ARCHITECTURES, Universe
from support.process import Holdings, ServerProcess, descriptors, holdings, marked, server_process

WORKERS: Final = 2

#: Small timeouts, so that what hangs is soon found; a queue that is often full.
OPTIONS: Final = [
    *("--device", "cpu", "--workers", str(WORKERS), "--threads", "1"),
    *("--max-queued", "96", "--limit-architectures", str(MAX_ARCHITECTURES)),
    *("--heartbeat-timeout", "3", "--batch-timeout", "5", "--lame-duck", "0.5"),
]

#: The directory of `faults` and where its proxies find what to do once.
FAULTS: Final = Path(__file__).parents[1] / "faults"
TOKENS_VARIABLE: Final = "ARCHSCORE_FAULTS"

#: Part of the requests that comes before what the front end holds is first looked at: libraries start threads and fill
#: caches when they are first used.
WARM_UP: Final = 0.1

#: Bytes of memory that the front end may grow by afterwards: its caches of scores and encodings, which are bounded but
#: not yet full, and what an allocator keeps back.
SLACK: Final = 24 * 2**20

#: Seconds in which the server must have recovered from the last harm.
RECOVERY: Final = 90.0

SERVICES: Final = ("", "archscore.v1.ScoringService")


@dataclass(frozen=True)
class Options:
    """What can be chosen about a run."""

    requests: int
    clients: int
    seed: int
    minutes: float


@dataclass
class Report:
    """What a run has found.

    Attributes:
        lines: the tally.
        problems: what is not as it must be.
    """

    lines: list[str]
    problems: list[str]

    def check(self, holds: bool, problem: str) -> None:
        """Notes a problem unless something holds."""
        if not holds:
            self.problems.append(problem)


def run(options: Options, log: Path) -> Report:
    """A quiet run, then chaos, then a look at what is left."""
    started = time.monotonic()
    rng = random.Random(options.seed)
    report = Report([], [])
    universe = Universe(max(24, options.requests // 10), rng)
    with _directory() as directory, log.open("w") as log_file:
        _say("a quiet run, for the right answers")
        with server_process(*OPTIONS, log=log_file) as server:
            universe.ask(server.address)
        report.lines.append(f"quiet run      {len(universe.points):,} points in {time.monotonic() - started:.0f} s")

        tokens, temporary, store = (directory / name for name in ("tokens", "tmp", "store"))
        for path in (tokens, temporary, store):
            path.mkdir()
        environment = {"PYTHONPATH": _path(), TOKENS_VARIABLE: str(tokens), "TMPDIR": str(temporary)}
        file = store / "scores.sqlite"
        with server_process(*OPTIONS, "--store", str(file), environment=environment, log=log_file) as server:
            asyncio.run(_chaos(options, universe, server, tokens, rng, report))
            code = server.stop()
        report.check(code == 0, f"the server ended with exit code {code}")
        left = marked(TOKENS_VARIABLE, str(tokens))
        report.check(not left, f"processes are left: {left}")
        files = [str(path.relative_to(directory)) for path in (*temporary.rglob("*"), *store.iterdir()) if path != file]
        report.check(not files, f"files are left: {files}")
    report.lines.append(f"all in all     {time.monotonic() - started:.0f} s")
    return report


async def _chaos(
    options: Options, universe: Universe, server: ServerProcess, tokens: Path, rng: random.Random, report: Report
) -> None:
    """Harms a server while clients ask it, and adds what comes of it to the report."""
    work = requests(universe, options.requests, rng)
    warm_up = round(options.requests * WARM_UP)
    tally = Tally()
    saboteur = Saboteur(server, tokens, random.Random(options.seed))
    started = time.monotonic()
    last = started + options.minutes * 60

    await _phase(options, server, work[:warm_up], tally, saboteur, last)
    await _recovered(server)
    before, before_links = await _settled(server, None)
    await _phase(options, server, work[warm_up:], tally, saboteur, last)
    seconds = time.monotonic() - started
    problem = await _recovered(server)
    recovery = time.monotonic() - started - seconds
    after, after_links = await _settled(server, before)

    report.lines += _tally_lines(options, tally, saboteur, seconds)
    report.lines += [
        f"lost workers   {_by_reason(await _metrics(server), 'archscore_workers_lost_total')}",
        f"run again      {_by_reason(await _metrics(server), 'archscore_retried_total')}",
        f"recovered      in {recovery:.0f} s",
        f"front end      {_show(before)}, then {_show(after)}",
    ]
    report.check(not problem, problem)
    report.check(tally.ended == options.requests, f"{options.requests - tally.ended:,} requests were not made in time")
    report.problems += tally.discrepancies
    new = sorted((Counter(after_links) - Counter(before_links)).elements())
    report.check(after.descriptors <= before.descriptors, f"descriptors are left: {new}")
    report.check(after.threads <= before.threads, f"{after.threads - before.threads} threads are left")
    report.check(after.children == WORKERS, f"{after.children} child processes, not {WORKERS}")
    growth = after.resident - before.resident
    report.check(growth <= SLACK, f"the front end grew by {growth / 2**20:.1f} MiB")


async def _phase(
    options: Options, server: ServerProcess, work: Sequence[Request], tally: Tally, saboteur: Saboteur, last: float
) -> None:
    """Has all clients work while the saboteur does, until the work is done or it is late."""
    queue = deque(work)
    enough = asyncio.get_running_loop().call_later(last - time.monotonic(), queue.clear)
    others = [asyncio.create_task(saboteur.work()), asyncio.create_task(_progress(options, tally, saboteur))]
    try:
        async with asyncio.TaskGroup() as clients:
            for number in range(options.clients):
                clients.create_task(run_client(server.address, queue, tally, random.Random(number)))
    finally:
        enough.cancel()
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


async def _progress(options: Options, tally: Tally, saboteur: Saboteur) -> None:
    while True:
        await asyncio.sleep(5)
        _say(
            f"{tally.ended:,} of {options.requests:,} requests, {saboteur.acts.total()} acts of sabotage, "
            f"{len(tally.discrepancies)} discrepancies"
        )


async def _recovered(server: ServerProcess) -> str:
    """Waits until all is well again; says what is not if that takes too long."""
    late = time.monotonic() + RECOVERY
    while True:
        metrics = await _metrics(server)
        ready, queued = metrics["archscore_workers_ready", ""], metrics["archscore_queued_architectures", ""]
        health = await _health(server.address)
        if health == ["SERVING"] * len(SERVICES) and ready == WORKERS and not queued:
            return ""
        if time.monotonic() > late:
            return (
                f"after {RECOVERY:.0f} s health is {health}, {ready:.0f} workers are ready, {queued:.0f} requests wait"
            )
        await asyncio.sleep(0.2)


async def _settled(server: ServerProcess, before: Holdings | None) -> tuple[Holdings, list[str]]:
    """What the front end holds once it holds no more than before, or after a while all the same.

    Connections that were closed, and threads that have nothing to do any more, end a little later.
    """
    gc.collect()  # grpc.aio's channels hold on to their connections in cycles: those of this process's clients
    pid = server.process.pid
    late = time.monotonic() + RECOVERY
    last: Holdings | None = None
    while True:
        await asyncio.sleep(2)
        now = holdings(pid)
        if before:
            rests = now.descriptors <= before.descriptors and now.threads <= before.threads
        else:
            rests = last is not None and (now.descriptors, now.threads) == (last.descriptors, last.threads)
        if rests or time.monotonic() > late:
            return now, descriptors(pid)
        last = now


async def _health(address: str) -> list[str]:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answers = [await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=10) for name in SERVICES]
    return [health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status) for answer in answers]


async def _metrics(server: ServerProcess) -> Mapping[tuple[str, str], float]:
    """The metrics page: values by name and reason."""

    def read() -> str:
        with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=30) as page:
            return str(page.read().decode())

    families = text_string_to_metric_families(await asyncio.to_thread(read))
    return {
        (sample.name, sample.labels.get("reason", "")): sample.value for family in families for sample in family.samples
    }


def _by_reason(metrics: Mapping[tuple[str, str], float], name: str) -> str:
    return _counts({reason: round(value) for (sample, reason), value in metrics.items() if sample == name})


def _tally_lines(options: Options, tally: Tally, saboteur: Saboteur, seconds: float) -> list[str]:
    return [
        f"chaos          {options.requests:,} requests of {options.clients} clients in {seconds:.0f} s",
        f"right answers  {tally.answered.total():,} ({_counts(tally.answered)})",
        f"architectures  {tally.architectures:,} in those of them that came with scores",
        f"of which       {_counts(tally.labels)}",
        f"abandoned      {tally.abandoned.total():,} ({_counts(tally.abandoned)})",
        f"asked again    {tally.retried.total():,} ({_counts(tally.retried)})",
        f"sabotage       {saboteur.acts.total():,} ({_counts(saboteur.acts)})",
        f"discrepancies  {len(tally.discrepancies)}",
        f"difference     {tally.comparison.largest_difference:.1g} at most, relatively, from the quiet run",
    ]


def _counts(counter: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counter.items())) or "none"


def _show(holding: Holdings) -> str:
    return f"{holding.descriptors} descriptors, {holding.threads} threads, {holding.resident / 2**20:.0f} MiB"


def _path() -> str:
    """PYTHONPATH of this process, with the faulty proxies."""
    return os.pathsep.join([str(FAULTS), *filter(None, [os.environ.get("PYTHONPATH")])])


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="archscore-chaos-") as directory:
        yield Path(directory)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def main() -> int:
    """Runs with the options of the command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Chaos: see the module.")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=20.0, help="for the requests, at most; more is a failure")
    parser.add_argument("--log", type=Path, default=Path(os.devnull), help="where the servers' logs go")
    arguments = vars(parser.parse_args())
    log = arguments.pop("log")
    report = run(Options(**arguments), log)
    print("\n".join(report.lines))  # noqa: T201
    for problem in report.problems:
        print(f"WRONG: {problem}")  # noqa: T201
    print("all is well" if not report.problems else f"{len(report.problems)} problems")  # noqa: T201
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
