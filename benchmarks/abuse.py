"""What others lose to a client that misbehaves: their throughput beside it, over what they have without it.

    python benchmarks/abuse.py --check --json docs/benchmarks/abuse-cpu.json

Three well-behaved clients score cells that nobody asked for before, all at once. Phases without and with a misbehaving
client, a process of its own, take turns; each of these is measured:

- slow: takes one message of each of its answers a second;
- deaf: asks on many streams, and never reads;
- connections: opens 1,000 connections that say little or nothing, and opens them again when they are closed;
- huge: sends nothing but genomes just below the limit on multiply-accumulates, as many as the server takes.

`slow` and `deaf` have ten connections without a name, and so ten turns: with a token they would have one.
The server's limit on multiply-accumulates is lowered, so that its dearest genome takes seconds and not minutes.
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
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import grpc

from _report import environment, progress
from archscore import ArchitectureError, AsyncClient, Client
from archscore.spaces import nasbench201
from archscore.v1 import scoring_pb2, scoring_pb2_grpc
from overhead import archscore_server

#: Of what others have without the misbehaving client, they keep at least this share.
AT_LEAST = 0.5

GOOD_CLIENTS = 3
CONFIG = {"batchSize": 16, "nasbench201": {"channels": 8, "cellsPerStage": 1}}
HUGE_CONFIG = {"batchSize": 16}
MAX_FLOPS = 400_000_000
CONNECTIONS = 1_000
STREAMS = 50

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


ABUSERS: dict[str, Callable[[str], Coroutine[Any, Any, None]]] = {
    "slow": slow,
    "deaf": deaf,
    "connections": connections,
    "huge": huge,
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


def measure(name: str, rounds: int, seconds: float, seeds: Iterator[int], workers: int) -> dict[str, list[float]]:
    """Throughput without and with a misbehaving client, in turns, against one server."""
    found: dict[str, list[float]] = {"without": [], "with": []}
    options = ("--workers", str(workers), "--threads", "1", "--limit-flops", str(MAX_FLOPS))
    with archscore_server(*options) as target:
        asyncio.run(throughput(target, seconds / 2, next(seeds)))  # warms up
        for number in range(rounds):
            found["without"].append(asyncio.run(throughput(target, seconds, next(seeds))))
            with abuser(name, target):
                time.sleep(seconds / 3)  # until it is in full swing
                found["with"].append(asyncio.run(throughput(target, seconds, next(seeds))))
            settle(target)
            newest = ", ".join(f"{phase} {rates[-1]:.4g}" for phase, rates in found.items())
            progress(f"{name}, round {number + 1} of {rounds}: {newest}")
    return found


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
    print("| beside | architectures a second without | with | kept | at least |\n|---|---|---|---|---|")
    ratios = {}
    for name, phases in found.items():
        ratios[name] = median(phases["with"]) / median(phases["without"])
        print(
            f"| {name} | {median(phases['without']):.1f} | {median(phases['with']):.1f} | {ratios[name]:.2f} "
            f"| {AT_LEAST} |"
        )
    if options.json:
        report = {"environment": environment(), "workers": options.workers, "ratios": ratios, "rounds": found}
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    bad = [name for name, ratio in ratios.items() if ratio < AT_LEAST]
    for name in bad:
        progress(f"missed: beside {name} others keep {ratios[name]:.3f}")
    return int(options.check and bool(bad))


if __name__ == "__main__":
    sys.exit(main())
