"""What requests leave behind is given back once nothing happens, and not before."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator

import pytest

from archscore.spaces import nasbench201
from archscore_server import glibc, idle_memory
from support.process import resident_bytes
from support.serving import TIMEOUT, Serving, eventually, one, serving

CELL = nasbench201.from_index(81).format()
MIB = 2**20


class Cycle:
    """Nothing finds it but a collection."""

    def __init__(self) -> None:
        self.itself = self
        self.held = bytearray(b"x" * 65536)


@pytest.fixture
async def served(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Serving]:
    monkeypatch.setattr(idle_memory, "_QUIET_SECONDS", 0.1)
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(700, 10, 1_000)  # as `run` has it
    async with serving() as running:
        yield running
    gc.set_threshold(*before)
    gc.unfreeze()


def leave_behind() -> list[Cycle]:
    """Some 100 MiB of garbage that is not young, behind something that is not garbage."""
    cycles = [Cycle() for _ in range(1600)]
    gc.collect()
    return cycles[-1:]


@pytest.mark.skipif(glibc.library() is None, reason="the C library is not glibc")
async def test_is_given_back_when_nothing_is_in_progress(served: Serving) -> None:
    served.pool.gate.clear()
    asking = served.stub.ScoreArchitecture(one(CELL), timeout=TIMEOUT)
    await eventually(lambda: len(served.pool.batches) == 1)
    kept = leave_behind()
    full = resident_bytes(os.getpid())
    await asyncio.sleep(0.5)
    assert resident_bytes(os.getpid()) > full - 10 * MIB, "something is in progress"
    served.pool.gate.set()
    await asking
    await eventually(lambda: resident_bytes(os.getpid()) < full - 80 * MIB)
    kept += leave_behind()
    full = resident_bytes(os.getpid())
    await eventually(lambda: resident_bytes(os.getpid()) < full - 80 * MIB)
    assert len(kept) == 2


@pytest.mark.skipif(glibc.library() is None, reason="the C library is not glibc")
async def test_waits_until_nothing_has_happened_for_a_moment(served: Serving) -> None:
    kept = leave_behind()
    full = resident_bytes(os.getpid())
    for _ in range(30):
        kept += [Cycle() for _ in range(10)]
        made = [[] for _ in range(2_000)]  # type: ignore[var-annotated]
        await asyncio.sleep(0.02)
        assert len(made) == 2_000
    assert resident_bytes(os.getpid()) > full - 10 * MIB, "objects are made"
    await eventually(lambda: resident_bytes(os.getpid()) < full - 60 * MIB)
