"""What is particular to the asynchronous client."""

from __future__ import annotations

import asyncio
import itertools
import threading

import pytest

import puppet_server
from archscore import AsyncClient, UsageError
from puppet_server import QUEUE_FULL, Fault, score_of


def readers():
    return [task for task in asyncio.all_tasks() if task.get_name() == "archscore-reader"]


async def eventually(condition):
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 -- the condition is about another thread
            await asyncio.sleep(0.01)


async def test_breaking_out_of_the_loop_leaves_no_tasks(target, puppet):
    puppet.script.append(Fault(None, after=2, hangs=True))
    async with AsyncClient(target) as client:
        async for result in client.score_many(map(str, itertools.count()), ["tcet"], chunk_size=4):
            assert result["tcet"] == score_of("0", "tcet")
            break
        await eventually(lambda: not readers())
        await eventually(puppet.abandoned.is_set)


async def test_cancelling_the_consumer_leaves_no_tasks(target, puppet):
    puppet.script.append(Fault(None, after=1, hangs=True))
    async with AsyncClient(target) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                _ = [result async for result in client.score_many(["a", "b"], ["tcet"])]
        await eventually(lambda: not readers())
        await eventually(puppet.abandoned.is_set)


async def test_cancelling_the_consumer_ends_the_wait_for_a_full_queue(target, puppet):
    puppet.script.extend([Fault(QUEUE_FULL)] * 100)
    async with AsyncClient(target) as client:

        async def consume():
            return [result async for result in client.score_many(["a", "b"], ["tcet"], chunk_size=1)]

        consumer = asyncio.create_task(consume())
        await eventually(lambda: len(puppet.requests) == 2)
        consumer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(consumer, 20)
        await eventually(lambda: not readers())


async def test_cancelling_a_single_score(target, puppet):
    async with AsyncClient(target) as client:
        task = asyncio.create_task(client.score("x", ["tcet"]))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await client.score("x", ["tcet"])


async def test_many_at_the_same_time(target):
    async def work(client, worker):
        names = [f"{worker}.{number}" for number in range(50)]
        results = [result async for result in client.score_many(names, ["tcet"], chunk_size=7)]
        return [result["tcet"] for result in results] == [score_of(name, "tcet") for name in names]

    async with AsyncClient(target) as client:
        assert all(await asyncio.gather(*(work(client, worker) for worker in range(8))))


def test_a_client_may_be_made_without_a_loop(target):
    client = AsyncClient(target)

    async def use():
        async with client:
            return await client.server_info()

    assert asyncio.run(use())


async def test_a_client_that_was_never_used_can_be_closed():
    await AsyncClient("localhost:1").close()


async def test_closing_the_client_ends_what_is_in_flight(target, puppet):
    puppet.script.append(Fault(None, after=1, hangs=True))
    client = AsyncClient(target)
    results = client.score_many(["a", "b"], ["tcet"])
    await anext(results)
    await client.close()
    with pytest.raises(UsageError, match="the client is closed"):
        await asyncio.wait_for(anext(results), 10)
    assert not readers()


async def test_closing_the_client_ends_a_single_call(target, puppet):
    started, release = threading.Event(), threading.Event()
    puppet.ScoreArchitecture = lambda request, context: started.set() or release.wait(10)
    with puppet_server.serve(puppet) as other:
        client = AsyncClient(other)
        call = asyncio.create_task(client.score("x", ["tcet"]))
        await asyncio.to_thread(started.wait, 10)
        await client.close()
        with pytest.raises(UsageError, match="the client is closed"):
            await call
        release.set()
