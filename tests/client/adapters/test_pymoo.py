"""pymoo: populations scored at once, fronts of several objectives, and what has no scores."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from pymoo.core.result import Result
from pymoo.optimize import minimize

from archscore import Client, UsageError
from archscore.adapters.pymoo import ArchitectureProblem, nsga2
from archscore.search import Constraints
from archscore.spaces import nasbench201, zennas
from puppet_server import score_of
from support.invented import InventedScorer

BUDGET = Constraints(max_parameters=1_000_000, max_sub_layers=18)


def problem_of(scorer: object, **settings: object) -> ArchitectureProblem:
    return ArchitectureProblem(scorer, maximize=["tcet"], minimize=["parameters"], **settings)


def found(problem: ArchitectureProblem, generations: int, pop_size: int = 16) -> Result:
    return minimize(problem, nsga2(pop_size), ("n_gen", generations), seed=1)


def test_a_population_is_one_request(scorer: InventedScorer) -> None:
    result = found(problem_of(scorer), generations=4)
    assert [len(batch) for batch in scorer.batches] == [16] * 4
    assert result.problem.n_var == 6


def test_the_front(scorer: InventedScorer) -> None:
    problem = problem_of(scorer)
    result = found(problem, generations=20, pop_size=24)
    cells = [problem.architecture(x) for x in result.X]
    assert np.array_equal(result.F, [[-scorer.formulas["tcet"](c), scorer.formulas["parameters"](c)] for c in cells])
    # A 3x3 convolution each, and nothing else that has parameters: what no search can beat.
    best = {(n, 73_306 + 243_040 * n) for n in range(7)}
    assert {(-f, p) for f, p in result.F} <= best
    assert len(result.F) >= 5


def test_it_is_the_same_again(scorer: InventedScorer) -> None:
    for _ in range(2):
        found(problem_of(scorer), generations=3)
    assert scorer.batches[:3] == scorer.batches[3:]


def test_genomes_keep_to_the_constraints(scorer: InventedScorer) -> None:
    problem = problem_of(scorer, space="zennas", constraints=BUDGET)
    result = found(problem, generations=12)
    genomes = [problem.architecture(x) for x in result.X]
    assert genomes
    assert all(zennas.CIFAR_BUDGET.fits(genome) for genome in genomes)
    asked = [zennas.parse(encoding) for batch in scorer.batches for encoding in batch]
    assert all(zennas.CIFAR_BUDGET.fits(genome) for genome in asked)
    assert len(asked) < 12 * 16


def test_sizes_beyond_the_constraints_guide_the_search(scorer: InventedScorer) -> None:
    problem = problem_of(scorer, constraints=Constraints(max_parameters=100_000))
    cells = [("nor_conv_3x3",) * n + ("none",) * (6 - n) for n in (0, 1, 2)]
    x = np.array([dict(zip(problem.vars, cell, strict=True)) for cell in cells])
    objectives, violations = problem.evaluate(x)
    assert np.isinf(objectives[1:]).all()
    assert np.isfinite(objectives[0]).all()
    assert violations[:, 0] == pytest.approx([-0.26694, 2.16346, 4.59386])
    assert violations[:, 1].tolist() == [0, 1, 1]
    assert len(scorer.batches[0]) == 1


def test_what_has_no_scores_is_no_solution(faulty: InventedScorer) -> None:
    problem = problem_of(faulty)
    result = found(problem, generations=5)
    assert np.isfinite(result.F).all()
    assert all(x["edge01"] != "none" for x in result.X)
    assert any(encoding in faulty.faults for batch in faulty.batches for encoding in batch)


def test_nothing_has_scores(faulty: InventedScorer) -> None:
    for cell in nasbench201.cells():
        faulty.faults[cell.format()] = next(iter(faulty.faults.values()))
    assert found(problem_of(faulty), generations=3).X is None


def test_nothing_keeps_to_the_constraints(scorer: InventedScorer) -> None:
    assert found(problem_of(scorer, constraints=Constraints(max_parameters=10)), generations=2).X is None
    assert scorer.batches == [[], []]


def test_a_client_is_a_scorer(target: str) -> None:
    with Client(target) as client:
        problem = ArchitectureProblem(client, minimize=["flops"], maximize=["ssnr", "naswot"])
        result = found(problem, generations=2)
        assert found(problem_of(client, constraints=Constraints(max_parameters=10)), generations=1).X is None
    for x, scores in zip(result.X, result.F, strict=True):
        encoding = problem.architecture(x).format()
        assert scores.tolist() == [-score_of(encoding, p) for p in ("ssnr", "naswot")] + [score_of(encoding, "flops")]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "at least one"),
        ({"maximize": ["tcet"], "minimize": ["tcet"]}, "different"),
        ({"maximize": ["tcet"], "space": "darts"}, "darts"),
        ({"maximize": ["tcet"], "constraints": Constraints(max_sub_layers=3)}, "max_sub_layers"),
    ],
)
def test_arguments_that_make_no_sense(scorer: InventedScorer, settings: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ArchitectureProblem(scorer, **settings)


def test_without_pymoo_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "archscore.adapters.pymoo")
    monkeypatch.setitem(sys.modules, "pymoo.core", None)
    with pytest.raises(ImportError, match=r"pip install 'archscore\[pymoo\]'"):
        import archscore.adapters.pymoo  # noqa: F401
