"""Proxies made of saliencies per weight and of gradients."""

import numpy as np

from archscore_server.engine.proxies import _papers
from archscore_server.engine.proxies._registry import proxy
from archscore_server.engine.statistics import Array, Saliency, over_layers


def snr(saliency: Saliency) -> Array:
    """Signal-to-noise ratio of a saliency per layer, [A, L] (Xiang et al., AutoML 2023).

    SNR_l = S_l / sigma_l; 0 where no gradient reaches the layer, S_l where all its weights are equally salient.
    """
    total, deviation = saliency
    uniform = deviation <= 1e-12 * total
    return np.asarray(np.where(uniform, total, total / np.where(uniform, 1.0, deviation)))


def log_snr(saliency: Saliency) -> Array:
    """Log SNR_l per layer, [A, L]; 0 where SNR_l <= 0."""
    ratio = snr(saliency)
    return np.asarray(np.log(np.where(ratio <= 0, 1.0, ratio)))


@proxy(formula="sum over weights of |w * g|", paper=_papers.SNIP)
def snip(snip: Saliency) -> Array:
    """Change of the loss when single weights are removed, to first order."""
    return over_layers(snip.total)


@proxy(formula="sum over weights of w * g", paper=_papers.ZERO_COST)
def plain(signed_snip: Array) -> Array:
    """Signed saliency; close to 0 under BatchNorm by scale invariance, kept for comparison."""
    return over_layers(signed_snip)


@proxy(formula="sum over layers of ||g||_2", paper=_papers.ZERO_COST)
def grad_norm(grad_norm: Array) -> Array:
    """Size of the gradient at initialisation."""
    return over_layers(grad_norm)


@proxy(
    formula="sum over layers of (weights per output channel) * sum over c of D_c, "
    "D_c = 1/2 * mean over the batch of (sum over positions of a * dL/da)^2",
    paper=_papers.FISHER,
)
def fisher(fisher: Array) -> Array:
    """Change of the loss when whole channels are removed."""
    return over_layers(fisher)


@proxy(
    formula="sum over weights of |w * dR/dw|, R = sum of the logits of the linearised network on an all-ones image",
    paper=_papers.SYNFLOW,
    uses_labels=False,
)
def synflow(synflow: Saliency) -> Array:
    """Flow of all paths through the network, without data."""
    return over_layers(synflow.total)


@proxy(formula="log synflow", paper=_papers.SYNFLOW, uses_labels=False)
def synflow_log(synflow: Saliency) -> Array:
    """SynFlow on a scale that people can read: synflow itself spans 60 decades."""
    return np.asarray(np.log(over_layers(synflow.total)))


@proxy(formula="sum over layers of S_l / sigma_l, S = |w * g|", paper=_papers.TCET)
def ssnr(snip: Saliency) -> Array:
    """Trainability: signal-to-noise ratio of the SNIP saliency, layer by layer."""
    return over_layers(snr(snip))


@proxy(formula="sum over layers of log(S_l / sigma_l), S = |w * g|", paper=_papers.TCET)
def ssnr_log(snip: Saliency) -> Array:
    """SSNR with the logarithm of each layer's ratio."""
    return over_layers(log_snr(snip))


@proxy(formula="sum over layers of S_l / sigma_l, S = |g|", paper=_papers.TCET)
def ssnr_grad(grad: Saliency) -> Array:
    """SSNR of the absolute gradient."""
    return over_layers(snr(grad))


@proxy(formula="sum over layers of log(S_l / sigma_l), S = |g|", paper=_papers.TCET)
def ssnr_grad_log(grad: Saliency) -> Array:
    """SSNR of the absolute gradient, with the logarithm of each layer's ratio."""
    return over_layers(log_snr(grad))


@proxy(formula="sum over layers of S_l / sigma_l, S = SynFlow's", paper=_papers.TCET, uses_labels=False)
def ssnr_synflow(synflow: Saliency) -> Array:
    """SSNR of the SynFlow saliency."""
    return over_layers(snr(synflow))


@proxy(formula="sum over layers of log(S_l / sigma_l), S = SynFlow's", paper=_papers.TCET, uses_labels=False)
def ssnr_synflow_log(synflow: Saliency) -> Array:
    """SSNR of the SynFlow saliency, with the logarithm of each layer's ratio."""
    return over_layers(log_snr(synflow))


@proxy(formula="sum over weights of -w * Hg, H the Hessian of the loss", paper=_papers.GRASP)
def grasp(signed_grasp: Array) -> Array:
    """Change of the gradient's size when single weights are removed, to first order."""
    return over_layers(signed_grasp)


@proxy(formula="sum over layers of S_l / sigma_l, S = |w * Hg|", paper=_papers.TCET)
def ssnr_grasp(grasp: Saliency) -> Array:
    """SSNR of the absolute GraSP saliency."""
    return over_layers(snr(grasp))


@proxy(formula="sum over layers of log(S_l / sigma_l), S = |w * Hg|", paper=_papers.TCET)
def ssnr_grasp_log(grasp: Saliency) -> Array:
    """SSNR of the absolute GraSP saliency, with the logarithm of each layer's ratio."""
    return over_layers(log_snr(grasp))
