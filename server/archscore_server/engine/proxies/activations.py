"""Proxies made of activation patterns: which entries of a feature map are positive (Mellor et al., ICML 2021)."""

from archscore_server.engine.proxies import _papers
from archscore_server.engine.proxies._registry import proxy
from archscore_server.engine.statistics import Array, over_layers


@proxy(formula="log det of the sum of K over all ReLU inputs, train mode", paper=_papers.NASWOT, uses_labels=False)
def naswot(logdet_relu: Array) -> Array:
    """How differently the images of a minibatch switch the ReLUs of the network."""
    return logdet_relu


@proxy(formula="sum over layers of log det K_l, eval mode", paper=_papers.TCET, uses_labels=False)
def layerwise_naswot(logdet_eval: Array) -> Array:
    """Capacity: how differently the images of a minibatch switch the outputs of each layer."""
    return over_layers(logdet_eval)


@proxy(formula="sum over layers of log det K_l, train mode", paper=_papers.TCET, uses_labels=False)
def layerwise_naswot_train(logdet_train: Array) -> Array:
    """Layer-wise NASWOT with codes from the train-mode pass, free beside a saliency proxy."""
    return over_layers(logdet_train)


@proxy(
    formula="number of distinct rows of the codes of all ReLU outputs, train mode",
    paper=_papers.TE_NAS,
    uses_labels=False,
)
def linear_regions(relu_regions: Array) -> Array:
    """Expressivity: how many of the minibatch's images lie in linear regions of their own."""
    return relu_regions
