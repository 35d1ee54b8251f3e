"""What the store keeps, under which key, for how long, and what it says of it."""

import asyncio
import dataclasses
import math
import sqlite3
import struct
import threading

import pytest

from archscore.spaces import nasbench201, zennas
from archscore_server.engine import EvaluationConfig, Init, Outcome, Precision, Score, proxies
from archscore_server.store import Context, Store
from support.stores import CELLS, CONTEXT, PROXIES, files, ok, scores_of, until


def bits(score):
    return [None if number is None else struct.pack("<d", number) for number in (score.value, score.standard_error)]


async def reopened(opened, path, store, **options):
    await store.close()
    return await opened(path, **options)


@pytest.mark.parametrize("in_file", [True, False])
async def test_what_was_put_is_there_at_once(opened, path, in_file):
    store = await opened(path if in_file else None)
    store.put(CONTEXT, CELLS[1], scores_of(1))
    assert await store.get(CONTEXT, CELLS[:2], PROXIES) == [{}, scores_of(1)]


async def test_only_what_is_asked_for_comes_back(opened):
    store = await opened()
    store.put(CONTEXT, CELLS[0], scores_of(0))
    wanted = {"snip": scores_of(0)["snip"]}
    assert await store.get(CONTEXT, [CELLS[0], CELLS[0]], ["snip", "grasp"]) == [wanted, wanted]


@pytest.mark.parametrize("in_file", [True, False])
async def test_it_is_there_when_memory_has_forgotten_it(opened, path, counts, in_file):
    store = await opened(path if in_file else None, max_in_memory=1, observer=counts)
    for index in range(5):
        store.put(CONTEXT, CELLS[index], scores_of(index))
    assert await store.get(CONTEXT, CELLS[:5], PROXIES) == [scores_of(index) for index in range(5)], "not yet written"
    await until(lambda: counts.written == 15)
    assert len(store._memory) == 1
    assert await store.get(CONTEXT, CELLS[:5], PROXIES) == [scores_of(index) for index in range(5)]


async def test_it_is_there_after_a_restart(opened, path):
    store = await opened(path)
    genome = zennas.parse(zennas.SPACE.example)
    zen_context = dataclasses.replace(CONTEXT, config=EvaluationConfig(network=zennas.NetworkConfig()))
    store.put(CONTEXT, CELLS[7], scores_of(7))
    store.put(zen_context, genome, scores_of(8))
    store = await reopened(opened, path, store)
    assert len(store) == 6
    assert len(store._memory) == 0
    assert await store.get(CONTEXT, [CELLS[7], CELLS[8]], PROXIES) == [scores_of(7), {}]
    assert await store.get(zen_context, [genome], PROXIES) == [scores_of(8)]
    assert len(store._memory) == 2, "read once"


async def test_what_is_added_later_joins_what_was_there(opened, path):
    store = await opened(path)
    store.put(CONTEXT, CELLS[0], {"tcet": ok(1.0)})
    store = await reopened(opened, path, store)
    store.put(CONTEXT, CELLS[0], {"snip": ok(2.0)})
    assert await store.get(CONTEXT, [CELLS[0]], ["tcet", "snip"]) == [{"tcet": ok(1.0), "snip": ok(2.0)}]


async def test_the_last_value_stays(opened, path):
    store = await opened(path)
    store.put(CONTEXT, CELLS[0], {"tcet": ok(1.0)})
    store = await reopened(opened, path, store)
    store.put(CONTEXT, CELLS[0], {"tcet": ok(2.0)})
    assert await store.get(CONTEXT, [CELLS[0]], ["tcet"]) == [{"tcet": ok(2.0)}]
    store = await reopened(opened, path, store)
    assert len(store) == 1
    assert await store.get(CONTEXT, [CELLS[0]], ["tcet"]) == [{"tcet": ok(2.0)}]


@pytest.mark.parametrize(
    "score",
    [
        ok(0.1 + 0.2, 1e-17),
        ok(-0.0, 0.0),
        ok(5e-324, 5e-324),
        ok(-1.7976931348623157e308, 1e308),
        ok(3.0),
        ok(1.0, math.inf),
        Score(Outcome.NON_FINITE),
    ],
)
async def test_numbers_keep_every_bit(opened, path, score):
    store = await opened(path)
    store.put(CONTEXT, CELLS[0], {"tcet": score})
    store = await reopened(opened, path, store)
    [found] = await store.get(CONTEXT, [CELLS[0]], ["tcet"])
    assert found["tcet"] == score
    assert bits(found["tcet"]) == bits(score)


