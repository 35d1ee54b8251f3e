"""What others lose to a client that misbehaves: their throughput beside it, over what they have without it.

    python benchmarks/abuse.py --check --json docs/benchmarks/abuse-cpu.json

Three well-behaved clients score cells that nobody asked for before, all at once. Phases without and with a misbehaving
client, a process of its own, take turns; each of these is measured:

- slow: takes one message of each of its answers a second;
- deaf: asks on many streams, and never reads;
- connections: opens 1,000 connections that say little or nothing, and opens them again when they are closed;
- huge: sends nothing but genomes just below the limit on multiply-accumulates, as many as the server takes;
- flood: asks about as many cells at a time as a request may have, always new ones, and soon takes it back.

All but `huge` have no name, and are one client, since they come from one host. The limit on multiply-accumulates
is lowered, so that its dearest genome takes seconds and not minutes. Every phase with a misbehaving client is held
against those without, on its own: what happens once must be borne, too. In each phase it is also measured how late the
server's event loop looks at a timer that it has every few milliseconds, and how long it computes in one go.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import grpc

from _report import environment, progress
from archscore import ArchitectureError, AsyncClient, Client
from archscore.spaces import nasbench201
from archscore.v1 import scoring_pb2, scoring_pb2_grpc
from overhead import address_of, process
from references import probed_server

#: Of what others have without the misbehaving client, they keep at least this share.
AT_LEAST = 0.5

GOOD_CLIENTS = 3
CONFIG = {"batchSize": 16, "nasbench201": {"channels": 8, "cellsPerStage": 1}}
HUGE_CONFIG = {"batchSize": 16}
MAX_FLOPS = 400_000_000
CONNECTIONS = 1_000
STREAMS = 50
MOST_IN_REQUEST = 10_000

#: What opens an HTTP/2 connection: the preface and an empty SETTINGS frame.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


def cells(seed: int) -> Iterator[str]:
    """Cells without end."""
    rng = random.Random(seed)
    while True:
        yield nasbench201.sample(rng).format()


# Those who misbehave


def request(encodings: Sequence[str]) -> scoring_pb2.ScoreArchitecturesRequest:
    """Asks about cells in a config that costs next to nothing."""
    return scoring_pb2.ScoreArchitecturesRequest(
        architectures=[scoring_pb2.Architecture(space="nasbench201", encoding=encoding) for encoding in encodings],
        proxies=["l2_norm"],
        config=scoring_pb2.EvaluationConfig(
            batch_size=2, resolution=8, nasbench201=scoring_pb2.NasBench201Config(channels=1, cells_per_stage=1)
        ),
    )


async def ask_and_read(target: str, pause: float | None) -> None:
    """Keeps many streams open, and reads a message of each now and then, or never."""
    encodings = list(itertools.islice(cells(1), 2_000))

    async def one(stub: Any) -> None:
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):
                call = stub.ScoreArchitectures(request(encodings))
                if pause is None:
                    await call.initial_metadata()
                    await asyncio.Event().wait()
                async for _ in call:
                    await asyncio.sleep(pause or 0.0)
            await asyncio.sleep(1)

    async with contextlib.AsyncExitStack() as stack:
        stubs: list[Any] = []
        for number in range(10):
            channel = grpc.aio.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1), ("number", number)])
            stubs.append(scoring_pb2_grpc.ScoringServiceStub(await stack.enter_async_context(channel)))
        await asyncio.gather(*(one(stubs[number % len(stubs)]) for number in range(STREAMS)))


async def slow(target: str) -> None:
    """Takes one message of each of its answers a second."""
    await ask_and_read(target, 1.0)


async def deaf(target: str) -> None:
    """Never reads."""
    await ask_and_read(target, None)


async def connections(target: str) -> None:
    """Holds many connections."""
    host, _, port = target.rpartition(":")

    async def one(number: int) -> None:
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(host, int(port))
                if number % 2:
                    writer.write(_PREFACE)
                while await reader.read(4096):
                    pass
                writer.close()
            await asyncio.sleep(1)

    await asyncio.gather(*(one(number) for number in range(CONNECTIONS)))


def largest_genome(target: str) -> tuple[int, Callable[[int], str]]:
    """The width of the widest genome that the server takes, and genomes of about that size, each once."""

    def genome(width: int, last: int) -> str:
        return (
            f"SuperConvK3BNRELU(3,{width},1,1)SuperResK3K3({width},{width},1,{width},2)"
            f"SuperResK3K3({width},{width},2,{width},2)SuperConvK1BNRELU({width},{last},1,1)"
        )

    low, high = 8, 4_096
    with Client(target) as client:
        while high - low > 1:
            middle = (low + high) // 2
            try:
                client.describe(genome(middle, 512), space="zennas")
                low = middle
            except ArchitectureError:
                high = middle
    return low, lambda number: genome(low, 8 + number % 500)


async def huge(target: str) -> None:
    """Sends genomes near the limit, as fast as they are taken."""
    _, genome = largest_genome(target)
    async with AsyncClient(target, client_id="huge", timeout=3_600) as client:
        for seed in itertools.count():
            genomes = [genome(number) for number in range(500)]
            config = {**HUGE_CONFIG, "seed": seed}
            async for _ in client.score_many(genomes, "tcet", space="zennas", config=config, max_in_flight=8):
                pass


async def flood(target: str) -> None:
    """Asks for much, and takes it back."""
    # There are few cells, and a server knows them all soon. What is new is the seed, which costs next to nothing.
    asked = request(list(itertools.islice(cells(2), MOST_IN_REQUEST)))
    seeds = itertools.count(random.randrange(2**31))

    async def one(stub: Any) -> None:
        while True:
            asked.config.seed = next(seeds)
            call = stub.ScoreArchitectures(asked)
            with contextlib.suppress(grpc.aio.AioRpcError, TimeoutError):
                async with asyncio.timeout(1):
                    async for _ in call:
                        pass
            call.cancel()
            await asyncio.sleep(0.1)

    async with grpc.aio.insecure_channel(target) as channel:
        stub: Any = scoring_pb2_grpc.ScoringServiceStub(channel)
        await asyncio.gather(*(one(stub) for _ in range(5)))


ABUSERS: dict[str, Callable[[str], Coroutine[Any, Any, None]]] = {
    "slow": slow,
    "deaf": deaf,
    "connections": connections,
    "huge": huge,
    "flood": flood,
}


@contextlib.contextmanager
def abuser(name: str, target: str) -> Iterator[None]:
    """Runs a misbehaving client beside."""
    command = [sys.executable, __file__, "--as", name, "--target", target]
    with subprocess.Popen(command) as process:
        try:
            yield
            if process.poll() is not None:
                raise RuntimeError(f"{name} ended by itself, with {process.returncode}")
        finally:
            process.kill()


# Those who behave


async def throughput(target: str, seconds: float, seed: int) -> float:
    """Architectures a second of all well-behaved clients together."""
    counted = 0
    started = time.perf_counter()

    async def one(number: int) -> None:
        nonlocal counted
        async with AsyncClient(target, client_id=f"good-{number}") as client:
            results = client.score_many(
                cells(seed * GOOD_CLIENTS + number), "tcet", config={**CONFIG, "seed": seed}, chunk_size=16
            )
            async for result in results:
                if result.error:
                    raise result.error
                if time.perf_counter() - started > seconds:
                    break
                counted += 1
            await results.aclose()

    await asyncio.gather(*(one(number) for number in range(GOOD_CLIENTS)))
    return counted / seconds


@dataclass
class Phase:
    """What was measured, and when.

    Attributes:
        rate: architectures a second of the well-behaved clients together.
        began: when it began, in seconds of the monotonic clock.
        ended: when it ended.
        late_p99_ms: how late the server's event loop came, 99th percentile.
        late_ms: the same at most.
        held_ms: how long it computed in one go at most.
    """

    rate: float
    began: float
    ended: float
    late_p99_ms: float = 0.0
    late_ms: float = 0.0
    held_ms: float = 0.0

    def look(self, seen: Sequence[tuple[float, float, float]]) -> None:
        """Takes from what was seen of the event loop what belongs here."""
        own = [(late, held) for at, late, held in seen if self.began <= at <= self.ended]
        late = sorted(late for late, _ in own)
        self.late_p99_ms, self.late_ms = late[int(0.99 * len(late))], late[-1]
        self.held_ms = max(held for _, held in own)


def phase(target: str, seconds: float, seed: int) -> Phase:
    """Lets the well-behaved clients work for a while."""
    began = time.monotonic()
    rate = asyncio.run(throughput(target, seconds, seed))
    return Phase(rate, began, time.monotonic())


def measure(name: str, rounds: int, seconds: float, seeds: Iterator[int], workers: int) -> dict[str, list[Phase]]:
    """What is had without and with a misbehaving client, in turns, from one server."""
    found: dict[str, list[Phase]] = {"without": [], "with": []}
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "loop"
        options = ("--device", "cpu", "--port", "0", "--metrics-port", "0", "--log-level", "warning")
        limits = ("--workers", str(workers), "--threads", "1", "--limit-flops", str(MAX_FLOPS))
        with process(probed_server.__file__, str(path), *options, *limits) as server:
            target = address_of(server)
            phase(target, seconds / 2, next(seeds))  # warms up
            for number in range(rounds):
                found["without"].append(phase(target, seconds, next(seeds)))
                with abuser(name, target):
                    time.sleep(seconds / 3)  # until it is in full swing
                    found["with"].append(phase(target, seconds, next(seeds)))
                settle(target)
                newest = ", ".join(f"{kind} {phases[-1].rate:.4g}" for kind, phases in found.items())
                progress(f"{name}, round {number + 1} of {rounds}: {newest}")
        seen = probed_server.read(path)
    for phases in found.values():
        for one in phases:
            one.look(seen)
    return found


def kept(phases: dict[str, list[Phase]]) -> list[float]:
    """The share that others keep, in each phase with a misbehaving client."""
    without = median(one.rate for one in phases["without"])
    return [one.rate / without for one in phases["with"]]


def report(found: dict[str, dict[str, list[Phase]]]) -> str:
    """The figures as a table."""
    lines = [
        "| beside | architectures a second without | with | kept, median | kept, at worst | at least "
        "| loop late, ms: p99 | most | most without | loop held, ms: most | most without |",
        "|---" * 11 + "|",
    ]
    for name, phases in found.items():
        without, beside = phases["without"], phases["with"]
        rates = f"{median(one.rate for one in without):.1f} | {median(one.rate for one in beside):.1f}"
        late = [max(one.late_ms for one in some) for some in (beside, without)]
        held = [max(one.held_ms for one in some) for some in (beside, without)]
        lines.append(
            f"| {name} | {rates} | {median(kept(phases)):.2f} | {min(kept(phases)):.2f} | {AT_LEAST} "
            f"| {max(one.late_p99_ms for one in beside):.0f} | {late[0]:.0f} | {late[1]:.0f} "
            f"| {held[0]:.0f} | {held[1]:.0f} |"
        )
    return "\n".join(lines)


def settle(target: str) -> None:
    """Waits until the server answers a newcomer, who comes after what the misbehaving client left behind."""
    with Client(target, timeout=600) as client:
        client.score(nasbench201.SPACE.example, "l2_norm", config={**CONFIG, "seed": random.randrange(2**31)})


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, reports, and says whether the target is reached."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--seconds", type=float, default=15.0, metavar="S", help="of each phase")
    parser.add_argument("--workers", type=int, default=2, metavar="N")
    parser.add_argument("--only", choices=list(ABUSERS), action="append", help="not all of them")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured there")
    parser.add_argument("--check", action="store_true", help="exit 1 if others lose more than they may")
    parser.add_argument("--as", choices=list(ABUSERS), dest="role", help=argparse.SUPPRESS)
    parser.add_argument("--target", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.role:
        asyncio.run(ABUSERS[options.role](options.target))
        return 0
    seeds = itertools.count(1)
    names = options.only or list(ABUSERS)
    found = {name: measure(name, options.rounds, options.seconds, seeds, options.workers) for name in names}
    print(report(found))
    if options.json:
        written = {
            "environment": environment(),
            "workers": options.workers,
            "kept": {name: kept(phases) for name, phases in found.items()},
            "phases": {
                name: {kind: [asdict(one) for one in some] for kind, some in phases.items()}
                for name, phases in found.items()
            },
        }
        options.json.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    bad = {name: min(kept(phases)) for name, phases in found.items() if min(kept(phases)) < AT_LEAST}
    for name, ratio in bad.items():
        progress(f"missed: beside {name} others keep {ratio:.3f} at worst")
    return int(options.check and bool(bad))


if __name__ == "__main__":
    sys.exit(main())
