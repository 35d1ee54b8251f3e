"""What becomes of work that is refused, given up, late or overtaken by the end of the server."""

import asyncio
from itertools import pairwise

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2

from archscore.spaces import nasbench201
from archscore.v1 import scoring_pb2_grpc
from archscore_server import slices
from archscore_server.config import Limits
from archscore_server.engine.proxies import names as proxy_names
from support.serving import (
    TIMEOUT,
    details,
    eventually,
    many,
    one,
    reason,
    results_of,
    retry_seconds,
    serving,
    status_of,
)

CELLS = [cell.format() for cell in map(nasbench201.from_index, range(0, 15_000, 100)) if cell.connected]


async def nothing_in_flight(served):
    await eventually(lambda: served.server._scheduler.in_flight == 0 and served.server._scoring._active == 0)


async def test_cancelling_a_stream_leaves_no_waiters(served):
    served.pool.gate.clear()
    call = served.stub.ScoreArchitectures(many(CELLS), timeout=TIMEOUT)
    await eventually(lambda: len(served.pool.batches) == served.pool.slots)
    running = len(served.pool.evaluated)
    call.cancel()
    await eventually(lambda: served.server._scheduler.queued == 0)
    await eventually(lambda: served.metric("archscore_dropped_total", reason="cancelled") == len(CELLS) - running)
    served.pool.gate.set()
    await nothing_in_flight(served)
    assert len(served.pool.evaluated) == running
    assert served.metric("archscore_architectures_total", space="nasbench201", outcome="cancelled") == len(CELLS)


async def test_cancelling_one_call_leaves_the_other_its_share(served):
    served.pool.gate.clear()
    first = served.stub.ScoreArchitecture(one(CELLS[0]), timeout=TIMEOUT)
    second = served.stub.ScoreArchitecture(one(CELLS[0]), timeout=TIMEOUT)
    await eventually(lambda: served.metric("archscore_merged_total") == 1)
    first.cancel()
    await eventually(
        lambda: served.metric("archscore_architectures_total", space="nasbench201", outcome="cancelled") == 1
    )
    served.pool.gate.set()
    assert (await second).evaluation.scores
    assert served.pool.evaluated == [CELLS[0]]


async def test_late_items_are_not_computed(served):
    served.pool.gate.clear()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await results_of(served.stub.ScoreArchitectures(many(CELLS), timeout=0.3))
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await eventually(lambda: served.server._scheduler.queued == 0)
    running = len(served.pool.evaluated)
    served.pool.gate.set()
    await nothing_in_flight(served)
    assert len(served.pool.evaluated) == running < len(CELLS)
    assert served.metric("archscore_architectures_total", space="nasbench201", outcome="expired") == len(CELLS)


@pytest.mark.parametrize("unary", [True, False])
async def test_a_full_queue_refuses_the_whole_request(unary):
    async with serving(limits=Limits(max_queued_architectures=5)) as served:
        served.pool.gate.clear()
        first = [served.stub.ScoreArchitecture(one(cell), timeout=TIMEOUT) for cell in CELLS[:2]]
        await eventually(lambda: len(served.pool.batches) == 2)
        waiting = served.stub.ScoreArchitectures(many(CELLS[10:15]), timeout=TIMEOUT)
        await eventually(lambda: served.metric("archscore_queued_architectures") == 5)
        if unary:
            call = served.stub.ScoreArchitecture(one(CELLS[20]), timeout=TIMEOUT)
        else:
            call = served.stub.ScoreArchitectures(many(["garbage", *CELLS[20:23]]), timeout=TIMEOUT)
        status = await status_of(call)
        assert status.code == code_pb2.RESOURCE_EXHAUSTED
        assert reason(status) == "QUEUE_FULL"
        pushback = int(dict(await call.trailing_metadata())["grpc-retry-pushback-ms"])
        assert pushback / 1000 == pytest.approx(retry_seconds(status), abs=0.001)
        refused = served.metric("archscore_architectures_total", space="nasbench201", outcome="refused")
        assert refused == (1 if unary else 4)
        served.pool.gate.set()
        assert len(await results_of(waiting)) == 5
        await asyncio.gather(*first)
        assert (await served.stub.ScoreArchitecture(one(CELLS[20]), timeout=TIMEOUT)).evaluation.scores