@pytest.mark.parametrize("score", [Score(Outcome.DEGENERATE), ok(math.nan), ok(1.0, math.nan), Score(Outcome.OK)])
async def test_what_has_no_lasting_value_is_not_kept(opened, path, score):
    store = await opened(path)
    store.put(CONTEXT, CELLS[0], {"tcet": score, "snip": ok(1.0)})
    assert await store.get(CONTEXT, [CELLS[0]], ["tcet", "snip"]) == [{"snip": ok(1.0)}]
    store = await reopened(opened, path, store)
    assert await store.get(CONTEXT, [CELLS[0]], ["tcet", "snip"]) == [{"snip": ok(1.0)}]


CONFIGS = [
    EvaluationConfig(dataset="cifar10"),
    EvaluationConfig(dataset_sha256="cd" * 32),
    EvaluationConfig(batch_size=32),
    EvaluationConfig(resolution=16),
    EvaluationConfig(num_classes=100),
    EvaluationConfig(seed=1),
    EvaluationConfig(repeats=2),
    EvaluationConfig(init=Init.PYTORCH),
    EvaluationConfig(precision=Precision.FLOAT64),
    EvaluationConfig(precision=Precision.TF32),
    EvaluationConfig(network=nasbench201.NetworkConfig(channels=8)),
    EvaluationConfig(network=nasbench201.NetworkConfig(cells_per_stage=1)),
]


def test_every_field_of_a_config_is_tried():
    changed = {
        field.name
        for config in CONFIGS
        for field in dataclasses.fields(config)
        if getattr(config, field.name) != getattr(EvaluationConfig(), field.name)
    }
    assert changed == {field.name for field in dataclasses.fields(EvaluationConfig)}


@pytest.mark.parametrize(
    "other",
    [
        *(dataclasses.replace(CONTEXT, config=config) for config in CONFIGS),
        dataclasses.replace(CONTEXT, minibatch_sha256="cd" * 32),
        dataclasses.replace(CONTEXT, device_kind="cuda"),
        dataclasses.replace(CONTEXT, torch_version="2.14.0"),
    ],
)
async def test_what_a_score_depends_on_is_part_of_its_key(opened, path, other):
    store = await opened(path)
    store.put(CONTEXT, CELLS[0], {"tcet": ok(1.0)})
    assert await store.get(other, [CELLS[0]], ["tcet"]) == [{}]
    store.put(other, CELLS[0], {"tcet": ok(2.0)})
    store = await reopened(opened, path, store)
    assert await store.get(CONTEXT, [CELLS[0]], ["tcet"]) == [{"tcet": ok(1.0)}]
    assert await store.get(other, [CELLS[0]], ["tcet"]) == [{"tcet": ok(2.0)}]


@pytest.mark.parametrize("version", ["2.13.0", "2.13.1+cu130", "2.13"])
async def test_a_patch_or_a_build_of_torch_is_no_part_of_the_key(opened, path, version):
    store = await opened(path)
    store.put(CONTEXT, CELLS[0], scores_of(0))
    store = await reopened(opened, path, store)
    same = Context(CONTEXT.config, CONTEXT.minibatch_sha256, "cpu", version)
    assert await store.get(same, [CELLS[0]], PROXIES) == [scores_of(0)]


async def test_another_version_of_a_proxy_has_no_scores(opened, path, monkeypatch):
    store = await opened(path)
    store.put(CONTEXT, CELLS[0], scores_of(0))
    await store.close()

    current = proxies.get("tcet")
    versions = {"tcet": dataclasses.replace(current, version=current.version + 1)}
    get = proxies.get
    monkeypatch.setattr(proxies, "get", lambda name: versions.get(name) or get(name))
    store = await opened(path)
    [found] = await store.get(CONTEXT, [CELLS[0]], PROXIES)
    assert set(found) == set(PROXIES) - {"tcet"}
    store.put(CONTEXT, CELLS[0], {"tcet": ok(9.0)})
    store = await reopened(opened, path, store)
    assert len(store) == 4
    assert (await store.get(CONTEXT, [CELLS[0]], ["tcet"])) == [{"tcet": ok(9.0)}]

    monkeypatch.undo()
    store = await reopened(opened, path, store)
    assert await store.get(CONTEXT, [CELLS[0]], PROXIES) == [scores_of(0)]


