"""What an evaluation returns: plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """How a score came out. There are no sentinel values: only OK has one."""

    OK = "ok"
    DEGENERATE = "degenerate"
    NON_FINITE = "non_finite"


@dataclass(frozen=True, slots=True)
class Score:
    """One proxy's score of one architecture.

    Attributes:
        outcome: how it came out.
        value: the mean over repeats, when the outcome is OK.
        standard_error: sample standard deviation over repeats, over the square root of their number; only with repeats.
    """

    outcome: Outcome
    value: float | None = None
    standard_error: float | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The scores of one architecture, by proxy, in the order asked."""

    scores: Mapping[str, Score]
