"""Optuna: studies whose trials are architectures, scored in batches.

    import optuna
    from archscore import Client
    from archscore.adapters.optuna import optimize

    study = optuna.create_study(direction="maximize")
    with Client("localhost:50051") as client:
        optimize(study, client, "tcet", trials=200)
    print(study.best_trial.user_attrs["architecture"])

Source: Akiba et al., "Optuna: A Next-generation Hyperparameter Optimization Framework", KDD 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from archscore._requests import Config, config_message
from archscore.adapters._scores import Scores, proxy_names, read
from archscore.adapters._variables import Channels, Choice, variables_of
from archscore.errors import ArchscoreError, UsageError
from archscore.search import Constraints, NothingFoundError
from archscore.search._domain import Domain, domain_of
from archscore.spaces import Architecture

if TYPE_CHECKING:
    from archscore.search import Scorer

try:
    import optuna
    from optuna.trial import TrialState
except ImportError as error:
    raise ImportError("archscore.adapters.optuna needs Optuna: pip install 'archscore[optuna]'") from error

ARCHITECTURE: Final = "architecture"
"""The user attribute of a trial that has its canonical encoding."""
FAULT: Final = "fault"
"""The user attribute of a trial without values that says why it has none."""

_MAX_TRIES: Final = 1_000
"""Trials in a row that may be beyond the constraints."""


def suggest(trial: optuna.Trial, space: str = "nasbench201") -> Architecture:
    """The architecture of a trial, for objective functions of your own.

    A cell is six categorical parameters, `edge01` to `edge23`. A genome has a stem, four stages of one or two blocks
    and a tail, as described in docs/adapters.md; channels are suggested on a logarithmic scale and then
    rounded to a multiple of 8. The canonical encoding becomes the trial's user attribute `architecture`.

    Args:
        trial: what to suggest for.
        space: the search space.

    Raises:
        UsageError: there is no such search space.
    """
    variables = variables_of(space)

    def take(name: str) -> Any:
        variable = variables.by_name[name]
        if isinstance(variable, Choice):
            return trial.suggest_categorical(name, variable.options)
        if isinstance(variable, Channels):
            return variable.rounded(trial.suggest_float(name, variable.low, variable.high, log=True))
        return trial.suggest_int(name, variable.low, variable.high)

    architecture = variables.build(take)
    trial.set_user_attr(ARCHITECTURE, architecture.format())
    return architecture


def optimize(
    study: optuna.Study,
    scorer: Scorer,
    proxies: str | Sequence[str],
    *,
    trials: int,
    space: str = "nasbench201",
    batch_size: int = 16,
    constraints: Constraints | None = None,
    config: Config | None = None,
) -> None:
    """Has a study ask for architectures in batches, scores each batch at once, and tells it the scores.

    A trial that is degenerate, not finite, or that cannot be scored is pruned, so that samplers keep away from its
    like, and one of which nothing is known, because its deadline passed, has failed; both have the user attribute
    `fault`. If this function is left by an exception, the trials of its batch that have no scores yet have failed.

    Args:
        study: with one direction for each proxy; `archscore proxies` says which ranks high and which low.
        scorer: an `archscore.Client`, or anything that scores as it does.
        proxies: whose scores are the values of a trial, in the order of the study's directions.
        trials: architectures to score.
        space: the search space.
        batch_size: architectures that are asked for before the scores of the first are told. Samplers that know of
            parallel trials do better: `TPESampler(constant_liar=True)`.
        constraints: limits on size. Trials beyond them are pruned at once, unscored, and are not counted.
        config: how to evaluate, as for `Client.score_many`.

    Raises:
        UsageError: the study has another number of directions, or an argument makes no sense.
        NothingFoundError: a thousand trials in a row were beyond the constraints.
        ArchscoreError: the scorer failed as a whole.
    """
    names = proxy_names(proxies)
    if len(study.directions) != len(names):
        raise UsageError(f"the study has {len(study.directions)} directions, for {len(names)} proxies")
    if trials < 1 or batch_size < 1:
        raise UsageError("trials and batch_size must be at least 1")
    domain = domain_of(space, constraints or Constraints(), config_message(config))
    for start in range(0, trials, batch_size):
        untold: dict[int, optuna.Trial] = {}
        try:
            places = range(min(batch_size, trials - start))
            architectures = [_ask(study, domain, untold, place) for place in places]
            for result in scorer.score_many(architectures, names, space=space, config=config):
                _tell(study, untold.pop(result.index), read(result, names))
        except BaseException as error:
            fault = str(error) if isinstance(error, ArchscoreError) else type(error).__name__
            for trial in untold.values():
                _tell(study, trial, Scores(None, fault, is_final=False))
            raise


def _ask(study: optuna.Study, domain: Domain, untold: dict[int, optuna.Trial], place: int) -> Architecture:
    """The architecture of a new trial within the constraints; the trial goes into `untold`, at its place in the batch.

    Raises:
        NothingFoundError: there is none to be found.
    """
    for _ in range(_MAX_TRIES):
        untold[place] = study.ask()
        architecture = suggest(untold[place], domain.name)
        if domain.constraints.excess(domain.measure(architecture)) <= 1:
            return architecture
        _tell(study, untold.pop(place), Scores(None, f"not with {domain.constraints}"))
    raise NothingFoundError(f"no architecture with {domain.constraints} among {_MAX_TRIES} trials of the study")


def _tell(study: optuna.Study, trial: optuna.Trial, scores: Scores) -> None:
    if scores.values is not None:
        study.tell(trial, scores.values)
        return
    trial.set_user_attr(FAULT, scores.fault)
    study.tell(trial, state=TrialState.PRUNED if scores.is_final else TrialState.FAIL)
