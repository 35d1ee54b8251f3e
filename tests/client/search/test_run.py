"""Searches: the same whatever the order of answers, never twice the same question, and resumed as if never ended."""

from __future__ import annotations

import json
import random

import pytest

from archscore import ArchitectureError, Client, DeadlineExceededError, UsageError
from archscore.search import (
    CELL_OBJECTIVE,
    DEFAULT_OBJECTIVE,
    Constraints,
    Elimination,
    LocalSearch,
    NothingFoundError,
    RandomSearch,
    RegularisedEvolution,
    Screening,
    Settings,
    _domain,
    run_search,
)
from archscore.spaces import nasbench201, zennas
from support.scorers import FakeScorer, invented

STRATEGIES = [
    RandomSearch(),
    RegularisedEvolution(population=12, tournament=4),
    Elimination(population=12),
    LocalSearch(patience=6),
    Screening(screens=(("naswot",),), keep=0.25),
]
BUDGET = Constraints(max_parameters=1_000_000, max_sub_layers=18)


def settings(space="nasbench201", **changes):
    values = {"space": space, "evaluations": 60, "proxies": ("tcet",), "batch": 8}
    if space == "zennas":
        values |= {"evaluations": 40, "constraints": BUDGET}
    return Settings(**(values | changes))


def by_name(strategy):
    return strategy.name


def files(directory):
    """What a search leaves, without how long it took."""
    checkpoint = json.loads((directory / "checkpoint.json").read_text())
    del checkpoint["seconds"]
    return (directory / "log.jsonl").read_bytes(), checkpoint


@pytest.fixture(autouse=True)
def short_walks(monkeypatch):
    """A random genome takes 10 ms otherwise."""
    monkeypatch.setattr(_domain, "WALK_STEPS", 4)


@pytest.fixture(params=["nasbench201", "zennas"])
def space(request):
    return request.param


# The same for a seed


@pytest.mark.parametrize("strategy", STRATEGIES, ids=by_name)
def test_nothing_is_asked_twice_and_every_answer_is_kept(space, strategy):
    scorer = FakeScorer()
    history = run_search(scorer, settings(space, strategy=strategy))
    stages = {}
    for encoding, proxies in scorer.asked:
        stages.setdefault(proxies, []).append(encoding)
    for encodings in stages.values():
        assert len(set(encodings)) == len(encodings)
    assert [record.architecture for record in history.records] == [encoding for encoding, _ in scorer.asked]
    assert len(stages[next(iter(stages))]) == settings(space).evaluations


@pytest.mark.parametrize("proxies", [("tcet",), ("tcet", "naswot", "ntk_condition_number")], ids=["one", "rank-sum"])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=by_name)
def test_how_far_ahead_the_scorer_asks_changes_nothing(space, strategy, proxies):
    found = [
        run_search(FakeScorer(ahead=ahead), settings(space, strategy=strategy, proxies=proxies)).records
        for ahead in (None, 1, 3)
    ]
    assert found[0] == found[1] == found[2]


def test_the_order_of_answers_changes_nothing(puppet, target):
    def search():
        with Client(target) as client:
            return run_search(client, settings(strategy=RegularisedEvolution(population=12, tournament=4))).records

    in_order = search()
    puppet.reverse = True
    assert search() == in_order
    assert any(record.parent is not None for record in in_order)


def test_another_seed_is_another_search():
    one, other = (run_search(FakeScorer(), settings(seed=seed)).records for seed in (0, 1))
    assert {record.architecture for record in one} != {record.architecture for record in other}


def test_a_proposal_knows_the_results_up_to_a_batch_before_it():
    class Spy(RegularisedEvolution):
        def start(self, domain, objective, lag):
            proposer = super().start(domain, objective, lag)
            told, propose = [], proposer.propose

            def spy(number, rng):
                known.append((number, len(told)))
                return propose(number, rng)

            proposer.propose, proposer.tell = spy, told.append
            return proposer

    known = []
    run_search(FakeScorer(), settings(strategy=Spy()))
    assert set(known) == {(number, max(0, number + 1 - 8)) for number in range(60)}


