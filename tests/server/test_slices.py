"""Computations on the event loop end when they are told to, and clients take turns."""

import asyncio

import pytest

from archscore_server.slices import _SECONDS, Slices


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Computations:
    """Computations that are told to end after each step, and the order in which their steps were done."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.slices = Slices(self.clock)
        self.steps: list[str] = []

    async def run(self, client: str, steps: int, seconds: float = _SECONDS) -> None:
        await self.slices.turn(client)
        for _ in range(steps):
            self.steps.append(client)
            self.clock.now += seconds
            if self.slices.over:
                await self.slices.turn(client)


@pytest.fixture
async def computations() -> Computations:
    return Computations()


async def ticks(count: int) -> None:
    """Lets so many iterations of the event loop pass."""
    for _ in range(count):
        await asyncio.sleep(0)


async def counted(computation: asyncio.Task[None]) -> int:
    """Iterations of the event loop until a computation is done."""
    count = 0
    while not computation.done():
        await asyncio.sleep(0)
        count += 1
    return count


async def test_who_is_alone_and_soon_done_does_not_wait(computations: Computations) -> None:
    assert await counted(asyncio.create_task(computations.run("a", 10, _SECONDS / 20))) == 1


async def test_others_have_the_loop_after_each_slice(computations: Computations) -> None:
    """A computation of a hundred slices takes at least as many iterations."""
    assert await counted(asyncio.create_task(computations.run("a", 100))) >= 100


async def test_slices_of_an_iteration_share_its_time(computations: Computations) -> None:
    async with asyncio.TaskGroup() as group:
        for client in "abcdef":
            group.create_task(computations.run(client, 1, 0.6 * _SECONDS))
        await ticks(1)
        assert computations.steps == ["a", "b"]
    assert sorted(computations.steps) == list("abcdef")


async def test_clients_take_turns_however_much_each_has_to_do(computations: Computations) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(50):
            group.create_task(computations.run("many", 10))
        await ticks(3)
        group.create_task(computations.run("one", 10))
    begun = computations.steps.index("one")
    last = len(computations.steps) - computations.steps[::-1].index("one")
    assert last - begun <= 22


async def test_who_leaves_while_it_waits_keeps_nobody_waiting(computations: Computations) -> None:
    running = asyncio.create_task(computations.run("a", 3))
    waiting = [asyncio.create_task(computations.run(client, 1)) for client in ("b", "b", "c")]
    await ticks(1)
    waiting[0].cancel()
    waiting[2].cancel()
    async with asyncio.timeout(10):
        await asyncio.wait([running, *waiting])
    assert sorted(computations.steps) == ["a", "a", "a", "b"]


async def test_nothing_is_kept_of_clients(computations: Computations) -> None:
    async with asyncio.TaskGroup() as group:
        for number in range(100):
            group.create_task(computations.run(str(number), 2))
    await ticks(2)
    assert not computations.slices._waiting
    assert not computations.slices.over
