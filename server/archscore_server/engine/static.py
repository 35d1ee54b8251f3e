"""Scores that need no device: sizes, and everything about a disconnected architecture."""

from __future__ import annotations

from collections.abc import Sequence

from archscore.spaces import Architecture
from archscore_server.engine import proxies as registry
from archscore_server.engine.config import EvaluationConfig
from archscore_server.engine.results import Evaluation, Outcome, Score

DEGENERATE = Score(Outcome.DEGENERATE)


def static_scores(architecture: Architecture, proxies: Sequence[str], config: EvaluationConfig) -> dict[str, Score]:
    """The scores among those asked that follow from the encoding alone.

    A disconnected architecture is DEGENERATE for every proxy but `parameters` and `flops`, which have a value for any.
    """
    wanted = [registry.get(name) for name in proxies]
    scores = {} if architecture.connected else {proxy.name: DEGENERATE for proxy in wanted if not proxy.static}
    if any(proxy.static for proxy in wanted):
        size = architecture.size(config.network, resolution=config.resolution, num_classes=config.num_classes)
        error = 0.0 if config.repeats > 1 else None
        for proxy in wanted:
            if proxy.static:
                scores[proxy.name] = Score(Outcome.OK, float(proxy.compute(size)), error)
    return scores


def evaluate_without_device(
    architecture: Architecture, proxies: Sequence[str], config: EvaluationConfig
) -> Evaluation | None:
    """The whole evaluation where no device is needed for it, else None."""
    scores = static_scores(architecture, proxies, config)
    return Evaluation({name: scores[name] for name in proxies}) if len(scores) == len(proxies) else None
