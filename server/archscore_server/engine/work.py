"""How much work an evaluation is, predicted from its encoding: roughly, and in microseconds.

Pure Python: the front end predicts, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from archscore.spaces import Architecture
from archscore_server.engine import proxies as registry
from archscore_server.engine.config import EvaluationConfig, Precision
from archscore_server.engine.statistics import Pass

#: Forward passes that a pass of the engine amounts to. Reading weights costs what every network costs.
_FORWARDS: Final[dict[Pass, float]] = {
    Pass.WEIGHTS: 0,
    Pass.TRAIN: 3,
    Pass.EVAL: 1,
    Pass.SYNFLOW: 3,
    Pass.HESSIAN: 10,
    Pass.ZICO: 6,
    Pass.JACOBIAN: 3,
    Pass.NTK: 32,
    Pass.ZEN: 2,
}

#: Images that a pass runs on, at most, where that is less than a minibatch.
_IMAGES: Final[dict[Pass, int]] = {Pass.NTK: 16, Pass.SYNFLOW: 1}

#: How much more double precision costs.
_FLOAT64 = 4.0

#: Images in a minibatch whose pairs (Gram matrices) cost as much as the images themselves.
_PAIRS = 512

#: Multiply-accumulates that drawing a weight and going through its saliencies cost as much as.
_WEIGHT = 1_000

#: Multiply-accumulates of a network of no size: operations take time to start.
_OVERHEAD = 50_000_000


def predicted_work(architecture: Architecture, proxies: Iterable[str], config: EvaluationConfig) -> int:
    """Roughly the multiply-accumulates of an evaluation, all repeats together; 0 if it needs no device.

    Args:
        architecture: what is evaluated.
        proxies: names of proxies; those that nobody knows cost nothing.
        config: how it is evaluated.

    Raises:
        NetworkError: there is no such network.
    """
    if not architecture.connected:
        return 0
    passes = frozenset(needed for name in proxies for needed in _passes(name))
    if not passes:
        return 0
    size = architecture.size(config.network, resolution=config.resolution, num_classes=config.num_classes)
    images = _images(passes, config.batch_size, config.precision)
    return config.repeats * (int(size.flops * images) + size.parameters * _WEIGHT + _OVERHEAD)


@lru_cache(maxsize=1024)
def _images(passes: frozenset[Pass], batch_size: int, precision: Precision) -> float:
    """Forward passes of one image that passes over a minibatch amount to."""
    images = sum(
        _FORWARDS[own]
        * min(batch_size, _IMAGES.get(own, batch_size))
        * (_FLOAT64 if precision is Precision.FLOAT64 or own is Pass.SYNFLOW else 1.0)
        for own in passes
    )
    return images * (1 + batch_size / _PAIRS)


def _passes(proxy: str) -> tuple[Pass, ...]:
    try:
        return registry.get(proxy).passes
    except KeyError:  # its evaluation fails, and says so
        return ()
