"""Rank sums of proxies that one evaluation yields together: chosen on one half of the cells, judged on the other."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from archscore.study._ranking import Array, Figure, draws, interval, tau

#: How many proxies a rank sum has.
SIZES: Final = (2, 3, 4)

_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class RankSum:
    """A proxy, or a rank sum of several.

    Attributes:
        proxies: their names.
        chosen: mean tau over the accuracies on the half that it was chosen on.
        taus: on the other half, by accuracy.
        gain: mean tau over the accuracies, less that of the single proxy that did best on the first half, on the other.
    """

    proxies: tuple[str, ...]
    chosen: float
    taus: tuple[Figure, ...]
    gain: Figure


@dataclass(frozen=True, slots=True)
class Choice:
    """What came of a choice.

    Attributes:
        candidates: how many were compared, single proxies included.
        left_out: proxies that rank just as another does.
        chosen_on: cells of the half that was chosen on.
        judged_on: cells of the other half.
        single: the best single proxy.
        best: the best rank sums, best first by the half that they were chosen on.
        given: rank sums that were asked for by name.
    """

    candidates: int
    left_out: tuple[str, ...]
    chosen_on: int
    judged_on: int
    single: RankSum
    best: tuple[RankSum, ...]
    given: tuple[RankSum, ...]


def choose(
    names: Sequence[str],
    values: Array,
    accuracies: Array,
    *,
    given: Sequence[tuple[str, ...]] = (),
    resamples: int,
    seed: int = 0,
) -> Choice:
    """Compares all rank sums of `SIZES` proxies.

    Args:
        names: of proxies.
        values: their scores, the higher the better, [n, proxies].
        accuracies: [n, columns]; what counts is the mean tau over the columns.
        given: rank sums to judge whether or not they are among the best.
        resamples: draws of the second half for the intervals.
        seed: of the halves, and of the draws.

    Raises:
        ValueError: there are fewer than two proxies, or fewer than four cells.
    """
    kept, left_out = _distinct(names, values)
    if len(kept) < min(SIZES) or len(values) < 4:
        raise ValueError("a rank sum takes two proxies that rank differently, and four cells")
    first, second = _halves(len(values), seed)
    ranks = rankdata(values[first], axis=0)
    on_first = {one: _mean_tau(ranks, accuracies[first], one) for one in _candidates(kept)}
    order = sorted(on_first, key=lambda one: -np.nan_to_num(on_first[one], nan=-2.0))
    single = next(one for one in order if len(one) == 1)
    places = {name: place for place, name in enumerate(names)}

    def judged(one: tuple[int, ...]) -> RankSum:
        chosen = on_first[one] if one in on_first else _mean_tau(ranks, accuracies[first], one)
        return _judged(names, values[second], accuracies[second], one, single, chosen, resamples, seed)

    return Choice(
        candidates=len(order),
        left_out=left_out,
        chosen_on=len(first),
        judged_on=len(second),
        single=judged(single),
        best=tuple(judged(one) for one in [own for own in order if len(own) > 1][:_SHOWN]),
        given=tuple(judged(tuple(places[name] for name in own)) for own in given if places.keys() >= set(own)),
    )


def _distinct(names: Sequence[str], values: Array) -> tuple[list[int], tuple[str, ...]]:
    """Places of proxies that rank cells in ways of their own, and names of the rest."""
    kept: dict[bytes, int] = {}
    left_out = []
    for place, name in enumerate(names):
        _, ranks = np.unique(values[:, place], return_inverse=True)
        if kept.setdefault(ranks.tobytes(), place) != place or not ranks.any():
            left_out.append(name)
    return [place for place in kept.values() if names[place] not in left_out], tuple(left_out)


def _candidates(places: Sequence[int]) -> Iterator[tuple[int, ...]]:
    for size in (1, *SIZES):
        yield from itertools.combinations(places, size)


def _halves(count: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    order = np.random.default_rng(seed).permutation(count)
    return order[: count // 2], order[count // 2 :]


def _taus(ranks: Array, accuracies: Array, one: tuple[int, ...]) -> list[float]:
    summed = ranks[:, one].sum(axis=1)
    return [tau(summed, column) for column in accuracies.T]


def _mean_tau(ranks: Array, accuracies: Array, one: tuple[int, ...]) -> float:
    return float(np.mean(_taus(ranks, accuracies, one)))


def _judged(
    names: Sequence[str],
    values: Array,
    accuracies: Array,
    one: tuple[int, ...],
    single: tuple[int, ...],
    chosen: float,
    resamples: int,
    seed: int,
) -> RankSum:
    """Ranks are taken anew in each resample, as a search takes them in its own population."""

    def found(rows: NDArray[np.int64] | slice) -> tuple[list[float], float]:
        ranks = rankdata(values[rows], axis=0)
        taus = _taus(ranks, accuracies[rows], one)
        return taus, float(np.mean(taus)) - _mean_tau(ranks, accuracies[rows], single)

    taus, gain = found(slice(None))
    resampled = [found(rows) for rows in draws(len(values), resamples, seed)]
    return RankSum(
        tuple(names[place] for place in one),
        chosen,
        tuple(interval(own, [drawn[column] for drawn, _ in resampled]) for column, own in enumerate(taus)),
        interval(gain, [drawn for _, drawn in resampled]),
    )
