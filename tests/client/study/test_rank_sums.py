"""Choosing among rank sums, where it is known which is best."""

import itertools
import math

import numpy as np
import pytest

from archscore.study._rank_sums import choose

NAMES = ["good", "also_good", "better_than_both", "noise", "copy_of_good", "constant"]


@pytest.fixture(scope="module")
def population() -> tuple[np.ndarray, np.ndarray]:
    """Two halves of the truth, each seen without error, that only together rank right; and one that errs a little."""
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, 400))
    truth = left + right
    values = [left, right, truth + rng.normal(scale=1.1, size=400), rng.normal(size=400), 2 * left - 1, np.ones(400)]
    return np.stack(values, axis=1), np.stack([truth, truth + rng.normal(scale=0.1, size=400)], axis=1)


def test_the_pair_that_together_is_right_is_chosen(population) -> None:
    values, accuracies = population
    found = choose(NAMES[:2] + NAMES[3:], np.delete(values, 2, axis=1), accuracies, resamples=20)
    assert found.best[0].proxies == ("good", "also_good")
    assert found.single.proxies[0] in ("good", "also_good")
    assert found.best[0].gain.low > 0.2
    assert all(figure.value > 0.85 for figure in found.best[0].taus)


def test_what_is_reported_is_of_the_half_that_was_not_chosen_on(population) -> None:
    # Pure noise: the best of many rank sums looks good on the half that it was chosen on, and is nothing on the other.
    rng = np.random.default_rng(3)
    names = [f"noise{number}" for number in range(7)]
    found = choose(names, rng.normal(size=(80, 7)), rng.normal(size=(80, 1)), resamples=40, seed=1)
    assert found.best[0].chosen > 0.1
    assert abs(found.best[0].taus[0].value) < found.best[0].chosen
    assert found.best[0].taus[0].low < 0 < found.best[0].taus[0].high
    assert (found.chosen_on, found.judged_on) == (40, 40)


def test_what_ranks_as_another_does_is_left_out(population) -> None:
    values, accuracies = population
    found = choose(NAMES, values, accuracies, resamples=2)
    assert found.left_out == ("copy_of_good", "constant")
    kept = 4
    assert found.candidates == sum(math.comb(kept, size) for size in (1, 2, 3, 4))
    shown = {own.proxies for own in found.best}
    kept_names = [name for name in NAMES if name not in found.left_out]
    assert shown <= {one for size in (2, 3, 4) for one in itertools.combinations(kept_names, size)}
    assert [own.chosen for own in found.best] == sorted((own.chosen for own in found.best), reverse=True)


def test_a_rank_sum_that_is_asked_for_is_judged_too(population) -> None:
    values, accuracies = population
    given = [("noise", "copy_of_good"), ("good", "unknown")]
    found = choose(NAMES, values, accuracies, given=given, resamples=2)
    assert [own.proxies for own in found.given] == [("noise", "copy_of_good")]


def test_halves_depend_on_the_seed_alone(population) -> None:
    values, accuracies = population
    first = choose(NAMES, values, accuracies, resamples=3, seed=1)
    assert choose(NAMES, values, accuracies, resamples=3, seed=1) == first
    assert choose(NAMES, values, accuracies, resamples=3, seed=2).best[0].taus != first.best[0].taus


def test_too_little_to_choose_from(population) -> None:
    values, accuracies = population
    with pytest.raises(ValueError, match="two proxies"):
        choose(NAMES[4:], values[:, 4:], accuracies, resamples=2)
    with pytest.raises(ValueError, match="four cells"):
        choose(NAMES, values[:3], accuracies[:3], resamples=2)
