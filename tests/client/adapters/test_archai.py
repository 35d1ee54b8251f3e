"""The evaluator of Archai's kind: results in the order sent, None for what has none."""

from __future__ import annotations

import abc
import inspect
from dataclasses import dataclass

import pytest

from archscore import ArchscoreError, Client, UnavailableError
from archscore.adapters.archai import ProxyEvaluator
from archscore.spaces import nasbench201, zennas
from puppet_server import MALFORMED, Puppet, score_of
from support.invented import InventedScorer


class AsyncModelEvaluator(abc.ABC):
    """The interface of Archai: what its `AsyncModelEvaluator` declares."""

    @abc.abstractmethod
    def send(self, arch: object, budget: float | None = None) -> None: ...

    @abc.abstractmethod
    def fetch_all(self) -> list[float | None]: ...


@dataclass
class Model:
    """As an `ArchaiModel`: a network and its id."""

    arch: object
    archid: str


def test_results_are_in_the_order_sent(puppet: Puppet, target: str) -> None:
    puppet.reverse = True
    names = [f"cell{number}" for number in range(100)]
    puppet.item_script["cell7"] = [MALFORMED]
    with Client(target) as client:
        evaluator = ProxyEvaluator(client, "tcet")
        for name in [*names, "none", "bad"]:
            evaluator.send(name, budget=None)
        assert not puppet.requests
        results = evaluator.fetch_all()
        assert results == [score_of(name, "tcet") if name != "cell7" else None for name in names] + [None, None]
        assert evaluator.fetch_all() == []
        evaluator.send("cell7", 0.5)
        assert evaluator.fetch_all() == [score_of("cell7", "tcet")]


def test_what_has_no_score_is_none(faulty: InventedScorer) -> None:
    evaluator = ProxyEvaluator(faulty, "tcet")
    for first in ("none", "skip_connect", "none"):
        evaluator.send(nasbench201.Cell((first, *["nor_conv_3x3"] * 5)))
    assert evaluator.fetch_all() == [None, 5, None]


def test_models_are_encoded(scorer: InventedScorer) -> None:
    evaluator = ProxyEvaluator(scorer, "tcet", encode=lambda model: model.archid, space="zennas")
    evaluator.send(Model(None, zennas.START.format()))
    assert evaluator.fetch_all() == [zennas.START.sub_layers]


def test_what_was_sent_is_kept_when_the_server_is_away(scorer: InventedScorer) -> None:
    evaluator = ProxyEvaluator(scorer, "tcet")
    evaluator.send("index:6111")
    evaluator.send("index:81")
    scorer.failure = (1, UnavailableError("away"))
    with pytest.raises(ArchscoreError, match="away"):
        evaluator.fetch_all()
    assert len(evaluator.fetch_all()) == 2


def test_it_can_be_one_of_archais() -> None:
    class Evaluator(ProxyEvaluator, AsyncModelEvaluator):
        pass

    evaluator = Evaluator(InventedScorer(tcet=lambda cell: cell.operations.count("none")), "tcet")
    assert isinstance(evaluator, AsyncModelEvaluator)
    evaluator.send(nasbench201.Cell(("none",) * 6))
    assert evaluator.fetch_all() == [6]
    for name in ("send", "fetch_all"):
        ours, theirs = (
            inspect.signature(getattr(kind, name)).parameters for kind in (ProxyEvaluator, AsyncModelEvaluator)
        )
        assert list(ours) == list(theirs)
