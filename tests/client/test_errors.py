"""Statuses become exceptions and stay readable."""

from __future__ import annotations

import math
import pickle

import grpc
import pytest
from google.rpc.status_pb2 import Status

import archscore
from archscore import _status
from puppet_server import MALFORMED, QUEUE_FULL, STARTING, status

INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("sent", "of_item", "kind"),
    [
        (MALFORMED, False, archscore.ArchitectureError),
        (MALFORMED, True, archscore.ArchitectureError),
        (status(INVALID, violations=[("architectures[3].encoding", "x")]), False, archscore.ArchitectureError),
        (status(INVALID, violations=[("config.encodings", "x")]), False, archscore.InvalidRequestError),
        (status(INVALID), False, archscore.InvalidRequestError),
        (status(INVALID), True, archscore.ArchitectureError),
        (QUEUE_FULL, True, archscore.QueueFullError),
        (STARTING, False, archscore.UnavailableError),
        (status(grpc.StatusCode.CANCELLED), False, archscore.UnavailableError),
        (status(grpc.StatusCode.DEADLINE_EXCEEDED), True, archscore.DeadlineExceededError),
        (status(grpc.StatusCode.UNAUTHENTICATED, reason="TOKEN_MISSING"), False, archscore.AuthenticationError),
        (status(grpc.StatusCode.PERMISSION_DENIED), False, archscore.AuthenticationError),
        (status(grpc.StatusCode.RESOURCE_EXHAUSTED), False, archscore.ArchscoreError),
        (
            status(grpc.StatusCode.FAILED_PRECONDITION, reason="DATASET_NOT_FOUND"),
            False,
            archscore.DatasetNotFoundError,
        ),
        (status(grpc.StatusCode.INTERNAL, reason="ARCHITECTURE_FAILED"), False, archscore.ArchitectureError),
        (status(grpc.StatusCode.INTERNAL), False, archscore.ArchscoreError),
        (Status(code=999), False, archscore.ArchscoreError),
    ],
)
def test_kinds(sent, of_item, kind):
    error = _status.from_status(sent, of_item=of_item)
    assert type(error) is kind
    assert error.status == _status.to_status(error) == sent
    assert str(error)


def test_details():
    error = _status.from_status(status(INVALID, "no", reason="WHY", retry_after=1.5, violations=[("a.b", "too small")]))
    assert (error.code, error.reason, error.retry_after) == ("INVALID_ARGUMENT", "WHY", 1.5)
    assert error.field_violations == (archscore.FieldViolation("a.b", "too small"),)
    assert str(error) == "no; a.b: too small"


def test_reasons_of_others_are_not_ours():
    sent = status(grpc.StatusCode.RESOURCE_EXHAUSTED)
    sent.details.add().Pack(_status.ErrorInfo(reason="QUEUE_FULL", domain="elsewhere"))
    error = _status.from_status(sent)
    assert type(error) is archscore.ArchscoreError
    assert not error.reason


def test_what_the_message_says_is_not_said_again():
    error = archscore.InvalidRequestError(
        "a.b is too small", field_violations=[archscore.FieldViolation("a.b", "too small")]
    )
    assert str(error) == "a.b is too small"


def test_details_that_cannot_be_read_are_skipped():
    sent = status(INVALID, "no")
    sent.details.add(type_url="type.googleapis.com/google.rpc.BadRequest", value=b"\xff")
    assert _status.from_status(sent).field_violations == ()


def test_errors_found_here_become_statuses():
    error = archscore.ArchitectureError(
        "bad", code="INVALID_ARGUMENT", field_violations=[archscore.FieldViolation("a", "b")]
    )
    again = _status.from_status(_status.to_status(error), of_item=True)
    assert (again.message, again.code, again.field_violations) == (error.message, error.code, error.field_violations)


