"""The plan of `score_many`, without a server."""

from __future__ import annotations

import itertools
import random

import pytest

from archscore import UnavailableError, _many, spaces
from archscore._many import MAX_CHUNK_BYTES, Plan
from archscore._retry import Contact
from archscore.v1 import scoring_pb2
from puppet_server import QUEUE_FULL


def plan_for(architectures, **settings):
    defaults = {
        "space": None,
        "template": scoring_pb2.ScoreArchitecturesRequest(proxies=["tcet"]),
        "chunk_size": 4,
        "max_in_flight": 2,
        "ordered": True,
        "contact": Contact(1.0),
        "timeout": 60.0,
    }
    return Plan(architectures, **{**defaults, **settings})


def answer(*indices):
    """A message that answers the architectures at these positions of the request."""
    evaluation = scoring_pb2.Evaluation()
    return scoring_pb2.ScoreArchitecturesResponse(
        results=[scoring_pb2.ArchitectureResult(index=index, evaluation=evaluation) for index in indices]
    )


def encodings(chunk):
    return [architecture.encoding for architecture in chunk.request().architectures]


@pytest.mark.parametrize("ordered", [True, False])
def test_random_interleavings(ordered):
    """Whatever order answers come in, each result goes out once, and what is held stays within bounds."""
    rng = random.Random(0)
    for _ in range(50):
        total = rng.randrange(40)
        taken = 0

        def names(total=total):
            nonlocal taken
            for number in range(total):
                taken += 1
                yield str(number)

        plan = plan_for(names(), ordered=ordered, chunk_size=rng.randint(1, 5), max_in_flight=rng.randint(1, 4))
        waiting = []
        given = []
        while not plan.done:
            chunk = plan.next_chunk()
            if chunk is not None:
                waiting.extend((chunk, index) for index in range(len(encodings(chunk))))
            assert taken - len(given) <= 20
            rng.shuffle(waiting)
            for _ in range(rng.randint(0 if chunk else 1, len(waiting)) if waiting else 0):
                answered, index = waiting.pop()
                given.extend(plan.hand_out(answered, answered.answered(answer(index))))
        indices = [result.index for result in given]
        assert (indices if ordered else sorted(indices)) == list(range(total))
        assert all(result.architecture == str(result.index) for result in given)


def test_nothing_more_is_taken_while_enough_is_in_flight():
    plan = plan_for(map(str, itertools.count()))
    first, second = plan.next_chunk(), plan.next_chunk()
    assert plan.next_chunk() is None
    assert plan.hand_out(second, second.answered(answer(*range(len(encodings(second)))))) == []
    assert plan.next_chunk() is None
    results = plan.hand_out(first, first.answered(answer(*range(len(encodings(first))))))
    assert [result.index for result in results] == list(range(8))
    assert plan.next_chunk() is not None


def test_the_oldest_chunk_makes_room_in_order():
    """However many messages of however many chunks a result lets go."""
    plan = plan_for(map(str, itertools.count()), max_in_flight=3)
    first, second, third = (plan.next_chunk() for _ in range(3))
    for chunk in (first, second, third):
        chunk.request()
    assert plan.hand_out(second, second.answered(answer(0, 1, 2, 3))) == []
    assert plan.hand_out(third, third.answered(answer(0, 1))) == []
    assert [result.index for result in plan.hand_out(first, first.answered(answer(1, 0)))] == [0, 1]
    assert plan.next_chunk() is None
    assert [result.index for result in plan.hand_out(first, first.answered(answer(3, 2)))] == list(range(2, 10))
    assert plan.next_chunk() is not None
    assert plan.next_chunk() is not None
    assert plan.next_chunk() is None


def test_chunks_are_cut_by_bytes():
    third = "x" * (MAX_CHUNK_BYTES // 3)
    plan = plan_for([third, third, third, third, "y" * 2 * MAX_CHUNK_BYTES, "z"], max_in_flight=10)
    chunks = []
    while (chunk := plan.next_chunk()) is not None:
        request = chunk.request()
        chunks.append(len(request.architectures))
        assert request.ByteSize() < MAX_CHUNK_BYTES + 100 or len(request.architectures) == 1
    assert chunks == [2, 2, 1, 1]


def test_chunks_are_of_one_space(monkeypatch):
    monkeypatch.setattr(_many, "architecture_fields", lambda pair, *_: (pair[0], ""))
    plan = plan_for([("a", 1), ("a", 2), ("b", 3), ("a", 4)], max_in_flight=10)
    sizes = [chunk.size for chunk in iter(plan.next_chunk, None)]
    assert sizes == [2, 1, 1]


def test_architecture_values():
    cell = spaces.nasbench201.from_index(1)
    chunk = plan_for([cell]).next_chunk()
    assert encodings(chunk) == [cell.format()]
    (result,) = chunk.answered(answer(0))
    assert result.architecture == cell


def test_what_cannot_be_sent_is_a_result_at_once():
    plan = plan_for(["\udcff", "a"])
    chunk = plan.next_chunk()
    assert encodings(chunk) == ["a"]
    assert [result.index for result in plan.hand_out(chunk, chunk.rejected)] == [0]
    only = plan_for(["\udcff"]).next_chunk()
    assert only.done


def test_answers_that_make_no_sense_are_passed_over():
    chunk = plan_for(["a", "b"]).next_chunk()
    chunk.request()
    assert [result.index for result in chunk.answered(answer(1, 1, 2, 4_000_000_000))] == [1]
    assert not chunk.answered(answer(1))
    assert isinstance(chunk.ended(), UnavailableError)
    assert encodings(chunk) == ["a"]
    assert [result.index for result in chunk.answered(answer(0))] == [0]
    assert chunk.ended() is None


def test_an_answer_that_says_nothing_is_an_error():
    chunk = plan_for(["a"]).next_chunk()
    chunk.request()
    (result,) = chunk.answered(scoring_pb2.ScoreArchitecturesResponse(results=[scoring_pb2.ArchitectureResult()]))
    assert result.error.code == "INTERNAL"


def test_a_break_after_the_last_answer_does_not_matter():
    chunk = plan_for(["a"]).next_chunk()
    chunk.request()
    chunk.answered(answer(0))
    assert chunk.failed(UnavailableError("gone")) == (0.0, [])


def test_less_is_asked_of_a_full_queue_and_then_more_again():
    chunk = plan_for(map(str, range(8)), chunk_size=8).next_chunk()
    full = _many.from_status(QUEUE_FULL)
    sizes = []
    for _ in range(4):
        sizes.append(len(encodings(chunk)))
        chunk.failed(full)
    while not chunk.done:
        sizes.append(len(encodings(chunk)))
        chunk.answered(answer(*range(sizes[-1])))
        assert chunk.ended() is None
    assert sizes == [8, 4, 2, 1, 1, 2, 4, 1]
