"""How far a request is: which results can be given out, in which portions, and what becomes of who still waits."""

from __future__ import annotations

import asyncio

import pytest
from google.rpc import status_pb2

from archscore_server import errors
from archscore_server.engine import ArchitectureTooLargeError, Evaluation, EvaluationConfig, Outcome, Score
from archscore_server.metrics import ArchitectureOutcome
from archscore_server.progress import Pending, Progress
from archscore_server.results import Result, evaluated
from archscore_server.scheduler import ArchitectureFailedError, DeadlineExceededError, Item, StoppingError, Waiter
from puppets import cell, evaluation_of, settle

OK = Score(Outcome.OK, 1.0)
DONE = evaluated({"tcet": OK})


class Waiters:
    """Waiters for what nobody evaluates, and which of them have left."""

    def __init__(self) -> None:
        self.left: list[Waiter] = []

    def new(self) -> Waiter:
        return Waiter(None, "", None, self.left.append)


def pending(index: int, **known: Score) -> Pending:
    return Pending(index, Item(cell(index), ("tcet",), EvaluationConfig()), known, known.keys())


async def wait(progress: Progress) -> asyncio.Task[None]:
    """Waits until something can be given out."""
    waiting = asyncio.create_task(progress.any_finished())
    await settle()
    return waiting


# What can be given out


async def test_nothing_has_finished_at_first() -> None:
    progress = Progress(unanswered=3)
    assert (progress.unanswered, progress.waiting, progress.finished) == (3, 0, False)
    assert progress.next_chunk() == []
    assert progress.unanswered == 3


async def test_who_waits_hears_of_the_first_result() -> None:
    progress = Progress(unanswered=2)
    waiting = await wait(progress)
    progress.finish()
    await settle()
    assert not waiting.done(), "of nothing"
    progress.finish((1, DONE))
    await settle()
    assert waiting.done()
    assert progress.finished
    assert progress.next_chunk() == [(1, DONE)]
    assert not progress.finished
    waiting = await wait(progress)
    assert not waiting.done(), "of what was given out"
    progress.finish((0, DONE))
    await settle()
    assert waiting.done()


async def test_results_are_given_out_in_the_order_in_which_they_finished() -> None:
    progress = Progress(unanswered=5)
    progress.finish((4, DONE), (0, DONE))
    progress.finish((2, DONE))
    assert [index for index, _ in progress.next_chunk()] == [4, 0, 2]
    progress.finish((1, DONE))
    progress.finish((3, DONE))
    assert [index for index, _ in progress.next_chunk()] == [1, 3]
    assert progress.unanswered == 0


@pytest.mark.parametrize(
    ("count", "chunks"),
    [(1, [1]), (255, [255]), (256, [256]), (257, [256, 1]), (512, [256, 256]), (600, [256, 256, 88])],
)
async def test_no_more_are_given_out_together_than_a_message_holds(count: int, chunks: list[int]) -> None:
    progress = Progress(unanswered=count)
    progress.finish(*((index, DONE) for index in range(count)))
    given: list[int] = []
    for size in chunks:
        assert (await wait(progress)).done()
        chunk = progress.next_chunk()
        assert len(chunk) == size
        given += [index for index, _ in chunk]
        assert progress.unanswered == count - len(given)
    assert given == list(range(count))
    assert not progress.finished
    waiting = await wait(progress)
    assert not waiting.done()
    waiting.cancel()


async def test_what_finishes_between_two_portions_comes_after_what_had_finished() -> None:
    progress = Progress(unanswered=300)
    progress.finish(*((index, DONE) for index in range(299)))
    assert len(progress.next_chunk()) == 256
    progress.finish((299, DONE))
    assert [index for index, _ in progress.next_chunk()] == list(range(256, 300))


# What waits


async def test_results_come_as_waiters_are_done() -> None:
    progress, waiters = Progress(unanswered=2), Waiters()
    first, second = waiters.new(), waiters.new()
    progress.wait_for(pending(0), first)
    progress.wait_for(pending(1), second)
    assert progress.waiting == 2
    second.settle(evaluation_of(cell(1)))
    await settle()
    assert (progress.waiting, progress.unanswered) == (1, 2)
    assert progress.next_chunk() == [(1, evaluated(evaluation_of(cell(1)).scores))]
    first.settle(evaluation_of(cell(0)))
    await settle()
    assert progress.waiting == 0
    assert progress.next_chunk() == [(0, evaluated(evaluation_of(cell(0)).scores))]


async def test_who_was_done_before_it_was_waited_for_is_heard_of_too() -> None:
    progress, waiter = Progress(unanswered=1), Waiters().new()
    waiter.settle(evaluation_of(cell(0)))
    progress.wait_for(pending(0), waiter)
    assert (await wait(progress)).done()
    assert [index for index, _ in progress.next_chunk()] == [0]


async def test_what_was_known_goes_with_what_was_evaluated() -> None:
    progress, waiter = Progress(unanswered=1), Waiters().new()
    stored, size = Score(Outcome.OK, 2.0), Score(Outcome.OK, 3.0)
    one = Pending(0, pending(0).item, {"parameters": size, "snip": stored}, {"snip"})
    progress.wait_for(one, waiter)
    waiter.settle(Evaluation({"tcet": OK}))
    await settle()
    [(_, result)] = progress.next_chunk()
    assert result.answer == {"parameters": size, "snip": stored, "tcet": OK}
    assert (result.stored, result.lasting) == ({"snip"}, False)
    assert result.outcome is ArchitectureOutcome.OK


@pytest.mark.parametrize(
    ("outcome", "status", "counted_as"),
    [
        (ArchitectureFailedError("no luck"), errors.architecture_failed("no luck"), ArchitectureOutcome.FAILED),
        (DeadlineExceededError("late"), errors.deadline_exceeded(), ArchitectureOutcome.EXPIRED),
        (StoppingError("the end"), errors.draining().status, ArchitectureOutcome.REFUSED),
        (
            ArchitectureTooLargeError(100, 10),
            errors.architecture_too_large("max_bytes", 100, 10),
            ArchitectureOutcome.TOO_LARGE,
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_who_gets_no_scores_is_told_why(
    outcome: ArchitectureFailedError | DeadlineExceededError | StoppingError | ArchitectureTooLargeError,
    status: status_pb2.Status,
    counted_as: ArchitectureOutcome,
) -> None:
    progress, waiter = Progress(unanswered=1), Waiters().new()
    progress.wait_for(pending(7, snip=OK), waiter)
    waiter.settle(outcome)
    await settle()
    assert progress.next_chunk() == [(7, Result(status, counted_as))]


# Leaving


async def test_leaving_gives_up_what_waits_and_keeps_what_has_finished() -> None:
    progress, waiters = Progress(unanswered=4), Waiters()
    done, settled, *waiting = [waiters.new() for _ in range(4)]
    for index, waiter in enumerate([done, settled, *waiting]):
        progress.wait_for(pending(index), waiter)
    done.settle(evaluation_of(cell(0)))
    await settle()
    settled.settle(evaluation_of(cell(1)))  # the event loop has not passed it on yet
    for _ in range(2):
        progress.leave()
        await settle()
        assert waiters.left == waiting
    assert [index for index, _ in progress.next_chunk()] == [0, 1]
    assert progress.unanswered == 2


async def test_who_waits_for_nothing_can_leave() -> None:
    progress = Progress(unanswered=0)
    progress.leave()
    assert (progress.waiting, progress.finished) == (0, False)
