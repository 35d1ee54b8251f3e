"""Archai, and whatever else sends architectures one by one and fetches their results together.

    from archscore import Client
    from archscore.adapters.archai import ProxyEvaluator

    with Client("localhost:50051") as client:
        evaluator = ProxyEvaluator(client, "tcet")
        evaluator.send("index:6111")
        evaluator.send("index:81")
        print(evaluator.fetch_all())

`ProxyEvaluator` has the methods of Archai's `AsyncModelEvaluator`, which is not needed to use it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from archscore._requests import Architecture, Config
from archscore.adapters._scores import read

if TYPE_CHECKING:
    from archscore.search import Scorer


class ProxyEvaluator:
    """Scores what was sent when it is fetched, all in one go.

    Not to be shared by threads.
    """

    def __init__(
        self,
        scorer: Scorer,
        proxy: str,
        *,
        encode: Callable[[Any], Architecture] | None = None,
        space: str | None = None,
        config: Config | None = None,
    ) -> None:
        """Takes what to ask for.

        Args:
            scorer: an `archscore.Client`, or anything that scores as it does.
            proxy: whose scores are the results.
            encode: makes an encoding, or an architecture of `archscore.spaces`, of what is sent, such as an
                `ArchaiModel`. None takes what is sent as it is.
            space: the search space of encodings, "nasbench201" by default. Architecture values know their own.
            config: how to evaluate, as for `Client.score_many`.
        """
        self._scorer = scorer
        self._proxy = proxy
        self._encode = encode
        self._space = space
        self._config = config
        self._sent: list[Architecture] = []

    def send(self, arch: Any, budget: float | None = None) -> None:  # noqa: ARG002 -- part of the interface
        """Notes an architecture for the next `fetch_all`.

        Args:
            arch: an architecture, or what `encode` makes one of.
            budget: how much of a training to spend, in algorithms that vary it. Scores need none: it has no effect.
        """
        self._sent.append(arch if self._encode is None else self._encode(arch))

    def fetch_all(self) -> list[float | None]:
        """Scores all that was sent since the last time.

        Returns:
            The scores in the order sent; None for an architecture that has none: it is degenerate, not finite, or
            cannot be scored.

        Raises:
            ArchscoreError: the scorer failed as a whole. What was sent is kept for another call.
        """
        results: list[float | None] = []
        for result in self._scorer.score_many(self._sent, [self._proxy], space=self._space, config=self._config):
            values = read(result, [self._proxy]).values
            results.append(None if values is None else values[0])
        self._sent = []
        return results