def named(client):
    return {"timeout": TIMEOUT, "metadata": [("archscore-client-id", client)]}


@pytest.mark.parametrize("unary", [True, False])
async def test_a_client_has_a_bounded_number_in_flight(unary):
    async with serving(limits=Limits(max_in_flight_per_client=5)) as served:
        served.pool.gate.clear()
        first = served.stub.ScoreArchitectures(many(CELLS[:5]), **named("a"))
        await eventually(lambda: served.server._scheduler.in_flight == 5)
        if unary:
            call = served.stub.ScoreArchitecture(one(CELLS[0]), **named("a"))
        else:
            call = served.stub.ScoreArchitectures(many(["garbage", "garbage"]), **named("a"))
        status = await status_of(call)
        assert status.code == code_pb2.RESOURCE_EXHAUSTED
        info = details(status)[error_details_pb2.ErrorInfo]
        assert (info.reason, info.metadata) == ("QUEUE_FULL", {"scope": "client", "limit": "5"})
        assert 0.1 <= retry_seconds(status) <= 60
        assert "grpc-retry-pushback-ms" in dict(await call.trailing_metadata())
        refused = served.metric("archscore_architectures_total", space="nasbench201", outcome="refused")
        assert refused == (1 if unary else 2)
        other = served.stub.ScoreArchitectures(many(CELLS[5:10]), **named("b"))
        await eventually(lambda: served.server._scheduler.in_flight == 10)
        served.pool.gate.set()
        assert len(await results_of(first)) == len(await results_of(other)) == 5
        assert len(await results_of(served.stub.ScoreArchitectures(many(CELLS[:5]), **named("a")))) == 5
        await eventually(lambda: len(served.server._scoring._in_flight) == 0)


async def test_results_that_nobody_reads_count(served):
    """The names of all proxies make results large, so that they do not fit into the buffers of the connection."""
    asked = [cell for cell in CELLS for _ in range(10)]
    proxies = proxy_names()
    unread = [served.stub.ScoreArchitectures(many(asked, proxies), **named("a")) for _ in range(3)]
    outcomes = {"space": "nasbench201", "outcome": "ok"}
    await eventually(lambda: not served.server._scheduler.in_flight)
    await eventually(lambda: served.metric("archscore_architectures_total", **outcomes) > 0)
    held = served.server._scoring._in_flight._counts["id:a"]
    assert 0 < held <= len(asked) * len(unread)
    for call in unread:
        call.cancel()
    await eventually(lambda: len(served.server._scoring._in_flight) == 0)


