"""Puts scores and accuracies together."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np

from archscore.errors import UsageError
from archscore.study._accuracies import Accuracies
from archscore.study._file import ScoreFile
from archscore.study._published import TAU
from archscore.study._rank_sums import Choice, choose
from archscore.study._ranking import Array, Ranking, as_ranked, rank_sums, rankings
from archscore.study._rows import Row

#: How many of the highest the regret is about.
TOP: Final = 10

#: Least cells that mean anything.
_LEAST: Final = 4

#: A rank sum whose tau is of interest before anything has been chosen.
_GIVEN: Final = (("tcet_grad", "layerwise_naswot_train"),)

_Names = tuple[str, ...]


@dataclass(frozen=True)
class Study:
    """Scores of cells and accuracies of the same cells.

    Attributes:
        file: the scores.
        rows: those of cells whose accuracies are known.
        columns: names of the accuracies.
        accuracies: in percent, [n, columns].
        resamples: draws for the intervals.
    """

    file: ScoreFile
    rows: Sequence[Row]
    columns: Sequence[str]
    accuracies: Array
    resamples: int

    @classmethod
    def join(cls, file: ScoreFile, accuracies: Accuracies, resamples: int) -> Study:
        """Puts together what is known of the same cells.

        Raises:
            UsageError: there are hardly any.
        """
        columns = list(accuracies)
        rows = [row for row in file.rows.values() if all(row.index in accuracies[column] for column in columns)]
        if len(rows) < _LEAST:
            raise UsageError(f"there are {len(rows)} cells with scores and accuracies; a study takes {_LEAST}")
        table = np.array([[accuracies[column][row.index] for column in columns] for row in rows])
        return cls(file, rows, columns, table, resamples)

    @cached_property
    def names(self) -> list[_Names]:
        """What is ranked by: each proxy, and the rank sums that papers report."""
        proxies = self.file.setting.proxies
        return [*((name,) for name in proxies), *(one for one in TAU if len(one) > 1 and proxies.keys() >= set(one))]

    @cached_property
    def rankings(self) -> dict[_Names, dict[str, Ranking]]:
        """Figures by what is ranked by, best first, and column."""
        values = np.stack([self.values(one) for one in self.names], axis=1)
        found = rankings(values, self.accuracies, top=TOP, resamples=self.resamples)
        by_name = {one: dict(zip(self.columns, own, strict=True)) for one, own in zip(self.names, found, strict=True)}
        columns = [self.columns[place] for place in self.judged_by]
        return dict(sorted(by_name.items(), key=lambda item: -_mean_tau([item[1][column] for column in columns])))

    @cached_property
    def unscored(self) -> dict[str, int]:
        """How many cells have no score, by outcome, in any proxy at most."""
        proxies = self.file.setting.proxies
        return {
            outcome: max((sum(row.scores[name] == outcome for row in self.rows) for name in proxies), default=0)
            for outcome in ("degenerate", "non_finite")
        }

    def scored(self, one: _Names) -> int:
        """How many cells have a score by all of these proxies."""
        return sum(all(not isinstance(row.scores[name], str) for name in one) for row in self.rows)

    @cached_property
    def pass_seconds(self) -> Mapping[str, float]:
        """What each pass took, median over the cells; empty where that is not known."""
        names = dict.fromkeys(name for row in self.rows for name in row.seconds)
        return {
            name: statistics.median(row.seconds[name] for row in self.rows if name in row.seconds) for name in names
        }

    def seconds(self, one: _Names) -> float | None:
        """What the passes that these proxies need take for a cell; None where that is not known."""
        needed = {own for name in one for own in self.file.setting.proxies[name].passes}
        if not needed <= self.pass_seconds.keys():
            return None
        return sum(self.pass_seconds[name] for name in needed)

    @property
    def judged_by(self) -> list[int]:
        """Places of the columns that count where one thing is to be better than another: test accuracies, if any."""
        tests = [place for place, column in enumerate(self.columns) if column.endswith("_test")]
        return tests or list(range(len(self.columns)))

    def choice(self, passes: Sequence[str]) -> Choice:
        """Rank sums of proxies that need no other passes than these.

        Raises:
            UsageError: there are no such passes, or too few such proxies.
        """
        proxies = self.file.setting.proxies
        known = {own for info in proxies.values() for own in info.passes}
        unknown = sorted(set(passes) - known)
        if unknown:
            raise UsageError(f"unknown passes: {', '.join(unknown)}; these proxies need {', '.join(sorted(known))}")
        names = [name for name, info in proxies.items() if set(info.passes) <= set(passes)]
        values = np.stack([self.values((name,)) for name in names], axis=1) if names else np.empty((len(self.rows), 0))
        try:
            return choose(names, values, self.accuracies[:, self.judged_by], given=_GIVEN, resamples=self.resamples)
        except ValueError as error:
            raise UsageError(f"--rank-sums: {error}") from None

    def values(self, one: _Names) -> Array:
        """What is ranked by, the higher the better; -inf where there is no score, [n]."""
        proxies = self.file.setting.proxies
        scores = [row.scores for row in self.rows]
        columns = [as_ranked(scores, name, higher_is_better=proxies[name].higher_is_better) for name in one]
        return columns[0] if len(one) == 1 else rank_sums(np.stack(columns, axis=1))


def _mean_tau(found: Sequence[Ranking]) -> float:
    mean = float(np.mean([ranking.tau.value for ranking in found]))
    return -2.0 if np.isnan(mean) else mean
