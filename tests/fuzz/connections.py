"""Ill-treats the port of a running server on many connections at a time, while others ask it properly."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from typing import Final

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from archscore.v1 import scoring_pb2, scoring_pb2_grpc
from fuzz.attacks import ATTACKS, CELL, SMALL
from fuzz.http2 import Connection
from fuzz.tally import Tally

TARGET: Final = "connections"

#: Connections that are ill-treated at a time.
ATTACKERS: Final = 24

#: Seconds that an attack takes at most.
_LONGEST: Final = 120.0

#: Seconds in which those who ask properly are answered: a guard against hanging, and nothing about speed.
_PATIENCE: Final = 60.0


async def run(
    address: str,
    seed: int,
    first: int,
    inputs: int,
    *,
    last: float = float("inf"),
    progress: Callable[[Tally], None] = lambda _: None,
) -> Tally:
    """Makes connections from number `first` on.

    Args:
        address: HOST:PORT of the server.
        seed: with the number, says what is done with a connection.
        first: number of the first.
        inputs: how many.
        last: by `time.monotonic`, when no more are begun.
        progress: told now and then.
    """
    tally, started = Tally(TARGET), time.monotonic()
    numbers = iter(range(first, first + inputs))
    proper = asyncio.create_task(_ask_properly(address, tally))
    try:
        async with asyncio.TaskGroup() as attackers:
            for _ in range(ATTACKERS):
                attackers.create_task(_attack_all(address, seed, numbers, tally, last, progress))
    finally:
        proper.cancel()
        await asyncio.gather(proper, return_exceptions=True)
    tally.seconds = time.monotonic() - started
    return tally


async def _attack_all(
    address: str, seed: int, numbers: Iterator[int], tally: Tally, last: float, progress: Callable[[Tally], None]
) -> None:
    names = tuple(ATTACKS)
    for number in numbers:
        if time.monotonic() > last:
            return
        name = names[number % len(names)]
        outcome, problem = await attack(address, name, random.Random(f"{seed} connection {number}"))
        if problem:
            tally.violation(f"input {number} ({name}): {problem}")
        tally.count(name, f"{name}: {outcome}")
        progress(tally)


async def attack(address: str, name: str, rng: random.Random) -> tuple[str, str | None]:
    """Ill-treats one connection; returns what the server said, and what was wrong with that, if anything."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    peer, what = Connection(reader, writer), ATTACKS[name]
    ended = True
    try:
        async with asyncio.timeout(_LONGEST):
            await what.run(peer, rng)
    except TimeoutError:
        ended = False
    except OSError:
        peer.closed = True
    await peer.end(abort=rng.random() < 0.5)
    wrong = sorted(set(peer.statuses) - what.statuses)
    if not ended:
        return peer.outcome, f"no end within {_LONGEST:.0f} s"
    if wrong:
        return peer.outcome, f"answered {peer.outcome}"
    if what.answered and set(peer.statuses) != {what.answered}:
        return peer.outcome, f"answered {peer.outcome}, not {what.answered}"
    return peer.outcome, None


async def _ask_properly(address: str, tally: Tally) -> None:
    """Asks what can be answered, on one connection that stays and on new ones, until it is cancelled."""
    tally.notes["proper calls"] = calls = 0
    async with grpc.aio.insecure_channel(address) as steady:
        while True:
            try:
                await _ask(steady)
                async with grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as fresh:
                    await _ask(fresh)
            except grpc.aio.AioRpcError as error:
                tally.violation(f"one who asked properly was told {error.code().name}: {error.details()}")
            except AssertionError as error:
                tally.violation(f"one who asked properly was told: {error}")
            calls += 6
            tally.notes["proper calls"] = calls


async def _ask(channel: grpc.aio.Channel) -> None:
    """Three right calls."""
    service = scoring_pb2_grpc.ScoringServiceStub(channel)
    asked = scoring_pb2.DescribeArchitectureRequest(architecture=CELL, config=SMALL)
    described = await service.DescribeArchitecture(asked, timeout=_PATIENCE)
    assert described.connected, described
    request = scoring_pb2.ScoreArchitectureRequest(architecture=CELL, proxies=["snip"], config=SMALL)
    scored = await service.ScoreArchitecture(request, timeout=_PATIENCE)
    assert scored.evaluation.scores[0].outcome == scoring_pb2.OUTCOME_OK, scored
    health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=_PATIENCE)
    assert health.status == health.SERVING, health
