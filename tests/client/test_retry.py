"""When to try again, on a clock of our own."""

from __future__ import annotations

import math

import pytest
from google.rpc.status_pb2 import Status

from archscore import (
    DeadlineExceededError,
    InvalidRequestError,
    QueueFullError,
    UnavailableError,
    _retry,
)
from archscore._retry import Contact, Retrier


class Clock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(_retry, "time", clock)
    return clock


def pauses(retrier, clock, error, method=Retrier.pause):
    """Pauses until the retrier gives up."""
    taken: list[float] = []
    while True:
        try:
            taken.append(method(retrier, error))
        except type(error):
            return taken
        clock.now += taken[-1]


def test_pauses_double_up_to_a_limit_and_end_with_the_deadline(clock):
    contact = Contact(connect_timeout=5)
    contact.reached = True
    taken = pauses(Retrier(contact, 100), clock, UnavailableError("gone"))
    for number, pause in enumerate(taken):
        ceiling = min(0.2 * 2**number, 2)
        assert ceiling / 2 <= pause <= ceiling
    assert 98 <= sum(taken) < 100


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (UnavailableError("refused"), True),
        (UnavailableError("draining", status=Status()), False),
        (QueueFullError("full"), False),
    ],
)
def test_a_server_is_lost_when_nothing_comes_back(clock, error, lost):
    contact = Contact(connect_timeout=5)
    retrier = Retrier(contact, 100)
    assert not contact.lost
    retrier.pause(error)
    assert contact.lost == lost
    retrier.progressed()
    assert not contact.lost


def test_a_server_that_never_answered_is_given_up_soon(clock):
    taken = pauses(Retrier(Contact(connect_timeout=5), 100), clock, UnavailableError("refused"))
    assert 1 < sum(taken) < 5


def test_a_server_with_a_reason_is_there(clock):
    contact = Contact(connect_timeout=5)
    taken = pauses(Retrier(contact, 100), clock, UnavailableError("warming up", reason="STARTING", retry_after=1.0))
    assert contact.reached
    assert 80 < sum(taken) < 100
    assert all(pause > 1 for pause in taken)


def test_progress_starts_over(clock):
    retrier = Retrier(Contact(5), 100)
    for _ in range(3):
        retrier.pause(UnavailableError("gone"))
    retrier.progressed()
    assert retrier.reached
    assert retrier.pause(UnavailableError("gone")) <= 0.2


def test_one_warning_for_each_outage(clock, caplog):
    contact = Contact(5)
    contact.reached = True
    for warnings in (1, 2):
        retriers = [Retrier(contact, 100) for _ in range(4)]
        for _ in range(6):
            for retrier in retriers:
                retrier.pause(UnavailableError("gone"))
        assert sum(record.levelname == "WARNING" for record in caplog.records) == warnings
        retriers[0].progressed()


def test_a_postponed_attempt_has_the_whole_timeout(clock):
    retrier = Retrier(Contact(5), 100)
    clock.now += 99
    pause = retrier.postpone(QueueFullError("full", reason="QUEUE_FULL", retry_after=30))
    assert pause > 30
    clock.now += pause
    assert retrier.remaining() == pytest.approx(100)
    clock.now += 200
    assert 0 < retrier.remaining() < 0.01


def test_a_full_queue_is_asked_less_and_less_often(clock):
    contact = Contact(connect_timeout=5)
    taken = pauses(Retrier(contact, 200), clock, QueueFullError("full", reason="QUEUE_FULL"))
    assert 5 <= taken[-1] <= 10


def test_an_outage_has_the_whole_timeout(clock):
    contact = Contact(5)
    contact.reached = True
    retrier = Retrier(contact, 100)
    clock.now += 99
    assert 98 <= sum(pauses(retrier, clock, UnavailableError("gone"), Retrier.outlast)) < 100


def test_an_outage_before_the_first_answer_has_the_time_to_connect(clock):
    taken = pauses(Retrier(Contact(5), 100), clock, UnavailableError("refused"), Retrier.outlast)
    assert 1 < sum(taken) < 5


@pytest.mark.parametrize("retry_after", [math.inf, 3e11])
@pytest.mark.parametrize("method", [Retrier.pause, Retrier.postpone, Retrier.outlast])
def test_a_server_that_asks_not_to_try_again_is_obeyed(clock, method, retry_after):
    with pytest.raises(QueueFullError):
        method(Retrier(Contact(5), 100), QueueFullError("full", reason="QUEUE_FULL", retry_after=retry_after))


@pytest.mark.parametrize(
    ("error", "reached"),
    [
        (InvalidRequestError("no"), True),
        (DeadlineExceededError("late"), False),
        (DeadlineExceededError("refused", status=Status(code=4)), True),
    ],
)
def test_other_errors_are_final(clock, error, reached):
    retrier = Retrier(Contact(5), 100)
    with pytest.raises(type(error)):
        retrier.pause(error)
    assert retrier.reached is reached
