"""What the service costs beside the work: three ratios, each the median over rounds in which its two sides take turns.

    python benchmarks/overhead.py --check --json docs/benchmarks/overhead-cpu.json

- stored: results a second through `Client.score_many` when all are in the store, over those of a grpc.aio stream that
  sends equal messages and does nothing.
- unary: 99th percentile of a stored ScoreArchitecture at 8 callers, over that of an empty grpc.aio echo.
- computed: architectures a second through the service, over those of the engine called directly in as many processes.

Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import grpc

from _report import environment, progress
from archscore import Client, Result
from archscore.spaces import nasbench201
from archscore.v1 import scoring_pb2, scoring_pb2_grpc
from references import bare_server

#: Least, or most, that --check allows.
STORED_AT_LEAST, UNARY_AT_MOST, COMPUTED_AT_LEAST = 0.5, 2.0, 0.95

PROXIES = ("tcet",)
CHEAP = {"batchSize": 2, "resolution": 8, "nasbench201": {"channels": 1, "cellsPerStage": 1}}
CALLERS = 8
#: Of `Client.score_many`.
CHUNK, IN_FLIGHT = 64, 4


@dataclass(frozen=True, slots=True)
class Process:
    """A server that runs.

    Attributes:
        line: the first that it printed.
        pid: of its process.
    """

    line: str
    pid: int


@contextlib.contextmanager
def process(*command: str) -> Iterator[Process]:
    """Runs a server."""
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True) as running:
        try:
            if running.stdout is None:
                raise RuntimeError("no pipe")
            line = running.stdout.readline().strip()
            if not line:
                raise RuntimeError(f"{command[0]} did not start")
            yield Process(line, running.pid)
        finally:
            running.send_signal(signal.SIGINT)
            running.wait(timeout=60)


@contextlib.contextmanager
def archscore_server(*options: str) -> Iterator[str]:
    """Runs archscore; yields its address."""
    with archscore_process(*options) as server:
        yield address_of(server)


def archscore_process(*options: str) -> contextlib.AbstractContextManager[Process]:
    """Runs archscore."""
    fixed = ("--device", "cpu", "--port", "0", "--metrics-port", "0", "--log-level", "warning")
    return process("-m", "archscore_server", *fixed, *options)


def address_of(server: Process) -> str:
    """Where archscore listens."""
    return server.line.split()[3]


def cells(count: int, seed: int) -> list[str]:
    """Random connected cells, each once."""
    rng = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        cell = nasbench201.sample(rng)
        if cell.connected:
            found[cell.format()] = None
    return list(found)


def requests(encodings: Sequence[str]) -> list[scoring_pb2.ScoreArchitecturesRequest]:
    """What score_many sends."""
    with Client("localhost:1") as client:
        config = client._score_request(encodings[0], PROXIES, "nasbench201", CHEAP, None).config
    return [
        scoring_pb2.ScoreArchitecturesRequest(
            architectures=[
                scoring_pb2.Architecture(space="nasbench201", encoding=encoding)
                for encoding in encodings[start : start + CHUNK]
            ],
            proxies=PROXIES,
            config=config,
        )
        for start in range(0, len(encodings), CHUNK)
    ]


def stored_rate(address: str, encodings: Sequence[str]) -> float:
    """Results a second through score_many."""
    with Client(address) as client:

        def ask(cells: Sequence[str]) -> Iterator[Result]:
            return client.score_many(
                cells, PROXIES, space="nasbench201", config=CHEAP, chunk_size=CHUNK, max_in_flight=IN_FLIGHT
            )

        distinct = list(dict.fromkeys(encodings))
        if not all(result.evaluation and result.evaluation.scores["tcet"].stored for result in ask(distinct)):
            raise RuntimeError("not everything is stored")
        started = time.perf_counter()
        scored = sum(result.error is None for result in ask(encodings))
        return scored / (time.perf_counter() - started)


async def bare_rate(address: str, sent: Sequence[scoring_pb2.ScoreArchitecturesRequest]) -> float:
    """Results a second through streams that do nothing, as many at a time as score_many has."""
    async with grpc.aio.insecure_channel(address) as channel:
        stream = channel.unary_stream(
            "/bare/Stream",
            request_serializer=scoring_pb2.ScoreArchitecturesRequest.SerializeToString,
            response_deserializer=scoring_pb2.ScoreArchitecturesResponse.FromString,
        )
        left = iter(sent)

        async def work() -> int:
            count = 0
            for request in left:
                async for response in stream(request):
                    count += len(response.results)
            return count

        async for _ in stream(sent[0]):
            pass
        started = time.perf_counter()
        counts = await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
        return sum(counts) / (time.perf_counter() - started)


async def latencies(call: Callable[[], Awaitable[object]], calls: int) -> list[float]:
    """Seconds of each call, with CALLERS at a time."""
    found: list[float] = []

    async def caller() -> None:
        for _ in range(calls // CALLERS):
            started = time.perf_counter()
            await call()
            found.append(time.perf_counter() - started)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return found


def p99(values: Sequence[float]) -> float:
    """The 99th percentile."""
    return sorted(values)[int(0.99 * len(values))]


async def unary_p99(address: str, encoding: str, calls: int) -> float:
    """Of stored unary calls."""
    request = scoring_pb2.ScoreArchitectureRequest(
        architecture=scoring_pb2.Architecture(space="nasbench201", encoding=encoding),
        proxies=PROXIES,
        config=requests([encoding])[0].config,
    )
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = scoring_pb2_grpc.ScoringServiceStub(channel)
        await latencies(lambda: stub.ScoreArchitecture(request), 10 * CALLERS)
        return p99(await latencies(lambda: stub.ScoreArchitecture(request), calls))


async def echo_p99(address: str, calls: int) -> float:
    """Of empty echoes."""
    async with grpc.aio.insecure_channel(address) as channel:
        echo: Any = channel.unary_unary("/bare/Echo")
        await latencies(lambda: echo(b""), 10 * CALLERS)
        return p99(await latencies(lambda: echo(b""), calls))


async def capture(address: str, sent: Sequence[scoring_pb2.ScoreArchitecturesRequest]) -> list[bytes]:
    """The messages that a request is answered with."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = scoring_pb2_grpc.ScoringServiceStub(channel)
        return [response.SerializeToString() async for response in stub.ScoreArchitectures(sent[0])]


