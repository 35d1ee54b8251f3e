"""Evaluations that failed for good, remembered for a while."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

#: How long a failure is remembered, in seconds: each costs three workers and all that waited for them, and who asks
#: again asks soon. Not for ever, since the fault may have been the machine's.
_SECONDS = 600.0
#: How many are; the oldest are forgotten first.
_MAX = 1_000


class Failures:
    """Why some evaluations are not tried again for now."""

    def __init__(self) -> None:
        """None."""
        self._failures: OrderedDict[Hashable, tuple[float, str]] = OrderedDict()

    def add(self, evaluation: Hashable, why: str, now: float) -> None:
        """Remembers a failure."""
        self._failures[evaluation] = (now + _SECONDS, why)
        self._failures.move_to_end(evaluation)
        if len(self._failures) > _MAX:
            self._failures.popitem(last=False)

    def get(self, evaluation: Hashable, now: float) -> str | None:
        """Why an evaluation failed, if it did so lately."""
        if not self._failures:
            return None
        until, why = self._failures.get(evaluation, (now, ""))
        if until > now:
            return why
        self._failures.pop(evaluation, None)
        return None
