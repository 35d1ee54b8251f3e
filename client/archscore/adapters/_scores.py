"""What became of an architecture, as libraries that search ask: numbers, or why there are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from archscore._results import Outcome, Result
from archscore.errors import ArchitectureError, UsageError


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of one architecture.

    Attributes:
        values: one for each proxy that was asked for, in that order; None unless all have one.
        fault: why there are none, for people; empty if there are.
        is_final: whether the same can be said of the architecture whenever it is asked for: it is degenerate, not
            finite, or cannot be scored. A deadline that passed says nothing of the architecture.
    """

    values: tuple[float, ...] | None
    fault: str = ""
    is_final: bool = True


def read(result: Result, proxies: Sequence[str]) -> Scores:
    """The scores of a result."""
    if result.error is not None:
        return Scores(None, str(result.error), is_final=isinstance(result.error, ArchitectureError))
    values = []
    for proxy in proxies:
        score = result.evaluation.scores[proxy] if result.evaluation is not None else None
        if score is None or score.outcome is not Outcome.OK or score.value is None:
            return Scores(None, f"{proxy} is {score.outcome if score is not None else Outcome.UNKNOWN}")
        values.append(score.value)
    return Scores(tuple(values))


def proxy_names(proxies: str | Sequence[str]) -> tuple[str, ...]:
    """The proxies that a caller named, at least one and each once.

    Raises:
        UsageError: they are none, or not different.
    """
    names = (proxies,) if isinstance(proxies, str) else tuple(proxies)
    if not names or len(set(names)) < len(names):
        raise UsageError(f"expected names of different proxies, at least one, not {', '.join(names) or 'none'}")
    return names
