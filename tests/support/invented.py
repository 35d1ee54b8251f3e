"""Scores by formulas instead of networks, for tests of what asks for scores."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

from archscore import ArchscoreError, Evaluation, Outcome, Result
from archscore.spaces import SPACES, Architecture
from archscore.v1 import scoring_pb2

OUTCOMES = {
    Outcome.OK: scoring_pb2.OUTCOME_OK,
    Outcome.DEGENERATE: scoring_pb2.OUTCOME_DEGENERATE,
    Outcome.NON_FINITE: scoring_pb2.OUTCOME_NON_FINITE,
}

Formula = Callable[[Architecture], float]


class InventedScorer:
    """An `archscore.search.Scorer`.

    Attributes:
        batches: what was asked for, call by call.
        faults: by canonical encoding, what its result is instead of scores: an outcome of all of them, or an error.
        failure: what the next call fails with, after so many results.
    """

    def __init__(self, **formulas: Formula) -> None:
        self.formulas = formulas
        self.batches: list[list[str]] = []
        self.faults: dict[str, Outcome | ArchscoreError] = {}
        self.failure: tuple[int, BaseException] | None = None

    def score_many(
        self,
        architectures: Iterable[str | Architecture],
        proxies: str | Iterable[str],
        *,
        space: str | None = None,
        config: scoring_pb2.EvaluationConfig | Mapping[str, object] | None = None,
        chunk_size: int = 64,
        max_in_flight: int = 4,
        ordered: bool = True,
    ) -> Generator[Result, None, None]:
        values = [self._parsed(architecture, space or "nasbench201") for architecture in architectures]
        self.batches.append([value.format() for value in values])
        for index, value in enumerate(values):
            if self.failure is not None and self.failure[0] == index:
                _, failure = self.failure
                self.failure = None
                raise failure
            yield self._result(index, value, [proxies] if isinstance(proxies, str) else list(proxies))

    def proxies(self) -> Sequence[scoring_pb2.Proxy]:
        return [scoring_pb2.Proxy(name=name) for name in self.formulas]

    @staticmethod
    def _parsed(architecture: str | Architecture, space: str) -> Architecture:
        return SPACES[space].parse(architecture) if isinstance(architecture, str) else architecture

    def _result(self, index: int, architecture: Architecture, proxies: list[str]) -> Result:
        fault = self.faults.get(architecture.format(), Outcome.OK)
        if isinstance(fault, ArchscoreError):
            return Result(index, architecture, None, fault)
        evaluation = scoring_pb2.Evaluation()
        for proxy in proxies:
            score = evaluation.scores.add(proxy=proxy, outcome=OUTCOMES[fault])
            if fault is Outcome.OK:
                score.value = self.formulas[proxy](architecture)
        return Result(index, architecture, Evaluation(evaluation), None)
