"""Proxies made of how gradients differ between images and minibatches, and of Zen's Gaussian complexity."""

import numpy as np

from archscore_server.engine.proxies import _papers
from archscore_server.engine.proxies._registry import proxy
from archscore_server.engine.statistics import Array, Labels

#: What keeps logarithms and quotients of correlations finite.
_EPSILON = 1e-5

#: Number of classes above which EPE-NAS compares classes instead of adding them up.
_MANY_CLASSES = 100

#: A kernel is singular where lambda_min <= _SINGULAR * lambda_max.
_SINGULAR = 1e-12


@proxy(
    formula="-sum over eigenvalues v of the correlation matrix of image gradients of log(v + 1e-5) + 1 / (v + 1e-5)",
    paper=_papers.JACOB_COV,
    uses_labels=False,
)
def jacob_cov(jacobian_correlation: Array) -> Array:
    """How differently the logits respond to different images."""
    values = np.array([_eigenvalues(correlation) for correlation in jacobian_correlation])
    return np.asarray(-(np.log(values + _EPSILON) + 1 / (values + _EPSILON)).sum(axis=-1))


@proxy(
    formula="sum over classes of |s_c|, s_c = sum of log(|r| + 1e-5) over the correlations r within class c; with over "
    "100 classes the mean distance of s_c per image between classes",
    paper=_papers.EPE_NAS,
)
def epe_nas(jacobian_correlation: Array, labels: Labels) -> Array:
    """How alike the logits respond to images of one class."""
    return np.array(
        [
            _class_score(correlation, own, many=labels.classes > _MANY_CLASSES)
            for correlation, own in zip(jacobian_correlation, labels.values, strict=True)
        ]
    )


@proxy(formula="sum over layers of log(sum over weights of mean |g| / std g), two minibatches", paper=_papers.ZICO)
def zico(gradient_ratio: Array) -> Array:
    """How steady gradients are from one minibatch to the next, relative to their size."""
    present = gradient_ratio > 0
    return np.asarray(np.where(present, np.log(np.where(present, gradient_ratio, 1.0)), 0.0).sum(axis=-1))


@proxy(
    formula="log E|f(x) - f(x + 0.01 e)|_1 + sum over BatchNorm layers of log(mean variance) / 2",
    paper=_papers.ZEN,
    uses_labels=False,
)
def zen(zen: Array) -> Array:
    """Gaussian complexity: how far a small step of the input moves the features of a network with normal weights."""
    return zen


@proxy(
    formula="lambda_max / lambda_min of the Gram matrix of per-image gradients, 16 images",
    paper=_papers.TE_NAS,
    higher_is_better=False,
    uses_labels=False,
)
def ntk_condition_number(tangent_kernel: Array) -> Array:
    """Trainability by the neural tangent kernel: a well-conditioned one learns all images at a similar rate."""
    return np.array([_condition_number(kernel) for kernel in tangent_kernel])


@proxy(formula="-ntk_condition_number", paper=_papers.TE_NAS, uses_labels=False)
def te_score(tangent_kernel: Array) -> Array:
    """What ZenNAS's search calls TE-NAS: the negative condition number of the neural tangent kernel."""
    return -ntk_condition_number(tangent_kernel)


def _eigenvalues(symmetric: Array) -> Array:
    if not np.isfinite(symmetric).all():
        return np.full(len(symmetric), np.nan)
    return np.asarray(np.linalg.eigvalsh(symmetric), dtype=np.float64)


def _condition_number(kernel: Array) -> float:
    values = _eigenvalues(kernel)
    return float(values[-1] / values[0]) if values[0] > _SINGULAR * values[-1] else float("nan")


def _class_score(correlation: Array, labels: Array, *, many: bool) -> float:
    """EPE-NAS of one network: correlations [B, B], labels [B]."""
    classes = [np.flatnonzero(labels == own) for own in np.unique(labels)]
    scores = [np.log(np.abs(correlation[np.ix_(rows, rows)]) + _EPSILON).sum() for rows in classes]
    if not many:
        return float(np.abs(scores).sum())
    per_image = np.array([score / len(rows) for score, rows in zip(scores, classes, strict=True)])
    return float(np.abs(per_image[:, None] - per_image[None, :]).sum() / len(classes))
