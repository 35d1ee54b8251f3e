"""Optuna: what studies are told of scores, and of what has none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import chain

import optuna
import pytest
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from archscore import ArchitectureError, ArchscoreError, Client, DeadlineExceededError, Outcome, UsageError
from archscore.adapters.optuna import optimize, suggest
from archscore.search import Constraints, NothingFoundError
from archscore.spaces import nasbench201, zennas
from puppet_server import score_of
from support.invented import InventedScorer

BUDGET = Constraints(max_parameters=1_000_000, max_sub_layers=18)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    yield
    optuna.logging.set_verbosity(before)


def study_with(sampler: BaseSampler | None = None, directions: tuple[str, ...] = ("maximize",)) -> optuna.Study:
    return optuna.create_study(directions=directions, sampler=sampler or RandomSampler(seed=2))


def test_trials_are_scored_in_batches(scorer: InventedScorer) -> None:
    study = study_with()
    optimize(study, scorer, "tcet", trials=20, batch_size=8)
    assert [len(batch) for batch in scorer.batches] == [8, 8, 4]
    assert [trial.user_attrs["architecture"] for trial in study.trials] == list(chain(*scorer.batches))
    for trial in study.trials:
        cell = nasbench201.parse(trial.user_attrs["architecture"])
        assert trial.params == {
            f"edge{source}{target}": operation
            for (source, target), operation in zip(nasbench201.EDGES, cell.operations, strict=True)
        }
        assert trial.value == scorer.formulas["tcet"](cell)
        assert "fault" not in trial.user_attrs


def test_a_sampler_finds_what_is_good(scorer: InventedScorer) -> None:
    study = study_with(TPESampler(seed=1))
    optimize(study, scorer, "tcet", trials=128)
    assert study.best_value >= 5
    assert study.best_trial.user_attrs["architecture"].count("nor_conv_3x3") == study.best_value


def test_it_is_the_same_again(scorer: InventedScorer) -> None:
    for _ in range(2):
        optimize(study_with(TPESampler(seed=1)), scorer, "tcet", trials=40, batch_size=20)
    assert scorer.batches[:2] == scorer.batches[2:]


def test_several_objectives(scorer: InventedScorer) -> None:
    study = study_with(NSGAIISampler(seed=1, population_size=16), ("maximize", "minimize"))
    optimize(study, scorer, ["tcet", "parameters"], trials=64)
    front = {tuple(trial.values) for trial in study.best_trials}
    assert len(front) >= 3
    assert sorted(front) == sorted(front, key=lambda values: values[1])


def test_what_has_no_scores(faulty: InventedScorer, fault: Outcome | ArchscoreError) -> None:
    study = study_with()
    optimize(study, faulty, "tcet", trials=32)
    without = [trial for trial in study.trials if trial.params["edge01"] == "none"]
    assert 0 < len(without) < 32
    state = TrialState.FAIL if isinstance(fault, DeadlineExceededError) else TrialState.PRUNED
    said = str(fault) if isinstance(fault, ArchscoreError) else f"tcet is {fault}"
    for trial in study.trials:
        assert trial.state == (state if trial in without else TrialState.COMPLETE)
        assert trial.user_attrs.get("fault") == (said if trial in without else None)


def test_samplers_keep_away_from_what_cannot_be_scored(scorer: InventedScorer) -> None:
    for cell in nasbench201.cells():
        if cell.operations[0] == "nor_conv_3x3":
            scorer.faults[cell.format()] = ArchitectureError("too large")
    study = study_with(TPESampler(seed=1))
    optimize(study, scorer, "tcet", trials=90)
    early, late = (
        [trial.state for trial in study.trials[part]].count(TrialState.PRUNED) for part in (slice(0, 30), slice(60, 90))
    )
    assert late < early


def test_genomes_keep_to_the_constraints(scorer: InventedScorer) -> None:
    study = study_with()
    optimize(study, scorer, "tcet", trials=10, batch_size=5, space="zennas", constraints=BUDGET)
    asked = [zennas.parse(encoding) for batch in scorer.batches for encoding in batch]
    assert len(asked) == 10
    assert all(zennas.CIFAR_BUDGET.fits(genome) for genome in asked)
    pruned = [trial for trial in study.trials if trial.state == TrialState.PRUNED]
    assert len(study.trials) == 10 + len(pruned)
    assert pruned
    for trial in pruned:
        assert not zennas.CIFAR_BUDGET.fits(zennas.parse(trial.user_attrs["architecture"]))
        assert trial.user_attrs["fault"] == "not with at most 1,000,000 parameters and 18 sub-layers"


def test_constraints_that_nothing_keeps_to(scorer: InventedScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archscore.adapters.optuna._MAX_TRIES", 20)
    study = study_with()
    with pytest.raises(NothingFoundError, match="at most 10 parameters among 20 trials"):
        optimize(study, scorer, "tcet", trials=2, constraints=Constraints(max_parameters=10))
    assert not scorer.batches
    assert all(trial.state == TrialState.PRUNED for trial in study.trials)


@pytest.mark.parametrize(
    ("failure", "said"),
    [(ArchscoreError("the server is away"), "the server is away"), (KeyboardInterrupt(), "KeyboardInterrupt")],
)
def test_no_trial_is_left_running(scorer: InventedScorer, failure: BaseException, said: str) -> None:
    study = study_with()
    scorer.failure = (3, failure)
    with pytest.raises(type(failure)):
        optimize(study, scorer, "tcet", trials=20, batch_size=8)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 3 + [TrialState.FAIL] * 5
    assert {trial.user_attrs["fault"] for trial in study.trials[3:]} == {said}
    optimize(study, scorer, "tcet", trials=4)
    assert len(study.get_trials(states=[TrialState.COMPLETE])) == 7


def test_a_client_is_a_scorer(target: str) -> None:
    study = study_with()
    with Client(target) as client:
        optimize(study, client, ["tcet"], trials=10)
    for trial in study.trials:
        assert trial.value == score_of(trial.user_attrs["architecture"], "tcet")


def test_suggestions_serve_other_objectives() -> None:
    def objective(trial: optuna.Trial) -> float:
        genome = suggest(trial, "zennas")
        assert isinstance(genome, zennas.Genome)
        return float(genome.sub_layers)

    study = study_with()
    study.optimize(objective, n_trials=3)
    assert zennas.parse(study.best_trial.user_attrs["architecture"]).sub_layers == study.best_value


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"proxies": ["tcet", "parameters"]}, "1 directions, for 2 proxies"),
        ({"proxies": []}, "at least one, not none"),
        ({"proxies": ["tcet", "tcet"]}, "different proxies"),
        ({"trials": 0}, "must be at least 1"),
        ({"batch_size": 0}, "must be at least 1"),
        ({"space": "darts"}, "darts"),
        ({"constraints": Constraints(max_sub_layers=3)}, "max_sub_layers"),
        ({"config": {"no_such_field": 1}}, "no_such_field"),
    ],
)
def test_arguments_that_make_no_sense(scorer: InventedScorer, arguments: dict[str, object], said: str) -> None:
    study = study_with()
    with pytest.raises(UsageError, match=said):
        optimize(study, scorer, **{"proxies": "tcet", "trials": 4, **arguments})
    assert not study.trials


def test_without_optuna_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "archscore.adapters.optuna")
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"pip install 'archscore\[optuna\]'"):
        import archscore.adapters.optuna  # noqa: F401