def test_a_scorer_that_asks_too_far_ahead_is_found_out():
    class Greedy(FakeScorer):
        def score_many(self, *arguments, **options):
            return super().score_many(*arguments, **options | {"max_in_flight": 100})

    with pytest.raises(RuntimeError, match=r"asked for architecture 8 with 0 results .* at most 8 ahead"):
        run_search(Greedy(), settings())


# What is asked


def test_constraints_hold_and_are_counted_with_residual_links(space):
    limits = {"nasbench201": Constraints(max_parameters=500_000, max_flops=80_000_000, max_layers=60), "zennas": BUDGET}
    history = run_search(FakeScorer(), settings(space, constraints=limits[space], strategy=RegularisedEvolution(10, 3)))
    assert history.rejected
    module = {"nasbench201": nasbench201, "zennas": zennas}[space]
    network = zennas.NetworkConfig(residual_links=True) if space == "zennas" else nasbench201.NetworkConfig()
    for record in history.records:
        size = module.parse(record.architecture).size(network, resolution=32, num_classes=10)
        assert (record.measures.parameters, record.measures.flops, record.measures.layers) == (
            size.parameters,
            size.flops,
            size.layers,
        )
        assert limits[space].excess(record.measures) <= 1


@pytest.mark.parametrize(
    ("space", "constraints", "message"),
    [
        (
            "nasbench201",
            Constraints(max_parameters=1000),
            "no architecture of nasbench201 has at most 1,000",
        ),
        ("zennas", Constraints(max_parameters=300), r"no .* with at most 300 parameters found in [\d,]+ tries"),
    ],
)
def test_constraints_that_nothing_keeps_to(space, constraints, message):
    scorer = FakeScorer()
    with pytest.raises(NothingFoundError, match=message):
        run_search(scorer, settings(space, constraints=constraints, strategy=Elimination()))
    assert not scorer.asked


def test_a_budget_below_the_start_of_the_space_is_reached(monkeypatch):
    monkeypatch.setattr(_domain, "WALK_STEPS", 64)
    small = Constraints(max_parameters=30_000)
    history = run_search(FakeScorer(), settings("zennas", constraints=small, evaluations=3))
    assert all(record.measures.parameters <= 30_000 for record in history.records)


def test_a_space_may_be_exhausted():
    small = Constraints(max_parameters=73_306)  # cells without a convolution: 3^6
    history = run_search(
        FakeScorer(), settings(constraints=small, evaluations=2000, strategy=RegularisedEvolution(20, 5))
    )
    assert history.exhausted
    assert len({record.architecture for record in history.records}) == len(history.records) == 3**6


def test_sizes_are_those_of_the_config():
    config = {"nasbench201": {"channels": 4, "cells_per_stage": 1}, "resolution": 8, "num_classes": 100}
    record = run_search(FakeScorer(), settings(config=config, evaluations=1)).records[0]
    network = nasbench201.NetworkConfig(channels=4, cells_per_stage=1)
    size = nasbench201.parse(record.architecture).size(network, resolution=8, num_classes=100)
    assert (record.measures.parameters, record.measures.flops) == (size.parameters, size.flops)


def test_a_config_that_leaves_sizes_open():
    with pytest.raises(UsageError, match="'npz:mine' needs its resolution and num_classes"):
        run_search(FakeScorer(), settings(config={"dataset": "npz:mine"}))


# What has no score


def poisoned(architecture, proxy):
    match random.Random(architecture.format()).randrange(4):
        case 0:
            return ArchitectureError("too large", code="RESOURCE_EXHAUSTED")
        case 1:
            return "degenerate"
        case 2 if proxy == "tcet":
            return "non_finite"
    return invented(architecture, proxy)