def overhead(distinct: int, repetitions: int, rounds: int, calls: int) -> dict[str, Any]:
    """The two ratios about stored scores."""
    encodings = cells(distinct, 0)
    with archscore_server("--workers", "2") as address, tempfile.TemporaryDirectory() as folder:
        with Client(address) as client:
            for result in client.score_many(encodings, PROXIES, space="nasbench201", config=CHEAP):
                if result.error:
                    raise result.error
        sent = requests(encodings)
        file = Path(folder) / "responses"
        bare_server.write_messages(file, asyncio.run(capture(address, sent)))
        with process(str(Path(bare_server.__file__)), str(file)) as server:
            bare = f"127.0.0.1:{server.line}"
            found: dict[str, list[float]] = {"stored": [], "bare": [], "unary": [], "echo": []}
            for number in range(rounds):
                found["stored"].append(stored_rate(address, encodings * repetitions))
                found["bare"].append(asyncio.run(bare_rate(bare, sent * repetitions)))
                found["unary"].append(asyncio.run(unary_p99(address, encodings[0], calls)))
                found["echo"].append(asyncio.run(echo_p99(bare, calls)))
                progress(f"round {number + 1} of {rounds}: " + ", ".join(f"{k} {v[-1]:.5g}" for k, v in found.items()))
    return found


def _warm(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    _evaluate([nasbench201.SPACE.example], 0)


def _evaluate(encodings: Sequence[str], seed: int) -> None:
    from archscore_server.engine import EvaluationConfig, evaluate

    evaluate([nasbench201.parse(encoding) for encoding in encodings], PROXIES, EvaluationConfig(seed=seed))


def computed(count: int, rounds: int, workers: int) -> dict[str, list[float]]:
    """Architectures a second with the default config, through the service and without."""
    found: dict[str, list[float]] = {"service": [], "engine": []}
    with (
        ProcessPoolExecutor(workers, get_context("spawn"), _warm, (1,)) as pool,
        archscore_server("--workers", str(workers), "--threads", "1") as address,
        Client(address) as client,
    ):
        for seed in range(rounds + 1):  # the first warms up
            encodings = cells(count if seed else 2 * workers, seed)
            # Both sides draw the weights of a seed themselves, in its first evaluations.
            started = time.perf_counter()
            for result in client.score_many(encodings, PROXIES, space="nasbench201", config={"seed": seed}):
                if result.error:
                    raise result.error
            between = time.perf_counter()
            list(pool.map(_evaluate, [[encoding] for encoding in encodings], [seed] * len(encodings)))
            ended = time.perf_counter()
            if seed:
                found["service"].append(count / (between - started))
                found["engine"].append(count / (ended - between))
                progress(f"computed, round {seed}: " + ", ".join(f"{k} {v[-1]:.4g}" for k, v in found.items()))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, reports, and says whether the targets are reached."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--calls", type=int, default=8_000, metavar="N", help="unary calls a round")
    parser.add_argument("--cells", type=int, default=40, metavar="N", help="computed a round")
    parser.add_argument("--workers", type=int, default=2, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured there")
    parser.add_argument("--check", action="store_true", help="exit 1 if a ratio misses its target")
    options = parser.parse_args(argv)
    found: dict[str, Any] = overhead(640, 40, options.rounds, options.calls)
    found |= computed(options.cells, options.rounds, options.workers)
    typical = {name: median(values) for name, values in found.items()}
    # Within each round, since the speed of a machine changes from one to the next.
    ratios = {
        name: median(ours / others for ours, others in zip(found[own], found[other], strict=True))
        for name, own, other in (
            ("stored", "stored", "bare"),
            ("unary", "unary", "echo"),
            ("computed", "service", "engine"),
        )
    }
    good = {
        "stored": ratios["stored"] >= STORED_AT_LEAST,
        "unary": ratios["unary"] <= UNARY_AT_MOST,
        "computed": ratios["computed"] >= COMPUTED_AT_LEAST,
    }
    print("| | service | beside it | ratio | target |\n|---|---|---|---|---|")
    print(
        f"| stored, results a second | {typical['stored']:,.0f} | {typical['bare']:,.0f} | {ratios['stored']:.2f} "
        f"| at least {STORED_AT_LEAST} |"
    )
    print(
        f"| unary, p99 in ms | {1e3 * typical['unary']:.2f} | {1e3 * typical['echo']:.2f} | {ratios['unary']:.2f} "
        f"| at most {UNARY_AT_MOST} |"
    )
    print(
        f"| computed, architectures a second | {typical['service']:.2f} | {typical['engine']:.2f} "
        f"| {ratios['computed']:.2f} | at least {COMPUTED_AT_LEAST} |"
    )
    if options.json:
        report = {"environment": environment(), "workers": options.workers, "ratios": ratios, "rounds": found}
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for name in (name for name, reached in good.items() if not reached):
        progress(f"missed: {name} is {ratios[name]:.3f}")
    return int(options.check and not all(good.values()))


if __name__ == "__main__":
    sys.exit(main())
