"""What a chaos run asks: each kind of request in its share, and each malformation for what it is taken."""

import random
from collections import Counter

import pytest

from archscore.v1 import scoring_pb2
from archscore_server import requests as checks
from archscore_server.config import Limits
from archscore_server.datasets import Catalogue
from archscore_server.engine import Datasets
from archscore_server.errors import RequestError
from chaos.answers import Comparison, Fault, Reply, Score, fault
from chaos.asking import STREAM, UNARY, Request, requests
from chaos.universe import MAX_ARCHITECTURES, PROXIES, Universe

COUNT = 600
OK = scoring_pb2.OUTCOME_OK


@pytest.fixture(scope="module")
def made() -> list[Request]:
    rng = random.Random(0)
    universe = Universe(100, rng)
    universe.learn({point: {name: Score(OK, 1.0) for name in PROXIES} for point in universe.points})
    return requests(universe, COUNT, rng)


def test_the_shares(made: list[Request]) -> None:
    kinds = Counter(request.kind for request in made)
    assert kinds["malformed"] == COUNT // 3
    assert 0 < kinds["dangerous"] < COUNT // 10
    assert kinds["right"] == COUNT - kinds["malformed"] - kinds["dangerous"]
    assert sum(request.abandoned is not None for request in made) == COUNT // 10
    assert {request.method for request in made} > {UNARY, STREAM}
    assert len({request.client for request in made}) > 2
    assert {request.abandoned for request in made} == {None, "cancelled", "closed", "expired"}


def test_the_same_seed_asks_the_same(made: list[Request]) -> None:
    rng = random.Random(0)
    universe = Universe(100, rng)
    universe.learn({point: {name: Score(OK, 1.0) for name in PROXIES} for point in universe.points})
    assert requests(universe, COUNT, rng) == made


async def test_the_server_finds_the_faults_that_are_expected(made: list[Request]) -> None:
    limits = Limits(max_architectures_per_request=MAX_ARCHITECTURES)
    catalogue = Catalogue(Datasets(None))
    await catalogue.scan()
    checked = 0
    for request in made:
        if not isinstance(request.expected, Fault) or request.label in ("garbage", "truncated", "method", "encoding"):
            continue
        if request.kind != "malformed":
            continue
        kind = scoring_pb2.ScoreArchitecturesRequest if request.streams else scoring_pb2.ScoreArchitectureRequest
        with pytest.raises(RequestError) as caught:
            checks.ScoringRequests(limits, catalogue).check(kind.FromString(request.body))
        assert fault(caught.value.status) == request.expected, request.label
        checked += 1
    assert checked > COUNT // 6


@pytest.mark.parametrize(
    ("reply", "difference"),
    [
        (Reply({0: {"tcet": Score(OK, 100.9)}}), None),
        (Reply({0: {"tcet": Score(OK, 101.1)}}), "[0]: expected tcet 100.0, came tcet 101.1"),
        (Reply({0: {"tcet": Score(scoring_pb2.OUTCOME_NON_FINITE, None)}}), "came tcet OUTCOME_NON_FINITE"),
        (Reply({0: {"snip": Score(OK, 100.0)}}), "came snip"),
        (Reply({}), "expected 1 answers, came those of []"),
        (Reply({0: Fault(13, "ARCHITECTURE_FAILED")}), "came INTERNAL ARCHITECTURE_FAILED"),
        (Reply(fault=Fault(13, "INTERNAL")), "came INTERNAL INTERNAL"),
    ],
)
def test_what_is_an_equal_answer(reply: Reply, difference: str | None) -> None:
    found = Comparison().differences([{"tcet": Score(OK, 100.0)}], reply)
    assert (not found) if difference is None else (difference in found[0])
