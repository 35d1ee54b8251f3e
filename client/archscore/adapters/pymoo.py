"""pymoo: architectures as a problem of several objectives, a population scored at once.

    from archscore import Client
    from archscore.adapters.pymoo import ArchitectureProblem, nsga2
    from pymoo.optimize import minimize

    with Client("localhost:50051") as client:
        problem = ArchitectureProblem(client, maximize=["tcet"], minimize=["parameters"])
        front = minimize(problem, nsga2(pop_size=20), ("n_gen", 10), seed=1)
    print([problem.architecture(x).format() for x in front.X])

Source: Blank and Deb, "pymoo: Multi-Objective Optimization in Python", IEEE Access 2020.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from archscore._requests import Config, config_message
from archscore.adapters._scores import proxy_names, read
from archscore.adapters._variables import Channels, Choice, Variable, variables_of
from archscore.search import Constraints
from archscore.search._domain import domain_of
from archscore.spaces import Architecture

if TYPE_CHECKING:
    from archscore.search import Scorer

try:
    import numpy as np
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core import mixed, problem, variable
except ImportError as error:
    raise ImportError("archscore.adapters.pymoo needs pymoo: pip install 'archscore[pymoo]'") from error


class ArchitectureProblem(problem.Problem):  # type: ignore[misc]  # pymoo has no types
    """Architectures of a search space by the scores of proxies, for algorithms that know variables of mixed kinds.

    The objectives, `F`, are those to maximise, negated as pymoo minimises, and then those to minimise. The constraints,
    `G`, are two. The first is by how much the limits on size are exceeded, as a share of the limit that is exceeded
    most. The second is that an architecture has scores: it is violated by 1 where they are degenerate, not finite or
    missing, or were not asked for because of the first; the objectives are infinite then.
    """

    def __init__(
        self,
        scorer: Scorer,
        *,
        maximize: Sequence[str] = (),
        minimize: Sequence[str] = (),
        space: str = "nasbench201",
        constraints: Constraints | None = None,
        config: Config | None = None,
    ) -> None:
        """Takes what the problem is.

        Args:
            scorer: an `archscore.Client`, or anything that scores as it does.
            maximize: proxies whose scores should be high.
            minimize: proxies whose scores should be low, such as `parameters`.
            space: the search space.
            constraints: limits on size. Architectures beyond them are not scored.
            config: how to evaluate, as for `Client.score_many`.

        Raises:
            UsageError: there are no proxies, one comes twice, there is no such search space, or a constraint does not
                go with it.
        """
        self._proxies = proxy_names([*maximize, *minimize])
        self._variables = variables_of(space)
        self._scorer = scorer
        self._signs = np.array([-1.0] * len(maximize) + [1.0] * len(minimize))
        self._domain = domain_of(space, constraints or Constraints(), config_message(config))
        self._config = config
        super().__init__(
            vars={name: _declared(declared) for name, declared in self._variables.by_name.items()},
            n_obj=len(self._proxies),
            n_ieq_constr=2,
        )

    def architecture(self, values: Mapping[str, Any]) -> Architecture:
        """The architecture of an individual's variables, one `X` of pymoo."""

        def take(name: str) -> Any:
            declared, value = self._variables.by_name[name], values[name]
            if isinstance(declared, Choice):
                return str(value)
            return declared.rounded(2.0**value) if isinstance(declared, Channels) else int(value)

        return self._variables.build(take)

    def _evaluate(self, x: Sequence[Mapping[str, Any]], out: dict[str, Any], *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        architectures = [self.architecture(values) for values in x]
        domain = self._domain
        excess = np.array([domain.constraints.excess(domain.measure(each)) - 1.0 for each in architectures])
        objectives, missing = np.full((len(x), self.n_obj), math.inf), np.ones(len(x))
        [allowed] = np.nonzero(excess <= 0)
        asked = self._scorer.score_many(
            [architectures[place] for place in allowed], self._proxies, space=domain.name, config=self._config
        )
        for result in asked:
            scores = read(result, self._proxies)
            if scores.values is not None:
                place = allowed[result.index]
                objectives[place] = self._signs * scores.values
                missing[place] = 0.0
        out["F"], out["G"] = objectives, np.column_stack([excess, missing])


def nsga2(pop_size: int, **settings: Any) -> NSGA2:
    """NSGA-II for the variables of an `ArchitectureProblem`, which are of mixed kinds.

    Args:
        pop_size: architectures in a generation, which are scored at once.
        settings: others of `pymoo.algorithms.moo.nsga2.NSGA2`.
    """
    duplicates = mixed.MixedVariableDuplicateElimination()
    return NSGA2(
        pop_size=pop_size,
        sampling=mixed.MixedVariableSampling(),
        mating=mixed.MixedVariableMating(eliminate_duplicates=duplicates),
        eliminate_duplicates=duplicates,
        **settings,
    )


def _declared(declared: Variable) -> variable.Variable:
    """A variable as pymoo has it: channels as their logarithm to base 2."""
    if isinstance(declared, Choice):
        return variable.Choice(options=list(declared.options))
    if isinstance(declared, Channels):
        return variable.Real(bounds=(math.log2(declared.low), math.log2(declared.high)))
    return variable.Integer(bounds=(declared.low, declared.high))
