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


class Labels(NamedTuple):
    """Labels of minibatch 0.

    Attributes:
        values: integers below `classes`, [A, B].
        classes: classes that there are.
    """

    values: NDArray[np.int64]
    classes: int


Statistic = Array | Saliency | Labels
"""What a pass yields under one name."""


class Pass(StrEnum):
    """One way to run a stack."""

    WEIGHTS = "weights"  # reads the weights, runs nothing
    TRAIN = "train"  # train-mode forward and backward on minibatch 0
    EVAL = "eval"  # eval-mode forward on minibatch 0
    SYNFLOW = "synflow"  # linearised float64 forward and backward on an all-ones image
    HESSIAN = "hessian"  # Hessian-vector product on minibatch 0: a backward through a backward
    ZICO = "zico"  # train-mode gradients on minibatches 0 and 1, those on 0 shared with TRAIN
    JACOBIAN = "jacobian"  # train-mode forward on minibatch 0 and backward to the images
    NTK = "ntk"  # train-mode forward on 16 images and a backward for each
    ZEN = "zen"  # two train-mode forwards with normal weights on Gaussian images


#: Minibatches of the config's dataset that a pass reads, where that is more than one.
MINIBATCHES: dict[Pass, int] = {Pass.ZICO: 2}

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
    "relu_regions": Pass.TRAIN,  # distinct codes of all ReLUs together, [A]
    "signed_grasp": Pass.HESSIAN,  # sum of -w * Hg, [A, L]
    "grasp": Pass.HESSIAN,  # Saliency with S = |w * Hg|
    "gradient_ratio": Pass.ZICO,  # sum over weights of mean over deviation of the gradients, [A, L]
    "jacobian_correlation": Pass.JACOBIAN,  # correlation of the image gradients of all pairs of samples, [A, B, B]
    "labels": Pass.JACOBIAN,  # Labels
    "tangent_kernel": Pass.NTK,  # Gram matrix of the gradients of each image's logits, [A, M, M], M = min(B, 16)
    "zen": Pass.ZEN,  # Zen-Score, [A]
}


def over_layers(values: Array) -> Array:
    """The sum over layers, [A, L] -> [A]."""
    return np.asarray(values.sum(axis=-1))