async def test_a_proxy_that_is_not_registered_harms_nothing(opened, path):
    store = await opened(path)
    store.put(CONTEXT, CELLS[0], {"nobody": ok(1.0), "tcet": ok(2.0)})
    store = await reopened(opened, path, store)
    assert await store.get(CONTEXT, [CELLS[0]], ["nobody", "tcet"]) == [{"tcet": ok(2.0)}]
    assert not store.degraded


async def test_counts(opened, counts):
    store = await opened(observer=counts)
    assert (counts.states, counts.entries) == ([True], 0)
    store.put(CONTEXT, CELLS[0], scores_of(0))
    await store.get(CONTEXT, CELLS[:2], PROXIES)
    assert (counts.hits, counts.misses) == (3, 3)
    await store.get(CONTEXT, [CELLS[0]], ["tcet", "grasp"])
    assert (counts.hits, counts.misses) == (4, 4)
    await until(lambda: counts.entries == 3)
    assert (counts.written, counts.failures, counts.dropped) == (3, 0, 0)


async def test_ten_thousand_scores_do_not_wait_for_the_timer(opened, counts, monkeypatch):
    monkeypatch.setattr("archscore_server.store._store._FLUSH_SECONDS", 3_600.0)
    store = await opened(observer=counts)
    store.put(CONTEXT, CELLS[0], scores_of(0))
    await asyncio.sleep(0.02)
    assert counts.written == 0
    for index in range(3_333):
        store.put(CONTEXT, CELLS[index], scores_of(index))
    await asyncio.sleep(0.02)
    assert counts.written == 0, "9,999 wait"
    store.put(CONTEXT, CELLS[3_333], scores_of(3_333))
    await until(lambda: counts.written >= 10_000)


async def test_a_hundred_thousand_scores(opened, path):
    names = proxies.names()[:7]
    store = await opened(path)
    for index in range(14_286):
        store.put(CONTEXT, CELLS[index], scores_of(index, names))
        if index % 1_000 == 0:
            await asyncio.sleep(0.01)
    store = await reopened(opened, path, store)
    assert len(store) == 14_286 * 7
    for _ in range(2):
        found = await store.get(CONTEXT, CELLS, names)
        assert found == [scores_of(index, names) if index < 14_286 else {} for index in range(len(CELLS))]


async def test_many_at_once(opened, path):
    """Gets, puts and flushes that cross: nobody ever sees anything but what was put."""
    store = await opened(path, max_in_memory=50)

    async def work(start):
        for index in range(start, 400, 8):
            store.put(CONTEXT, CELLS[index], scores_of(index))
            await asyncio.sleep(0)
            assert await store.get(CONTEXT, [CELLS[index]], PROXIES) == [scores_of(index)]
            for number, found in enumerate(await store.get(CONTEXT, CELLS[:400:10], PROXIES)):
                assert found in ({}, scores_of(number * 10))

    await asyncio.gather(*map(work, range(8)))
    assert await store.get(CONTEXT, CELLS[:400], PROXIES) == [scores_of(index) for index in range(400)]


async def test_a_request_that_is_given_up(opened, path):
    store = await opened(path)
    asking = asyncio.create_task(store.get(CONTEXT, CELLS[:1_000], PROXIES))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    store.put(CONTEXT, CELLS[0], scores_of(0))
    assert await store.get(CONTEXT, [CELLS[0]], PROXIES) == [scores_of(0)]
    assert not store.degraded


