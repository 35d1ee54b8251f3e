from __future__ import annotations

import asyncio

import pytest

from archscore_server.pool._watch import Patience, Timeouts, watched
from puppets import Clock, settle


def watcher(patience: Patience) -> asyncio.Task[None]:
    """Waits until patience is over, at a look a second, and ends with TimeoutError."""

    def is_overdue(seconds: float) -> bool:
        patience.tick(seconds)
        return patience.over

    async def wait() -> None:
        async with watched(1.0, is_overdue):
            await asyncio.Event().wait()

    return asyncio.create_task(wait())


async def test_what_takes_too_long_is_interrupted() -> None:
    clock = Clock()
    task = watcher(Patience(3.0))
    await settle()
    for _ in range(2):
        await clock.advance(1.0)
        assert not task.done()
    await clock.advance(1.0)
    with pytest.raises(TimeoutError):
        await task


async def test_each_sign_of_life_starts_anew() -> None:
    clock = Clock()
    patience = Patience(3.0)
    task = watcher(patience)
    await settle()
    for _ in range(10):
        await clock.advance(1.0)
        await clock.advance(1.0)
        patience.restart(3.0)
    assert not task.done()
    for _ in range(3):
        await clock.advance(1.0)
    with pytest.raises(TimeoutError):
        await task


async def test_time_in_which_the_front_end_was_stopped_does_not_count() -> None:
    clock = Clock()
    patience = Patience(3.0)
    task = watcher(patience)
    await settle()
    await clock.advance(1.0)
    await clock.advance(3600.0)
    assert not task.done(), "an hour is one tick"
    patience.restart(3.0)
    for _ in range(2):
        await clock.advance(60.0)
    assert not task.done(), "and so is each minute of a front end that is starved"
    await clock.advance(60.0)
    with pytest.raises(TimeoutError):
        await task


async def test_what_ends_in_time_leaves_no_timer() -> None:
    clock = Clock()
    asked = []

    def is_overdue(seconds: float) -> bool:
        asked.append(seconds)
        return False

    async with watched(0.5, is_overdue):
        await clock.advance(0.5)
    await clock.advance(5.0)
    assert asked == [0.5]


async def test_to_be_cancelled_is_not_to_be_overdue() -> None:
    task = watcher(Patience(3.0))
    await settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(("heartbeat", "batch", "tick"), [(30.0, 60.0, 1.0), (2.0, 60.0, 0.2), (30.0, 1.0, 0.1)])
def test_ticks_are_short_beside_the_timeouts(heartbeat: float, batch: float, tick: float) -> None:
    assert Timeouts(heartbeat, batch).tick == pytest.approx(tick)


def test_a_start_may_be_silent_for_longer() -> None:
    assert Timeouts(30.0, 60.0).start_silence > 30.0
    assert Timeouts(0.5, 60.0).start_silence >= 10.0