@pytest.mark.parametrize("proxies", [("tcet",), ("tcet", "naswot")], ids=["one", "rank-sum"])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=by_name)
def test_what_has_no_score_ranks_last_and_is_reported(strategy, proxies):
    history = run_search(FakeScorer(value=poisoned), settings(strategy=strategy, proxies=proxies))
    assert sum(history.outcomes.values()) == len(history.records)
    assert set(history.outcomes) == {"ok", "degenerate", "non_finite", "failed"}
    outcomes = [entry.record.outcome for entry in history.ranking()]
    assert outcomes.index("ok") == 0
    assert "ok" not in outcomes[outcomes.count("ok") :]
    assert next(record.detail for record in history.records if record.outcome == "failed") == "too large"


def test_a_search_where_nothing_has_a_score():
    history = run_search(FakeScorer(value=lambda *_: "degenerate"), settings(strategy=LocalSearch()))
    assert history.best is None
    assert history.failures == 60


def test_an_answer_that_does_not_come_ends_the_search_since_it_says_nothing_of_the_architecture(tmp_path):
    late = DeadlineExceededError("late", code="DEADLINE_EXCEEDED")
    slow = FakeScorer(value=lambda architecture, proxy: late if "skip" in architecture.format() else 1.0)
    with pytest.raises(DeadlineExceededError, match="late"):
        run_search(slow, settings(), directory=tmp_path)
    assert run_search(FakeScorer(), settings(), directory=tmp_path, resume=True).failures == 0


# Objectives


def test_the_direction_is_the_proxys():
    history = run_search(FakeScorer(), settings(proxies=("ntk_condition_number",)))
    values = [record.scores["ntk_condition_number"] for record in history.records]
    assert history.best.scores["ntk_condition_number"] == min(values)


@pytest.mark.parametrize(
    ("proxies", "message"),
    [((), "at least one"), (("tcet", "tcet"), "each proxy once"), (("tcat",), "unknown proxy 'tcat': known are")],
)
def test_objectives_that_make_no_sense(proxies, message):
    with pytest.raises(UsageError, match=message):
        run_search(FakeScorer(), settings(proxies=proxies))


def test_screening_asks_dear_proxies_of_the_best_only():
    scorer = FakeScorer()
    history = run_search(scorer, settings(strategy=Screening((("naswot",), ("tcet_log",)), 0.25), proxies=("tcet",)))
    assert [proxies for proxies, _ in scorer.calls] == [("naswot",), ("tcet_log",), ("tcet",)]
    stages = [[record for record in history.records if record.stage == stage] for stage in range(3)]
    assert [len(stage) for stage in stages] == [60, 15, 4]
    best = sorted(stages[0], key=lambda record: -record.scores["naswot"])[:15]
    assert [record.parent for record in stages[1]] == [record.index for record in best]
    assert history.best == max(stages[2], key=lambda record: record.scores["tcet"])


# Interruptions


@pytest.mark.parametrize("strategy", STRATEGIES, ids=by_name)
@pytest.mark.parametrize("ends_after", [8, 37, 62])
def test_a_search_goes_on_as_if_it_had_never_ended(tmp_path, space, strategy, ends_after):
    asked = settings(space, strategy=strategy, evaluations=60, proxies=("tcet", "naswot"))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = run_search(FakeScorer(), asked, directory=whole)
    try:
        run_search(FakeScorer(ends_after=ends_after), asked, directory=parts)
    except KeyboardInterrupt:
        scorer = FakeScorer()
        history = run_search(scorer, asked, directory=parts, resume=True)
        assert history.records == expected.records
        assert len(scorer.asked) == len(expected.records) - ends_after  # an interrupted search keeps all it has
        assert (history.rejected, history.repeated) == (expected.rejected, expected.repeated)
    assert files(parts) == files(whole)


