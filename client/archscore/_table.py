"""Plain text tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from archscore._results import Result, Score
from archscore.errors import ArchscoreError

_GAP: Final = "  "
_SCORE_WIDTH: Final = 12
_SCORE_WITH_ERROR_WIDTH: Final = 20
_LONGEST_TEXT: Final = 160


class ScoreTable:
    """Scores by architecture, written row by row: scores first, because their columns have a known width."""

    def __init__(self, proxies: Sequence[str], *, errors: bool) -> None:
        """Lays out the columns.

        Args:
            proxies: one column each.
            errors: whether to leave room for standard errors.
        """
        width = _SCORE_WITH_ERROR_WIDTH if errors else _SCORE_WIDTH
        self._columns = [(proxy, max(width, len(proxy))) for proxy in proxies]

    def header(self) -> str:
        """The first line."""
        return _GAP.join([*(f"{_printable(proxy):>{width}}" for proxy, width in self._columns), "architecture"])

    def row(self, result: Result) -> str:
        """The line of one architecture; ends in its error if it has one."""
        scores = result.evaluation.scores if result.evaluation else {}
        cells = [f"{_cell(scores.get(proxy)):>{width}}" for proxy, width in self._columns]
        cells.append(_printable(str(result.architecture)))
        if result.error is not None:
            cells.append(_describe(result.error))
        return _GAP.join(cells)


def format_table(rows: Sequence[Sequence[object]]) -> str:
    """Rows with aligned columns; numbers to the right, text to the left."""
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        _GAP.join(
            f"{cell:>{width}}" if isinstance(cell, int) else f"{cell!s:<{width}}"
            for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    )


def _cell(score: Score | None) -> str:
    if score is None:
        return "-"
    if score.value is None:
        return score.outcome
    if score.standard_error is None:
        return f"{score.value:.6g}"
    return f"{score.value:.6g} ±{score.standard_error:.2g}"


def _describe(error: ArchscoreError) -> str:
    # The row says which architecture it is; what is left to say is what is wrong with it.
    faults = "; ".join(filter(None, (violation.description for violation in error.field_violations)))
    return f"error: {_printable(faults or str(error))}"


def _printable(text: str) -> str:
    """The text as a terminal may show it: on one line, not endless, without control characters."""
    if len(text) > _LONGEST_TEXT:
        text = text[: _LONGEST_TEXT - 3] + "..."
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
