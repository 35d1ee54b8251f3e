"""The statistics that passes collect and proxies consume: names, and the pass that yields each.

Every array is float64 on the host. A is the number of networks in the stack, L that of the layer slots of its skeleton.
A slot in which a network has no layer has 0 for every statistic, so that it drops out of every sum over layers.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Saliency(NamedTuple):
    """A saliency per weight, summed up per layer.

    Attributes:
        total: sum over the weights of the layer, [A, L].
        deviation: population standard deviation (ddof 0) over the weights of the layer, [A, L].
    """

    total: Array
    deviation: Array


class Pass(StrEnum):
    """One way to run a stack."""

    WEIGHTS = "weights"  # reads the weights, runs nothing
    TRAIN = "train"  # train-mode forward and backward on minibatch 0
    EVAL = "eval"  # eval-mode forward on minibatch 0
    SYNFLOW = "synflow"  # linearised float64 forward and backward on an all-ones image


#: Minibatches of the config's dataset that a pass reads, where that is more than one.
MINIBATCHES: dict[Pass, int] = {}

#: Every statistic and the pass that yields it.
STATISTICS: dict[str, Pass] = {
    "weight_norm": Pass.WEIGHTS,  # 2-norm of w, [A, L]
    "snip": Pass.TRAIN,  # Saliency with S = |w * g|
    "grad": Pass.TRAIN,  # Saliency with S = |g|
    "signed_snip": Pass.TRAIN,  # sum of w * g, [A, L]
    "grad_norm": Pass.TRAIN,  # 2-norm of g, [A, L]
    "fisher": Pass.TRAIN,  # weights per output channel times the sum of D_c, [A, L]
    "logdet_relu": Pass.TRAIN,  # log det of the sum of K over all ReLU inputs, NaN where singular, [A]
    "logdet_train": Pass.TRAIN,  # logdet K_l, [A, L]
    "logdet_eval": Pass.EVAL,  # logdet K_l, [A, L]
    "synflow": Pass.SYNFLOW,  # Saliency with S = |w * d objective / dw|
}


def over_layers(values: Array) -> Array:
    """The sum over layers, [A, L] -> [A]."""
    return np.asarray(values.sum(axis=-1))
