"""Sizes: baselines that follow from the encoding, and the norm of the weights."""

from archscore.spaces import Size
from archscore_server.engine.proxies import _papers
from archscore_server.engine.proxies._registry import proxy
from archscore_server.engine.statistics import Array, over_layers


@proxy(formula="number of trainable values", paper=_papers.ZERO_COST, uses_labels=False)
def parameters(size: Size) -> int:
    """Trainable values of the network as scored, biases and BatchNorm included."""
    return size.parameters


@proxy(formula="multiply-accumulates for one image", paper=_papers.ZERO_COST, uses_labels=False)
def flops(size: Size) -> int:
    """Multiply-accumulates of convolutions and linear layers for one image, dead ones included."""
    return size.flops


@proxy(formula="sum over layers of ||w||_2", paper=_papers.ZERO_COST, uses_labels=False)
def l2_norm(weight_norm: Array) -> Array:
    """Size of the initial weights."""
    return over_layers(weight_norm)