def test_only_places_are_relocated():
    text = "architectures[1].encoding: expected 'architectures[1].x'; architectures[2].encoding: x"
    sent = status(INVALID, text, reason="WHY", violations=[("architectures[1]", "architectures[1].x"), ("a.b", "c")])
    sent.details.add(type_url="type.googleapis.com/google.rpc.BadRequest", value=b"\xff")
    error = _status.from_status(sent)
    _status.relocate(error, {1: 11})
    assert error.message == text.replace("architectures[1].e", "architectures[11].e")
    assert error.status.message == error.message
    assert [violation.field for violation in error.field_violations] == ["architectures[11]", "a.b"]
    assert error.field_violations == _status.from_status(error.status).field_violations
    assert error.field_violations[0].description == "architectures[1].x"
    assert (error.reason, len(error.status.details)) == ("WHY", 3)
    assert sent.message == text


def test_errors_can_be_pickled():
    error = pickle.loads(pickle.dumps(_status.from_status(QUEUE_FULL)))
    assert type(error) is archscore.QueueFullError
    assert (str(error), error.retry_after, error.status) == ("the queue is full", 30, QUEUE_FULL)


class Call(grpc.RpcError):
    """A failed call as either stack raises it."""

    def __init__(self, code, details, trailers):
        self.code = lambda: code
        self.details = lambda: details
        self.trailing_metadata = lambda: trailers


@pytest.mark.parametrize(
    "trailers", [None, (), (("grpc-status-details-bin", b"\xff"),), (("grpc-status-details-bin", b"\x08\x01"),)]
)
def test_calls_without_usable_details(trailers):
    error = _status.from_rpc(Call(grpc.StatusCode.UNAVAILABLE, "refused", trailers), "host:1")
    assert str(error) == "no answer from host:1: refused"
    assert isinstance(error, archscore.UnavailableError)


@pytest.mark.parametrize(
    ("details", "suspicious"),
    [
        ("failed to connect to all addresses; last error: UNAVAILABLE: ipv4:127.0.0.1:1: Socket closed", True),
        ("failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Connection refused", False),
        ("Socket closed", False),
    ],
)
def test_a_server_that_ends_connections_at_once_may_expect_tls(details, suspicious):
    error = _status.from_rpc(Call(grpc.StatusCode.UNAVAILABLE, details, ()), "host:1")
    assert error.message.startswith(f"no answer from host:1: {details}")
    assert ("expect TLS" in error.message) == suspicious


FULL_WITHOUT_DELAY = status(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", reason="QUEUE_FULL")


@pytest.mark.parametrize(
    ("pushback", "retry_after"),
    [
        ("1500", 1.5),
        ("0", 0),
        ("-1", math.inf),
        ("", math.inf),
        ("soon", math.inf),
        ("1_0", math.inf),
        ("9" * 99, math.inf),
    ],
)
@pytest.mark.parametrize("sent", [FULL_WITHOUT_DELAY, None])
def test_pushback_says_when_to_try_again_or_that_not(sent, pushback, retry_after):
    details = () if sent is None else (("grpc-status-details-bin", sent.SerializeToString()),)
    call = Call(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", (*details, ("grpc-retry-pushback-ms", pushback)))
    error = _status.from_rpc(call, "host:1")
    assert type(error) is archscore.QueueFullError
    assert error.retry_after == retry_after


def test_retry_info_goes_before_pushback():
    details = ("grpc-status-details-bin", QUEUE_FULL.SerializeToString())
    call = Call(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full", (details, ("grpc-retry-pushback-ms", "-1")))
    assert _status.from_rpc(call, "host:1").retry_after == 30


def test_a_message_that_is_too_large_is_no_full_queue():
    call = Call(grpc.StatusCode.RESOURCE_EXHAUSTED, "larger than max", ())
    assert type(_status.from_rpc(call, "host:1")) is archscore.ArchscoreError


def test_a_delay_that_makes_no_sense_is_none():
    assert _status.from_status(status(INVALID, retry_after=-5)).retry_after == 0
    assert _status.from_status(status(INVALID, retry_after=10**12)).retry_after == 1e12


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED])
def test_what_a_server_says_is_an_answer(code):
    sent = status(code, "too busy")
    call = Call(code, "too busy", (("grpc-status-details-bin", sent.SerializeToString()),))
    assert str(_status.from_rpc(call, "host:1")) == "too busy"
