"""How well scores rank architectures: correlations of ranks, regret, and how sure they are.

What has no score ranks below all that has, whichever way the proxy ranks: cells that are disconnected (degenerate) and
values that are not finite, all of them tied. Intervals are from the bootstrap over cells: 95 % of the resampled values
lie within.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, rankdata

from archscore.study._rows import Scores

Array: TypeAlias = NDArray[np.float64]

_TAILS: Final = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure and its 95 % interval.

    Attributes:
        value: on all cells.
        low: lower end of the interval.
        high: upper end.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Ranking:
    """How well one proxy ranks cells by one accuracy.

    Attributes:
        tau: Kendall's tau (b).
        rho: Spearman's rho.
        regret: percentage points between the best accuracy of all cells and the best of the few that rank highest.
    """

    tau: Figure
    rho: Figure
    regret: Figure


def as_ranked(scores: Sequence[Scores], name: str, *, higher_is_better: bool) -> Array:
    """One proxy's scores, the higher the better; an architecture without a score comes last, [n]."""
    sign = 1.0 if higher_is_better else -1.0
    values = (own[name] for own in scores)
    return np.array([-np.inf if isinstance(value, str) else sign * value for value in values])


def rank_sums(values: Array) -> Array:
    """Sums of ranks, the higher the better: [n, proxies] -> [n]. Those that tie share the mean of their ranks."""
    sums: Array = rankdata(values, axis=0).sum(axis=1)
    return sums


def tau(values: Array, accuracies: Array) -> float:
    """Kendall's tau (b) of three cells or more, [n] and [n]; NaN where one of the two is constant."""
    return float(kendalltau(values, accuracies, method="asymptotic").statistic)


def regret(values: Array, accuracies: Array, top: int) -> float:
    """What is lost by training the `top` highest alone; of those that tie, the worst count as the higher, [n], [n]."""
    chosen = np.lexsort((accuracies, -values))[:top]
    return float(accuracies.max() - accuracies[chosen].max())


def rankings(values: Array, accuracies: Array, *, top: int, resamples: int, seed: int = 0) -> list[list[Ranking]]:
    """Figures for each proxy and accuracy.

    Args:
        values: scores, the higher the better, [n, proxies].
        accuracies: [n, columns].
        top: how many of the highest the regret is about.
        resamples: how often to draw n of the n cells for the intervals.
        seed: of these draws.

    Returns:
        By proxy, and in it by column of the accuracies.
    """
    resampled = np.array(
        [_figures(values[rows], accuracies[rows], top) for rows in draws(len(values), resamples, seed)]
    )
    low, high = _tails(resampled)
    own = _figures(values, accuracies, top)
    return [
        [
            Ranking(*(Figure(*map(float, (own[k, i, j], low[k, i, j], high[k, i, j]))) for k in range(3)))
            for j in range(accuracies.shape[1])
        ]
        for i in range(values.shape[1])
    ]


def draws(count: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """The cells of each resample, as places, [count]."""
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield rng.integers(0, count, count)


def interval(own: float, resampled: Sequence[float]) -> Figure:
    """A figure with the interval of its resampled values."""
    low, high = _tails(np.array(resampled))
    return Figure(own, float(low), float(high))


def _tails(resampled: Array) -> Array:
    """Ends of the intervals, [2, ...] of [resamples, ...]; NaN where all are."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)
        found: Array = np.nanpercentile(resampled, _TAILS, axis=0)
    return found


def _figures(values: Array, accuracies: Array, top: int) -> Array:
    """Tau, rho and regret, [3, proxies, columns]."""
    ranks, of_accuracies = rankdata(values, axis=0), rankdata(accuracies, axis=0)
    shape = (values.shape[1], accuracies.shape[1])
    taus, regrets = np.empty(shape), np.empty(shape)
    for i, j in np.ndindex(shape):
        taus[i, j] = tau(ranks[:, i], of_accuracies[:, j])
        regrets[i, j] = regret(values[:, i], accuracies[:, j], top)
    return np.stack([taus, _correlations(ranks, of_accuracies), regrets])


def _correlations(left: Array, right: Array) -> Array:
    """Pearson's correlation of columns: [n, a], [n, b] -> [a, b]. NaN where one is constant."""
    left, right = left - left.mean(axis=0), right - right.mean(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Array = (left.T @ right) / np.outer(np.linalg.norm(left, axis=0), np.linalg.norm(right, axis=0))
    return found
