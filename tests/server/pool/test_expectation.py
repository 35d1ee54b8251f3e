from __future__ import annotations

from dataclasses import replace

import pytest

from archscore.spaces import zennas
from archscore_server.engine import ArchitectureTooLargeError, EvaluationConfig, Precision
from archscore_server.engine.work import predicted_work
from archscore_server.pool import Batch
from archscore_server.pool._expectation import Expectation
from puppets import cell, evaluation_of

CELL = cell(6111)
CONFIG = EvaluationConfig()


def batch(*names: str, config: EvaluationConfig = CONFIG, size: int = 1) -> Batch:
    return Batch((CELL,) * size, names, config)


def learn(expectation: Expectation, work: Batch, seconds: float) -> None:
    forecast = expectation.of(work, "cpu")
    forecast.progress([(place, evaluation_of(CELL)) for place in range(len(work.architectures))])
    forecast.finish(seconds)


def test_what_was_never_measured_gets_very_long() -> None:
    """A CPU core evaluates this in a quarter of a second."""
    assert 100 < Expectation().of(batch("tcet"), "cpu").allowance < 10_000
    assert 1000 < Expectation().of(batch("tcet", size=128), "cuda").allowance < 10_000
    assert Expectation().of(batch("flops"), "cpu").allowance == 0


def test_what_was_measured_gets_many_times_as_long() -> None:
    expectation = Expectation()
    learn(expectation, batch("tcet", size=4), 2.0)
    assert expectation.of(batch("tcet", size=4), "cpu").allowance == pytest.approx(40.0)
    assert expectation.of(batch("tcet"), "cpu").allowance == pytest.approx(10.0)


def test_the_slowest_kind_of_work_counts() -> None:
    expectation = Expectation()
    learn(expectation, batch("tcet"), 0.5)
    learn(expectation, batch("grasp"), 500.0)
    slow = expectation.of(batch("tcet"), "cpu").allowance
    tcet, grasp = (predicted_work(CELL, [name], CONFIG) for name in ("tcet", "grasp"))
    assert slow == pytest.approx(20 * 500 * tcet / grasp)


@pytest.mark.parametrize(
    "other",
    [
        batch("snip"),
        batch("tcet", config=replace(CONFIG, precision=Precision.FLOAT64)),
        Batch((zennas.START,), ("tcet",), replace(CONFIG, network=zennas.NetworkConfig())),
    ],
)
def test_what_is_not_like_the_measured_stays_unmeasured(other: Batch) -> None:
    expectation = Expectation()
    before = expectation.of(other, "cpu").allowance
    learn(expectation, batch("tcet"), 0.01)
    assert expectation.of(other, "cpu").allowance == before
    learn(expectation, batch("tcet"), 10_000.0)
    assert expectation.of(other, "cpu").allowance > before


def test_the_average_moves() -> None:
    expectation = Expectation()
    learn(expectation, batch("tcet"), 10.0)
    for _ in range(50):
        learn(expectation, batch("tcet"), 1.0)
    assert expectation.of(batch("tcet"), "cpu").allowance == pytest.approx(20.0, rel=0.01)


def test_only_what_is_left_counts() -> None:
    forecast = Expectation().of(batch("tcet", size=4), "cpu")
    whole = forecast.allowance
    forecast.progress([(1, evaluation_of(CELL)), (3, evaluation_of(CELL))])
    assert forecast.allowance == pytest.approx(whole / 2)
    forecast.progress([(0, evaluation_of(CELL)), (2, evaluation_of(CELL))])
    assert forecast.allowance == 0


def test_nothing_is_learnt_from_what_was_not_evaluated() -> None:
    expectation = Expectation()
    before = expectation.of(batch("tcet"), "cpu").allowance
    forecast = expectation.of(batch("tcet"), "cpu")
    forecast.progress([(0, ArchitectureTooLargeError(2, 1))])
    forecast.finish(0.001)
    learn(expectation, batch("flops"), 0.001)
    assert expectation.of(batch("tcet"), "cpu").allowance == before


def test_kinds_of_work_are_remembered_up_to_a_number() -> None:
    expectation = Expectation()
    for number in range(1000):
        learn(expectation, batch("tcet", f"unknown_{number}"), 1.0)
    assert len(expectation._paces) <= 256
