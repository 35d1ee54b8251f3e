"""What can be answered to a request, and whether an answer is the one that was expected."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import grpc.aio
from google.rpc import code_pb2, error_details_pb2, status_pb2

from archscore.v1 import scoring_pb2
from golden_cases import tolerance

_DETAILS_TRAILER = "grpc-status-details-bin"
_PUSHBACK_TRAILER = "grpc-retry-pushback-ms"


@dataclass(frozen=True)
class Score:
    """How one score comes out; `value` is None unless it is OK."""

    outcome: int
    value: float | None


@dataclass(frozen=True)
class Fault:
    """What fails, and how.

    Attributes:
        code: of google.rpc.Code.
        reason: of the ErrorInfo, if there is one.
        fields: those that a BadRequest blames, in order.
        words: what a human is told, which nothing depends on.
    """

    code: int
    reason: str = ""
    fields: tuple[str, ...] = ()
    words: str = field(default="", compare=False)

    def __str__(self) -> str:
        said = [f"({self.words})"] if self.words else []
        return " ".join([code_pb2.Code.Name(self.code), self.reason, *self.fields, *said]).strip()


#: What becomes of one architecture.
Answer = Mapping[str, Score] | Fault


@dataclass(frozen=True)
class Reply:
    """What came back from a call.

    Attributes:
        answers: by index; of a unary call there is one, at 0.
        fault: how the call itself failed.
        retry_after: seconds after which the server asks to be asked again.
        pushback: the same in the words of gRPC's own retry policy, in milliseconds.
    """

    answers: Mapping[int, Answer] = field(default_factory=dict)
    fault: Fault | None = None
    retry_after: float | None = None
    pushback: int | None = None


def evaluation(message: scoring_pb2.Evaluation) -> Answer:
    """An evaluation, by proxy."""
    return {
        score.proxy: Score(score.outcome, score.value if score.HasField("value") else None) for score in message.scores
    }


def result(message: scoring_pb2.ArchitectureResult) -> Answer:
    """One result of a stream."""
    return fault(message.error) if message.HasField("error") else evaluation(message.evaluation)


def fault(status: status_pb2.Status) -> Fault:
    """A status."""
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        for message in (info, bad_request):
            detail.Unpack(message)
    fields = tuple(violation.field for violation in bad_request.field_violations)
    return Fault(status.code, info.reason, fields, status.message)


def failure(error: grpc.aio.AioRpcError) -> Reply:
    """A call that failed."""
    trailers = dict(error.trailing_metadata() or ())
    status = status_pb2.Status(code=error.code().value[0])
    if _DETAILS_TRAILER in trailers:
        status = status_pb2.Status.FromString(trailers[_DETAILS_TRAILER])
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        detail.Unpack(retry)
    pushback = trailers.get(_PUSHBACK_TRAILER)
    return Reply(
        fault=fault(status),
        retry_after=retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None,
        pushback=None if pushback is None else int(pushback),
    )


class Comparison:
    """Compares replies with what was expected.

    Attributes:
        largest_difference: the largest relative difference between two values that were taken for equal.
    """

    def __init__(self) -> None:
        self.largest_difference = 0.0

    def differences(self, expected: Fault | Sequence[Answer], reply: Reply) -> list[str]:
        """What is wrong with a reply, in words."""
        if isinstance(expected, Fault):
            return [] if reply.fault == expected else [f"expected {expected}, came {_words(reply)}"]
        if reply.fault is not None:
            return [f"expected {len(expected)} answers, came {reply.fault}"]
        if sorted(reply.answers) != list(range(len(expected))):
            return [f"expected {len(expected)} answers, came those of {sorted(reply.answers)}"]
        found = []
        for index, answer in enumerate(expected):
            if not self._equal(answer, reply.answers[index]):
                found.append(f"[{index}]: expected {_show(answer)}, came {_show(reply.answers[index])}")
        return found

    def _equal(self, expected: Answer, came: Answer) -> bool:
        if isinstance(expected, Fault) or isinstance(came, Fault):
            return expected == came
        return list(expected) == list(came) and all(
            self._same_score(proxy, score, came[proxy]) for proxy, score in expected.items()
        )

    def _same_score(self, proxy: str, expected: Score, came: Score) -> bool:
        if expected.outcome != came.outcome or (expected.value is None) != (came.value is None):
            return False
        if expected.value is None or came.value is None:
            return True
        difference = abs(expected.value - came.value)
        limit = tolerance(proxy, "float32") * abs(expected.value)
        if not math.isfinite(came.value) or difference > limit:
            return False
        if difference:
            self.largest_difference = max(self.largest_difference, difference / abs(expected.value))
        return True


def _words(reply: Reply) -> str:
    return str(reply.fault) if reply.fault else f"answers {[_show(answer) for answer in reply.answers.values()]}"


def _show(answer: Answer) -> str:
    if isinstance(answer, Fault):
        return str(answer)
    return ", ".join(
        f"{proxy} {score.value if score.value is not None else scoring_pb2.Outcome.Name(score.outcome)}"
        for proxy, score in answer.items()
    )