class TestSize:
    async def test_the_least_recently_used_go_first(self, opened, path, clock, counts):
        store = await opened(path, max_scores=300, observer=counts)
        for index in range(100):
            clock.now += 1
            store.put(CONTEXT, CELLS[index], scores_of(index))
            if index % 10 == 9:
                await until(lambda index=index: counts.written == 3 * (index + 1))
        clock.now += 2 * 3_600
        await store.get(CONTEXT, CELLS[:10], PROXIES)
        store.put(CONTEXT, CELLS[100], scores_of(100))
        await until(lambda: counts.entries == 285)
        store = await reopened(opened, path, store)
        found = await store.get(CONTEXT, CELLS[:101], PROXIES)
        assert found[:10] == [scores_of(index) for index in range(10)], "used lately"
        assert sum(map(len, found[10:20])) == 3 * 10 - 18, "the first of the others are gone"
        assert found[20:] == [scores_of(index) for index in range(20, 101)]

    async def test_nothing_is_left_of_what_nobody_refers_to(self, opened, path, clock, counts):
        store = await opened(path, max_scores=3, observer=counts)
        for seed in range(5):
            clock.now += 1
            context = dataclasses.replace(CONTEXT, config=EvaluationConfig(seed=seed))
            store.put(context, CELLS[seed], scores_of(seed))
            await until(lambda seed=seed: counts.written == 3 * (seed + 1))
        await store.close()
        store = await opened(path, max_scores=3, observer=counts)
        store.put(CONTEXT, CELLS[9], scores_of(9))
        clock.now += 1
        await until(lambda: counts.entries == 2)
        with sqlite3.connect(path) as connection:
            assert connection.execute("SELECT count(*) FROM architectures").fetchone() == (1,)
            assert connection.execute("SELECT count(*), sum(scores) FROM contexts").fetchone() == (1, 2)
        connection.close()

    async def test_reading_writes_at_most_once_an_hour(self, opened, path, clock, counts):
        def used():
            connection = sqlite3.connect(path)
            try:
                return {row[0] for row in connection.execute("SELECT used FROM scores")}
            finally:
                connection.close()

        store = await opened(path, observer=counts)
        put_at = int(clock.now)
        store.put(CONTEXT, CELLS[0], scores_of(0))
        await until(lambda: counts.written == 3)
        clock.now += 3_000
        await store.get(CONTEXT, [CELLS[0]], PROXIES)
        store = await reopened(opened, path, store)
        await store.get(CONTEXT, [CELLS[0]], PROXIES)
        store = await reopened(opened, path, store, observer=counts)
        assert used() == {put_at}
        clock.now += 1_000
        await store.get(CONTEXT, [CELLS[0]], PROXIES)
        await until(lambda: used() == {put_at + 4_000})
        clock.now += 4_000
        await store.get(CONTEXT, [CELLS[0]], PROXIES)
        await until(lambda: used() == {put_at + 8_000})


class TestTwoServers:
    async def test_each_sees_what_the_other_wrote(self, opened, path, counts):
        first, second = await opened(path, observer=counts), await opened(path, observer=counts)
        assert await second.get(CONTEXT, CELLS[:2], PROXIES) == [{}, {}]
        first.put(CONTEXT, CELLS[0], scores_of(0))
        second.put(CONTEXT, CELLS[1], scores_of(1))
        await until(lambda: counts.written == 6)
        assert await first.get(CONTEXT, CELLS[:2], PROXIES) == [scores_of(0), scores_of(1)]
        assert await second.get(CONTEXT, CELLS[:2], PROXIES) == [scores_of(0), scores_of(1)]

    async def test_they_count_together(self, opened, path):
        first, second = await opened(path), await opened(path)
        for index in range(200):
            first.put(CONTEXT, CELLS[index], scores_of(index))
            second.put(CONTEXT, CELLS[index + 100], scores_of(index + 100))
        await asyncio.gather(first.close(), second.close())
        assert len(await opened(path)) == 900

    async def test_both_make_the_file(self, opened, path):
        stores = await asyncio.gather(*(opened(path) for _ in range(8)))
        assert not any(store.degraded for store in stores)


class TestClosing:
    async def test_nothing_is_left(self, path):
        for _ in range(2):
            threads, descriptors = threading.active_count(), files("/proc/self/fd")
            tasks = asyncio.all_tasks()
            store = Store(path)
            await store.open()
            store.put(CONTEXT, CELLS[0], scores_of(0))
            await store.get(CONTEXT, CELLS[:9], PROXIES)
            await store.close()
            assert threading.active_count() == threads
            assert files("/proc/self/fd") == descriptors
            assert asyncio.all_tasks() == tasks
            assert files(path.parent) == [path.name]

    async def test_afterwards_memory_answers(self, opened, path):
        store = await opened(path)
        store.put(CONTEXT, CELLS[0], scores_of(0))
        await store.close()
        await store.close()
        store.put(CONTEXT, CELLS[1], scores_of(1))
        assert await store.get(CONTEXT, CELLS[:3], PROXIES) == [scores_of(0), scores_of(1), {}]
        assert len(await opened(path)) == 3

    async def test_before_it_is_open_puts_wait(self, path, clock):
        store = Store(path, clock=clock)
        store.put(CONTEXT, CELLS[0], scores_of(0))
        assert await store.get(CONTEXT, CELLS[:2], PROXIES) == [scores_of(0), {}]
        await store.open()
        await store.close()
        assert len(store) == 3

    async def test_without_having_been_opened(self, path):
        await Store(path).close()
        assert not path.exists()
