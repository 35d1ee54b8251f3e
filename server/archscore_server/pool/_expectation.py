"""How long a batch may take before its worker is taken for hung: much longer than such batches took so far.

To kill a worker that is merely slow is far worse than to notice late that one hangs: it would be killed again at every
retry. So everything here errs on the side of patience.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Final

from archscore_server.engine import ArchitectureTooLargeError, Evaluation
from archscore_server.engine.work import predicted_work
from archscore_server.pool._base import Batch

#: How much longer than expected a batch may take.
_MARGIN = 20.0

#: Seconds for 1e9 multiply-accumulates, while nothing like it was measured, by kind of device: very slow ones.
_UNMEASURED: Final = {"cpu": 4.0, "cuda": 0.03}

#: Kinds of work remembered.
_KINDS = 256

#: Weight of the newest batch in the moving average of its kind.
_NEWEST = 0.2


class Expectation:
    """Learns how long work takes from the batches of all workers."""

    def __init__(self) -> None:
        """Knows nothing yet."""
        self._paces: OrderedDict[Hashable, float] = OrderedDict()

    def of(self, batch: Batch, device_kind: str) -> Forecast:
        """What is expected of a batch that is about to run on a kind of device, the same in each call."""
        kind = (frozenset(batch.proxies), batch.config.precision, type(batch.config.network))
        paces = list(self._paces.values())
        pace = max(paces if kind in self._paces else [_UNMEASURED[device_kind], *paces])
        costs = [
            predicted_work(architecture, batch.proxies, batch.config) / 1e9 for architecture in batch.architectures
        ]
        return Forecast(self, kind, costs, _MARGIN * pace)

    def learn(self, kind: Hashable, pace: float) -> None:
        """Takes a batch into account that took `pace` seconds for each 1e9 multiply-accumulates."""
        known = self._paces.pop(kind, pace)
        self._paces[kind] = known + _NEWEST * (pace - known)
        if len(self._paces) > _KINDS:
            self._paces.popitem(last=False)


class Forecast:
    """How long a running batch may still take."""

    def __init__(self, expectation: Expectation, kind: Hashable, costs: Sequence[float], pace: float) -> None:
        """Made by `Expectation.of`."""
        self._expectation = expectation
        self._kind = kind
        self._left = dict(enumerate(costs))
        self._pace = pace
        self._done = 0.0

    @property
    def allowance(self) -> float:
        """Seconds for what is left of the batch."""
        return self._pace * sum(self._left.values())

    def progress(self, results: Sequence[tuple[int, Evaluation | ArchitectureTooLargeError]]) -> None:
        """A stack has finished."""
        for place, result in results:
            own = self._left.pop(place, 0.0)  # to complain of a place that is not there is the caller's
            if isinstance(result, Evaluation):
                self._done += own

    def finish(self, seconds: float) -> None:
        """The batch has ended, after so many seconds: the next forecasts will know."""
        if self._done:
            self._expectation.learn(self._kind, seconds / self._done)