@pytest.mark.parametrize("request_of", [lambda: one(CELLS[0]), lambda: one("garbage")])
async def test_not_started_yet(request_of):
    async with serving(warm=False) as served:
        call = served.stub.ScoreArchitecture(request_of(), timeout=TIMEOUT)
        status = await status_of(call)
        assert status.code == code_pb2.UNAVAILABLE
        assert reason(status) == "STARTING"
        assert retry_seconds(status) == 1
        assert dict(await call.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"


async def test_merges_equal_architectures_of_a_request(served):
    served.pool.gate.clear()  # else the first may have ended before the last is looked at
    asking = asyncio.create_task(results_of(served.stub.ScoreArchitectures(many(["index:7"] * 50), timeout=TIMEOUT)))
    await eventually(lambda: served.metric("archscore_merged_total") == 49)
    served.pool.gate.set()
    results = await asking
    assert len({result.evaluation.scores[0].value for result in results.values()}) == 1
    assert len(served.pool.evaluated) == 1
    assert served.metric("archscore_merged_total") == 49


async def test_the_order_of_proxies_does_not_matter(served):
    served.pool.gate.clear()
    calls = [
        served.stub.ScoreArchitecture(one(CELLS[0], names), timeout=TIMEOUT)
        for names in (["tcet", "snip"], ["snip", "tcet"])
    ]
    await eventually(lambda: served.metric("archscore_merged_total") == 1)
    served.pool.gate.set()
    first, second = await asyncio.gather(*calls)
    assert [score.proxy for score in first.evaluation.scores] == ["tcet", "snip"]
    assert list(first.evaluation.scores) == list(reversed(second.evaluation.scores))


async def test_a_long_request_lets_others_have_the_event_loop(served, monkeypatch):
    """However long its parts take, others are answered between any two of them."""
    monkeypatch.setattr(slices, "_SECONDS", 0.0)
    served.pool.gate.clear()
    stub = scoring_pb2_grpc.ScoringServiceStub(served.channel)
    rest = [cell.format() for cell in map(nasbench201.from_index, range(250)) if cell.connected]
    long = asyncio.create_task(results_of(stub.ScoreArchitectures(many(rest), timeout=TIMEOUT)))
    submitted = [0]
    while submitted[-1] < len(rest) and not long.done():
        await asyncio.sleep(0)  # one iteration of the event loop
        submitted.append(served.server._scheduler.in_flight)
    assert max(after - before for before, after in pairwise(submitted)) == 1
    served.pool.gate.set()
    assert len(await long) == len(rest)


# Long requests are read when their turn is near


def indices(*numbers):
    return [f"index:{number}" for number in numbers]


CONNECTED = [index for index in range(15_625) if nasbench201.from_index(index).connected]


async def test_of_what_is_taken_back_only_the_beginning_was_read(served):
    """What cannot be read would be answered at once, were it looked at."""
    served.pool.gate.clear()
    call = served.stub.ScoreArchitectures(many([*indices(*CONNECTED[:600]), *["garbage"] * 400]), timeout=TIMEOUT)
    await eventually(lambda: len(served.pool.batches) == served.pool.slots)
    await asyncio.sleep(0.1)
    assert served.server._scheduler.in_flight < 600
    call.cancel()
    await eventually(lambda: served.server._scheduler.queued == 0 and served.server._scoring._active == 0)
    outcomes = {
        outcome: served.metric("archscore_architectures_total", space="nasbench201", outcome=outcome)
        for outcome in ("cancelled", "invalid")
    }
    assert outcomes == {"cancelled": 1_000, "invalid": 0}
    served.pool.gate.set()
    await nothing_in_flight(served)


async def test_of_a_long_request_all_is_answered_once(served):
    encodings = [*indices(*CONNECTED[:1_000]), *["garbage"] * 300, *indices(*CONNECTED[500:1_500])]
    results = await results_of(served.stub.ScoreArchitectures(many(encodings), timeout=TIMEOUT))
    assert sorted(results) == list(range(len(encodings)))
    wrong = [index for index, result in results.items() if result.WhichOneof("result") == "error"]
    assert sorted(wrong) == list(range(1_000, 1_300))
    assert results[1_000].error.code == code_pb2.INVALID_ARGUMENT
    assert sorted(served.pool.evaluated) == sorted(
        nasbench201.from_index(index).format() for index in CONNECTED[:1_500]
    )


async def test_of_a_long_request_the_next_are_read_before_a_worker_has_nothing_to_do(served):
    turnstile = asyncio.Semaphore(0)  # a batch ends each time that it is released
    served.pool.gate.wait = turnstile.acquire
    asking = asyncio.create_task(
        results_of(served.stub.ScoreArchitectures(many(indices(*CONNECTED[:1_000])), timeout=6 * TIMEOUT))
    )
    batches = served.pool.batches
    await eventually(lambda: len(batches) == served.pool.slots)
    while len(served.pool.evaluated) < 1_000:
        started = len(batches)
        turnstile.release()
        await eventually(lambda started=started: len(batches) > started)
    for _ in range(served.pool.slots):
        turnstile.release()
    assert len(await asking) == 1_000
    assert [len(batch.architectures) for batch in batches[: -2 * served.pool.slots]] == [served.pool.max_batch] * (
        len(batches) - 2 * served.pool.slots
    )


async def test_what_is_not_read_yet_has_its_room_in_the_queue():
    async with serving(limits=Limits(max_queued_architectures=1_000)) as served:
        served.pool.gate.clear()
        long = served.stub.ScoreArchitectures(many(indices(*CONNECTED[:1_000])), timeout=TIMEOUT)
        await eventually(lambda: len(served.pool.batches) == served.pool.slots)
        [new] = indices(CONNECTED[-1])
        running = len(served.pool.evaluated)
        assert served.metric("archscore_queued_architectures") == 1_000 - running
        fits = served.stub.ScoreArchitectures(many(indices(*CONNECTED[2_000 : 2_000 + running])), timeout=TIMEOUT)
        await eventually(lambda: served.metric("archscore_queued_architectures") == 1_000)
        status = await status_of(served.stub.ScoreArchitecture(one(new), timeout=TIMEOUT))
        assert reason(status) == "QUEUE_FULL"
        long.cancel()
        await eventually(lambda: served.metric("archscore_queued_architectures") == running)
        served.pool.gate.set()
        assert len(await results_of(fits)) == running
        assert (await served.stub.ScoreArchitecture(one(new), timeout=TIMEOUT)).evaluation.scores
        assert served.metric("archscore_queued_architectures") == 0


async def test_what_is_stored_needs_no_room():
    async with serving(limits=Limits(max_queued_architectures=700)) as served:
        stored = many(indices(*CONNECTED[:600]))
        assert len(await results_of(served.stub.ScoreArchitectures(stored, timeout=TIMEOUT))) == 600
        served.pool.gate.clear()
        waiting = served.stub.ScoreArchitectures(many(indices(*CONNECTED[1_000:1_700])), timeout=TIMEOUT)
        await eventually(lambda: served.metric("archscore_queued_architectures") > 600)
        again = many(indices(*CONNECTED[:600]))
        assert len(await results_of(served.stub.ScoreArchitectures(again, timeout=TIMEOUT))) == 600
        over = many(indices(*CONNECTED[:600], *CONNECTED[2_000:2_100]))
        assert reason(await status_of(served.stub.ScoreArchitectures(over, timeout=TIMEOUT))) == "QUEUE_FULL"
        served.pool.gate.set()
        assert len(await results_of(waiting)) == 700


async def test_a_long_request_is_drained(served):
    served.pool.gate.clear()
    asking = asyncio.create_task(
        results_of(served.stub.ScoreArchitectures(many(indices(*CONNECTED[:1_000])), timeout=TIMEOUT))
    )
    await eventually(lambda: len(served.pool.batches) == served.pool.slots)
    draining = asyncio.create_task(served.server.drain())
    await eventually(lambda: served.server._scheduler._stopping)
    served.pool.gate.set()
    results = await asking
    assert len(results) == 1_000
    assert all(result.WhichOneof("result") == "evaluation" for result in results.values())
    await draining


async def test_the_end_answers_all_of_a_long_request(served):
    served.pool.gate.clear()
    asking = asyncio.create_task(
        results_of(served.stub.ScoreArchitectures(many(indices(*CONNECTED[:3_000])), timeout=TIMEOUT))
    )
    await eventually(lambda: len(served.pool.batches) == served.pool.slots)
    await served.server.stop()
    results = await asking
    assert {result.error.code for result in results.values()} == {code_pb2.UNAVAILABLE}
    assert len(results) == 3_000


async def test_a_long_request_that_is_taken_back_leaves_nothing(served, monkeypatch):
    monkeypatch.setattr(slices, "_SECONDS", 0.0)
    served.pool.gate.clear()
    calls = [
        served.stub.ScoreArchitectures(many([f"index:{index}" for index in part]), timeout=TIMEOUT)
        for part in (range(1_000), range(1_000, 2_000), range(2_000, 3_000))
    ]
    await eventually(lambda: served.server._scheduler.in_flight > 500)
    for call in calls:
        call.cancel()
    await eventually(lambda: served.server._scheduler.queued == 0 and served.server._scoring._active == 0)
    assert len(served.server._scoring._in_flight) == 0
    served.pool.gate.set()
    await nothing_in_flight(served)
