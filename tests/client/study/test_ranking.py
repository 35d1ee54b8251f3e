"""Correlations of ranks, regret and intervals, against other implementations and by hand."""

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from archscore.study._ranking import as_ranked, rank_sums, rankings, regret, tau


def test_what_has_no_score_ranks_last_whichever_way_a_proxy_ranks() -> None:
    scores = [{"snip": 2.0, "ntk": 2.0}, {"snip": "degenerate", "ntk": "non_finite"}, {"snip": -9.0, "ntk": 9.0}]
    assert list(as_ranked(scores, "snip", higher_is_better=True)) == [2.0, -np.inf, -9.0]
    assert list(as_ranked(scores, "ntk", higher_is_better=False)) == [-2.0, -np.inf, -9.0]


def test_disconnected_cells_count() -> None:
    # Two cells without a score and the worst accuracies: they tie with each other and rank below the rest.
    values = as_ranked([{"p": 3.0}, {"p": 1.0}, {"p": "degenerate"}, {"p": "degenerate"}], "p", higher_is_better=True)
    accuracies = np.array([90.0, 80.0, 10.0, 11.0])
    # Of six pairs five are in order, and one ties in the scores: 5 / sqrt(5 * 6).
    assert tau(values, accuracies) == pytest.approx(5 / 30**0.5)


def test_figures_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    values, accuracies = rng.integers(0, 9, (40, 3)).astype(float), rng.random((40, 2))
    values[:4, 1] = -np.inf
    found = rankings(values, accuracies, top=5, resamples=3)
    for i in range(3):
        for j in range(2):
            assert found[i][j].tau.value == pytest.approx(kendalltau(values[:, i], accuracies[:, j]).statistic)
            ranked = np.unique(values[:, i], return_inverse=True)[1]
            assert found[i][j].rho.value == pytest.approx(spearmanr(ranked, accuracies[:, j]).statistic)


@pytest.mark.parametrize(
    ("values", "top", "expected"),
    [
        ([4.0, 3.0, 2.0, 1.0], 1, 3.0),  # the highest score has 7 %, the best has 10
        ([4.0, 3.0, 2.0, 1.0], 2, 1.0),
        ([4.0, 3.0, 2.0, 1.0], 9, 0.0),
        ([1.0, 1.0, 1.0, 1.0], 1, 8.0),  # of those that tie, the worst
        ([-np.inf, 1.0, -np.inf, 2.0], 3, 1.0),
    ],
)
def test_regret(values: list[float], top: int, expected: float) -> None:
    assert regret(np.array(values), np.array([7.0, 9.0, 10.0, 2.0]), top) == expected


def test_intervals_cover_what_they_should() -> None:
    # 40 samples of 60 from a population whose tau is known; the 95 % intervals of most contain it.
    rng = np.random.default_rng(1)
    quality = rng.normal(size=4_000)
    scores = quality + rng.normal(size=4_000)
    true = tau(scores, quality)
    inside = 0
    for sample in (rng.integers(0, 4_000, 60) for _ in range(40)):
        [[ranking]] = rankings(scores[sample, None], quality[sample, None], top=5, resamples=40)
        inside += ranking.tau.low <= true <= ranking.tau.high
        assert ranking.tau.low <= ranking.tau.value <= ranking.tau.high
    assert 33 <= inside <= 40


def test_intervals_are_the_same_each_time() -> None:
    rng = np.random.default_rng(2)
    values, accuracies = rng.random((30, 2)), rng.random((30, 1))
    assert rankings(values, accuracies, top=3, resamples=9) == rankings(values, accuracies, top=3, resamples=9)


def test_a_proxy_that_is_the_same_everywhere_has_no_correlation() -> None:
    [[ranking]] = rankings(np.ones((9, 1)), np.arange(9.0)[:, None], top=3, resamples=5)
    assert np.isnan([ranking.tau.value, ranking.tau.low, ranking.rho.value, ranking.rho.high]).all()
    assert ranking.regret.value == 6.0  # the three worst


def test_rank_sums() -> None:
    values = np.array([[10.0, 1.0], [20.0, 1.0], [-np.inf, 5.0], [30.0, 0.0]])
    assert list(rank_sums(values)) == [2 + 2.5, 3 + 2.5, 1 + 4, 4 + 1]
