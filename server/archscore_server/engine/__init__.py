"""Zero-cost scores of untrained networks, as a library.

    from archscore.spaces import nasbench201
    from archscore_server.engine import EvaluationConfig, evaluate

    cell = nasbench201.parse("index:6111")
    [evaluation] = evaluate([cell], ["tcet", "snip"], EvaluationConfig(batch_size=32))
    evaluation.scores["tcet"].value

`evaluate` and `evaluate_stacks` need torch and numpy, everything else here numpy alone: torch is imported when one of
the two is first asked for, so that a front end can read configs, results and the registry of proxies without it.
"""

from typing import TYPE_CHECKING, Any

from archscore_server.engine.config import ConfigError, EvaluationConfig, Init, Precision
from archscore_server.engine.datasets import DatasetError, DatasetInfo, DatasetNotFoundError, Datasets
from archscore_server.engine.memory import ArchitectureTooLargeError, predicted_bytes
from archscore_server.engine.results import Evaluation, Outcome, Score
from archscore_server.engine.static import evaluate_without_device

if TYPE_CHECKING:
    from archscore_server.engine.evaluation import evaluate, evaluate_stacks

__all__ = [
    "ArchitectureTooLargeError",
    "ConfigError",
    "DatasetError",
    "DatasetInfo",
    "DatasetNotFoundError",
    "Datasets",
    "Evaluation",
    "EvaluationConfig",
    "Init",
    "Outcome",
    "Precision",
    "Score",
    "evaluate",
    "evaluate_stacks",
    "evaluate_without_device",
    "predicted_bytes",
]


def __getattr__(name: str) -> Any:
    if name in ("evaluate", "evaluate_stacks"):
        from archscore_server.engine import evaluation

        globals().update(evaluate=evaluation.evaluate, evaluate_stacks=evaluation.evaluate_stacks)
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
