"""What comes back: scores as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from archscore import _status, spaces
from archscore.errors import ArchscoreError, NoValueError
from archscore.v1 import scoring_pb2


class Outcome(StrEnum):
    """How a score came out. Only OK has a value."""

    OK = "ok"
    """The score has a value."""
    DEGENERATE = "degenerate"
    """The logits do not depend on the input, so the proxy means nothing."""
    NON_FINITE = "non_finite"
    """The proxy came out NaN or infinite."""
    UNKNOWN = "unknown"
    """An outcome that this client is too old to know."""


_OUTCOMES: Final[Mapping[int, Outcome]] = {
    scoring_pb2.OUTCOME_OK: Outcome.OK,
    scoring_pb2.OUTCOME_DEGENERATE: Outcome.DEGENERATE,
    scoring_pb2.OUTCOME_NON_FINITE: Outcome.NON_FINITE,
}


@dataclass(frozen=True, slots=True)
class Score:
    """One proxy's score of one architecture.

    Attributes:
        outcome: how it came out.
        value: the mean over repeats, when the outcome is OK.
        standard_error: of that mean; only with repeats.
        stored: whether the server had the score in its store.
    """

    outcome: Outcome
    value: float | None
    standard_error: float | None
    stored: bool


@dataclass(frozen=True, repr=False, init=False)
class Evaluation:
    """The scores of one architecture. `evaluation["tcet"]` is the value of a score.

    Attributes:
        message: the evaluation as the server sent it.
    """

    message: scoring_pb2.Evaluation

    def __init__(self, message: scoring_pb2.Evaluation) -> None:
        """Takes the message, of which nothing is read yet."""
        self.__dict__["message"] = message  # as with Result

    def __repr__(self) -> str:
        """The scores."""
        return f"Evaluation(scores={self.scores!r})"

    @property
    def scores(self) -> Mapping[str, Score]:
        """The scores by proxy, in the order asked."""
        # Not before they are asked for: of thousands of results often little is read. And without the lock of Python
        # 3.11's functools.cached_property, which costs more than they do.
        scores: Mapping[str, Score] | None = self.__dict__.get("_scores")
        if scores is None:
            scores = self.__dict__["_scores"] = {score.proxy: _score(score) for score in self.message.scores}
        return scores

    @property
    def fingerprint(self) -> scoring_pb2.Fingerprint:
        """All that the scores depend on besides the architecture: scores compare when their fingerprints agree."""
        return self.message.fingerprint

    def __getitem__(self, proxy: str) -> float:
        """The value of a score.

        Raises:
            KeyError: the proxy was not asked for.
            NoValueError: the score has no value, because it is degenerate or not finite.
        """
        for score in self.message.scores:
            if score.proxy == proxy:
                if score.HasField("value"):
                    return score.value
                raise NoValueError(f"{proxy} has no value: {_score(score).outcome}")
        raise KeyError(proxy)


@dataclass(frozen=True, slots=True, init=False)
class Result:
    """What became of one architecture of many: an evaluation or an error. `result["tcet"]` is the value of a score.

    Attributes:
        index: its position in the iterable, from 0.
        architecture: what the iterable held there.
        evaluation: its scores; None if there is an error.
        error: why it has none; None if there is an evaluation.
    """

    index: int
    architecture: str | spaces.Architecture
    evaluation: Evaluation | None
    error: ArchscoreError | None

    def __init__(
        self,
        index: int,
        architecture: str | spaces.Architecture,
        evaluation: Evaluation | None,
        error: ArchscoreError | None,
    ) -> None:
        """Takes either an evaluation or an error."""
        # What dataclass would write takes twice as long, and there are thousands a second.
        _set_index(self, index)
        _set_architecture(self, architecture)
        _set_evaluation(self, evaluation)
        _set_error(self, error)

    def __getitem__(self, proxy: str) -> float:
        """The value of a score.

        Raises:
            ArchscoreError: the error of this result, or a NoValueError.
            KeyError: the proxy was not asked for.
        """
        if self.error is not None:
            raise self.error
        if self.evaluation is None:
            raise KeyError(proxy)
        return self.evaluation[proxy]

    def to_message(self) -> scoring_pb2.ArchitectureResult:
        """The result in the terms of the contract, with its index among all that were asked."""
        if self.error is not None:
            return scoring_pb2.ArchitectureResult(index=self.index, error=_status.to_status(self.error))
        return scoring_pb2.ArchitectureResult(
            index=self.index, evaluation=self.evaluation.message if self.evaluation else None
        )


_set_index, _set_architecture, _set_evaluation, _set_error = (
    Result.__dict__[name].__set__ for name in ("index", "architecture", "evaluation", "error")
)


def _score(message: scoring_pb2.ProxyScore) -> Score:
    return Score(
        _OUTCOMES.get(message.outcome, Outcome.UNKNOWN),
        message.value if message.HasField("value") else None,
        message.standard_error if message.HasField("standard_error") else None,
        message.stored,
    )