def test_more_evaluations_are_those_of_a_longer_search(tmp_path, space):
    strategy = Elimination(12)
    longer = settings(space, strategy=strategy, evaluations=50)
    run_search(FakeScorer(), settings(space, strategy=strategy, evaluations=29), directory=tmp_path / "a")
    run_search(FakeScorer(), longer, directory=tmp_path / "a", resume=True)
    run_search(FakeScorer(), longer, directory=tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_a_finished_search_asks_nothing_more(tmp_path):
    expected = run_search(FakeScorer(), settings(), directory=tmp_path)
    scorer = FakeScorer()
    assert run_search(scorer, settings(), directory=tmp_path, resume=True).records == expected.records
    assert not scorer.asked


def test_a_screening_grows_only_in_its_first_stage(tmp_path):
    screening = Screening((("naswot",),), 0.25)
    with pytest.raises(KeyboardInterrupt):
        run_search(FakeScorer(ends_after=30), settings(strategy=screening), directory=tmp_path)
    run_search(FakeScorer(), settings(strategy=screening, evaluations=80), directory=tmp_path, resume=True)
    with pytest.raises(UsageError, match="past its first stage"):
        run_search(FakeScorer(), settings(strategy=screening, evaluations=90), directory=tmp_path, resume=True)


def test_a_directory_is_not_overwritten_unless_asked(tmp_path):
    run_search(FakeScorer(), settings(), directory=tmp_path)
    before = files(tmp_path)
    with pytest.raises(UsageError, match="holds a search already"):
        run_search(FakeScorer(), settings(seed=1), directory=tmp_path)
    assert files(tmp_path) == before
    run_search(FakeScorer(), settings(seed=1), directory=tmp_path, overwrite=True)
    assert files(tmp_path) != before


def test_a_search_that_never_got_anywhere_leaves_no_trace(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_search(FakeScorer(ends_after=0), settings(), directory=tmp_path)
    run_search(FakeScorer(), settings(seed=1), directory=tmp_path)


def test_a_server_that_became_another_one_is_noticed(tmp_path):
    class Restarted(FakeScorer):
        def _result(self, index, architecture, names):
            result = super()._result(index, architecture, names)
            result.evaluation.fingerprint.torch_version = "1" if len(self.asked) < 21 else "2"
            return result

    history = run_search(Restarted(), settings(), directory=tmp_path)
    assert [index for index, _ in history.fingerprints] == [0, 20]
    resumed = run_search(FakeScorer(), settings(evaluations=61), directory=tmp_path, resume=True)
    assert [index for index, _ in resumed.fingerprints] == [0, 20, 60]


# Settings


@pytest.mark.parametrize(
    ("space", "proxies", "strategy", "constraints"),
    [
        ("nasbench201", CELL_OBJECTIVE, RegularisedEvolution(), Constraints()),
        ("zennas", DEFAULT_OBJECTIVE, Elimination(), BUDGET),
    ],
)
def test_defaults_are_those_of_the_space(space, proxies, strategy, constraints):
    said = Settings(space=space, evaluations=5, proxies=proxies, strategy=strategy, constraints=constraints)
    assert Settings(space=space, evaluations=5).to_json() == said.to_json()
    assert Settings(space=space, evaluations=5, constraints=Constraints()).constraints == Constraints()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluations": 0}, "at least 1"),
        ({"batch": 0}, "at least 1"),
        ({"evaluations": 15_626}, "at most 15625"),
        ({"space": "darts"}, "unknown search space 'darts'"),
        ({"constraints": BUDGET}, "max_sub_layers does not go with search space nasbench201"),
        ({"config": {"resolution": 30}}, "config: resolution must be a positive multiple of 4"),
        ({"config": {"resolution": 30}, "space": "zennas"}, "config: resolution must be a multiple"),
        ({"config": {"resolutoin": 32}}, "config: .*resolutoin"),
    ],
)
def test_settings_that_make_no_sense(changes, message):
    with pytest.raises(UsageError, match=message):
        run_search(FakeScorer(), settings(**changes))


@pytest.mark.parametrize(
    ("strategy", "parameters"),
    [
        (RegularisedEvolution, {"population": 0}),
        (RegularisedEvolution, {"tournament": 0}),
        (Elimination, {"population": 0}),
        (LocalSearch, {"patience": 0}),
        (Screening, {"keep": 0.0}),
        (Screening, {"keep": 1.5}),
        (Screening, {"screens": ()}),
        (Constraints, {"max_parameters": 0}),
    ],
)
def test_values_that_make_no_sense(strategy, parameters):
    with pytest.raises(ValueError, match=r"at least|above 0"):
        strategy(**parameters)
