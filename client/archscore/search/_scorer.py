"""What a search asks for scores: a server through `archscore.Client`, or anything that answers as it does."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from archscore._requests import Architecture, Config
    from archscore._results import Result
    from archscore.v1 import scoring_pb2


class Scorer(Protocol):
    """Scores architectures. `archscore.Client` is one, `archscore_server.scorer.EngineScorer` another."""

    def score_many(
        self,
        architectures: Iterable[Architecture],
        proxies: str | Iterable[str],
        *,
        space: str | None = None,
        config: Config | None = None,
        chunk_size: int = ...,
        max_in_flight: int = ...,
        ordered: bool = ...,
    ) -> Generator[Result, None, None]:
        """Scores architectures, as many as there are; see `archscore.Client.score_many`.

        The iterable is consumed in the caller's thread, at most `chunk_size * max_in_flight` architectures ahead of the
        results that were handed out. An architecture that cannot be scored has an error in its result.

        Args:
            architectures: encodings, or architectures of `archscore.spaces`.
            proxies: names of proxies.
            space: the search space of encodings, "nasbench201" by default. Architecture values know their own.
            config: how to evaluate: an `EvaluationConfig` message, or a mapping in its proto3 JSON form.
            chunk_size: architectures that are asked together.
            max_in_flight: chunks on their way at a time.
            ordered: whether results come in the order of the iterable, or as they are ready.

        Raises:
            ArchscoreError: the request as a whole failed.
        """
        ...

    def proxies(self) -> Sequence[scoring_pb2.Proxy]:
        """The proxies that can be asked for, with the direction in which each ranks."""
        ...
