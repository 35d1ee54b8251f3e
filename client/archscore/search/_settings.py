"""What defines a search: with the same settings and the same scores it finds the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from archscore.errors import UsageError
from archscore.search._constraints import Constraints
from archscore.search._elimination import Elimination
from archscore.search._evolution import RegularisedEvolution
from archscore.search._local import LocalSearch
from archscore.search._objective import CELL_OBJECTIVE, DEFAULT_OBJECTIVE
from archscore.search._random import RandomSearch
from archscore.search._screening import Screening
from archscore.search._strategy import Strategy
from archscore.spaces import nasbench201, zennas

STRATEGIES: Final[Mapping[str, type[Strategy]]] = {
    strategy.name: strategy for strategy in (RandomSearch, RegularisedEvolution, Elimination, LocalSearch, Screening)
}
"""All strategies by the name that users write."""

DEFAULT_BATCH: Final = 64

_OF_SPACE: Any = None
"""In the place of a default that depends on the search space, until it is known. No reader ever sees it."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A search. What is left out is as in `archscore search`.

    Attributes:
        space: the search space.
        evaluations: architectures to evaluate; of a screening, those of its first stage.
        proxies: the objective: one proxy, or several by their rank sum. By default `default_proxies` of the space.
        strategy: how to search. By default `default_strategy` of the space.
        constraints: what may be asked for. By default `default_constraints` of the space; `Constraints()` is none.
        seed: of the search's random numbers. The seed of weights and images is the config's.
        batch: evaluations that are under way at a time. Evaluation n is proposed knowing the results of those up to
            n - batch and no others, so that it is part of what the search finds; 1 searches one by one.
        config: how to evaluate, in the proto3 JSON mapping.
    """

    space: str
    evaluations: int
    proxies: tuple[str, ...] = _OF_SPACE
    strategy: Strategy = _OF_SPACE
    constraints: Constraints = _OF_SPACE
    seed: int = 0
    batch: int = DEFAULT_BATCH
    config: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Takes the defaults of the space, and refuses what no search can do.

        Raises:
            UsageError: a number is out of its range.
        """
        for name, default in _DEFAULTS.items():
            if getattr(self, name) is _OF_SPACE:
                object.__setattr__(self, name, default(self.space))
        if self.evaluations < 1 or self.batch < 1:
            raise UsageError("evaluations and batch must be at least 1")
        if self.space == nasbench201.SPACE.name and self.evaluations > nasbench201.NUM_CELLS:
            raise UsageError(f"evaluations must be at most {nasbench201.NUM_CELLS}: there are no more cells")

    def to_json(self) -> dict[str, Any]:
        """The settings as a flat JSON object, with a key for each thing that may differ."""
        return {
            "space": self.space,
            "evaluations": self.evaluations,
            "proxies": list(self.proxies),
            "strategy": self.strategy.name,
            **{f"strategy.{name}": value for name, value in self.strategy.to_json().items()},
            **{f"constraints.{name}": value for name, value in self.constraints.to_json().items()},
            "seed": self.seed,
            "batch": self.batch,
            "config": dict(self.config or {}),
        }


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """How settings differ, in words; empty if they do not."""
    keys = dict.fromkeys((*before, *now))
    differing = [key for key in keys if before.get(key) != now.get(key)]
    return "; ".join(f"{key} was {_words(before.get(key))}, is {_words(now.get(key))}" for key in differing)


def default_strategy(space: str) -> Strategy:
    """How a space is searched if nothing is said."""
    return Elimination() if space == zennas.SPACE.name else RegularisedEvolution()


def default_proxies(space: str) -> tuple[str, ...]:
    """What is searched for in a space if nothing is said."""
    return CELL_OBJECTIVE if space == nasbench201.SPACE.name else DEFAULT_OBJECTIVE


def default_constraints(space: str) -> Constraints:
    """What may be asked for in a space if nothing is said: for genomes, the budget of the published search on CIFAR."""
    if space != zennas.SPACE.name:
        return Constraints()
    budget = zennas.CIFAR_BUDGET
    return Constraints(max_parameters=budget.max_parameters, max_sub_layers=budget.max_sub_layers)


_DEFAULTS: Final[Mapping[str, Callable[[str], object]]] = {
    "proxies": default_proxies,
    "strategy": default_strategy,
    "constraints": default_constraints,
}


def _words(value: object) -> str:
    return "not set" if value is None else json.dumps(value)
