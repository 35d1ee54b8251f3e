"""One suite over both scorers: a client of a real server, and the engine in this process."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from archscore import Client, InvalidRequestError, Outcome, UsageError
from archscore.search import Constraints, Elimination, RegularisedEvolution, Scorer, Settings, run_search
from archscore.spaces import nasbench201, zennas
from archscore.v1 import scoring_pb2
from archscore_server.scorer import EngineScorer
from support.process import server_process

TINY = {"batch_size": 16, "resolution": 8, "nasbench201": {"channels": 4, "cells_per_stage": 1}}
TINY_GENOMES = {"batch_size": 8, "resolution": 8}
GOOD = nasbench201.from_index(6111)
DISCONNECTED = nasbench201.parse("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|")


@pytest.fixture(scope="module")
def scorers() -> Iterator[dict[str, Scorer]]:
    with (
        server_process("--device", "cpu", "--workers", "1", "--threads", "1") as server,
        Client(server.address) as client,
    ):
        yield {"client": client, "engine": EngineScorer()}


@pytest.fixture(params=["client", "engine"])
def scorer(scorers: dict[str, Scorer], request: pytest.FixtureRequest) -> Scorer:
    return scorers[request.param]


def test_each_architecture_has_its_result_in_order(scorer):
    asked = [GOOD, "index:81", "|bad", DISCONNECTED, "index:15625", "\udc80", nasbench201.from_index(5)]
    results = list(scorer.score_many(iter(asked), ["tcet", "parameters"], config=TINY, chunk_size=2, max_in_flight=2))
    assert [result.index for result in results] == list(range(len(asked)))
    assert [result.architecture for result in results] == asked
    assert [result.error is None for result in results] == [True, True, False, True, False, False, True]
    assert math.isfinite(results[0]["tcet"])
    assert (
        results[0]["parameters"]
        == GOOD.size(nasbench201.NetworkConfig(channels=4, cells_per_stage=1), resolution=8, num_classes=10).parameters
    )
    assert results[3].evaluation.scores["tcet"].outcome is Outcome.DEGENERATE
    assert "architectures[2].encoding: at position 1" in str(results[2].error)
    assert "architectures[4].encoding: at position 6" in str(results[4].error)


def test_both_say_the_same(scorers):
    asked = [GOOD, "index:81", "|bad", DISCONNECTED]
    client, engine = (
        list(scorer.score_many(asked, ["tcet", "naswot", "ntk_condition_number"], config={**TINY, "repeats": 2}))
        for scorer in scorers.values()
    )
    for theirs, ours in zip(client, engine, strict=True):
        assert type(theirs.error) is type(ours.error)
        assert str(theirs.error) == str(ours.error)
        if theirs.error is None:
            assert theirs.evaluation.fingerprint == ours.evaluation.fingerprint
            for proxy, score in theirs.evaluation.scores.items():
                own = ours.evaluation.scores[proxy]
                assert own.outcome is score.outcome
                assert own.value == (None if score.value is None else pytest.approx(score.value, rel=1e-5))
                assert (own.standard_error is None) == (score.standard_error is None)


def test_results_may_come_as_they_are_ready(scorer):
    asked = ["|bad", GOOD, DISCONNECTED]
    results = list(scorer.score_many(asked, "tcet", config=TINY, ordered=False))
    assert sorted(result.index for result in results) == [0, 1, 2]


def test_spaces_may_be_mixed(scorer):
    config = {"batch_size": 8, "resolution": 8}
    results = list(scorer.score_many([GOOD, zennas.START, GOOD], ["flops"], config=config))
    assert [result["flops"] for result in results] == [
        architecture.size(space.network, resolution=8, num_classes=10).flops
        for architecture, space in ((GOOD, nasbench201.SPACE), (zennas.START, zennas.SPACE), (GOOD, nasbench201.SPACE))
    ]


def test_it_is_consumed_no_further_ahead_than_said(scorer):
    taken = []

    def source():
        for index in range(40):
            taken.append(index)
            yield nasbench201.from_index(index)

    results = scorer.score_many(source(), ["flops"], config=TINY, chunk_size=3, max_in_flight=2)
    assert not taken
    for number, _ in enumerate(results):
        assert len(taken) <= number + 6
        if number == 20:
            results.close()
            break
    assert len(taken) < 40


def test_architectures_over_a_limit_fail_alone(scorer):
    huge = "SuperConvK3BNRELU(3,8,1,1)SuperConvK7BNRELU(8,99999,1,900)"
    fine, large = scorer.score_many([zennas.START.format(), huge], ["tcet"], space="zennas", config=TINY_GENOMES)
    assert fine.error is None
    assert large.error.reason == "ARCHITECTURE_TOO_LARGE"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"proxies": ["tcat"]}, InvalidRequestError, "unknown proxy 'tcat'"),
        ({"config": {"batch_size": 1}}, InvalidRequestError, "config.batch_size"),
        ({"config": {"batch": 1}}, UsageError, "config: "),
        ({"space": "darts"}, InvalidRequestError, "unknown search space"),
        ({"architectures": "index:1"}, UsageError, "architectures is a string"),
        ({"chunk_size": 0}, UsageError, "at least 1"),
        ({"architectures": [7]}, UsageError, "an architecture is a string or a value"),
    ],
)
def test_faults_of_the_request_raise(scorer, arguments, error, message):
    arguments = {"architectures": ["index:1"], "proxies": ["tcet"]} | arguments
    with pytest.raises(error, match=message):
        list(scorer.score_many(arguments.pop("architectures"), arguments.pop("proxies"), **arguments))


def test_proxies_and_their_directions(scorer):
    directions = {proxy.name: proxy.direction for proxy in scorer.proxies()}
    assert directions["tcet"] == scoring_pb2.DIRECTION_HIGHER_IS_BETTER
    assert directions["ntk_condition_number"] == scoring_pb2.DIRECTION_LOWER_IS_BETTER


@pytest.mark.parametrize(
    ("space", "config", "strategy"),
    [
        ("nasbench201", TINY, RegularisedEvolution(population=6, tournament=3)),
        ("zennas", TINY_GENOMES, Elimination(population=12)),
    ],
)
def test_searches_find_the_same(scorers, space, config, strategy):
    settings = Settings(
        space=space,
        evaluations=20,
        proxies=("naswot",),
        strategy=strategy,
        batch=4,
        config=config,
        constraints=Constraints(max_parameters=1_000_000),
    )
    client, engine = (run_search(scorer, settings) for scorer in scorers.values())
    assert [record.architecture for record in client.records] == [record.architecture for record in engine.records]
    assert client.best.architecture == engine.best.architecture
