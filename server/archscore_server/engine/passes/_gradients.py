"""Passes about weights and their gradients."""

from __future__ import annotations

from collections.abc import Set

import torch

from archscore_server.engine.networks import Mode, Observer
from archscore_server.engine.observation import Observation
from archscore_server.engine.passes._context import Context, loss
from archscore_server.engine.passes._reductions import fisher, norms, saliency, sums
from archscore_server.engine.readings import Later
from archscore_server.engine.statistics import Statistic

_OF_GRADIENTS = {"snip", "grad", "signed_snip", "grad_norm", "fisher"}


def weights_pass(context: Context, _needs: Set[str]) -> dict[str, Later[Statistic]]:
    """Reads the weights, runs nothing."""
    weights = context.stack.weights(context.dtype)
    return {"weight_norm": norms(context.stack, {shape: w.detach() for shape, w in weights.leaves.items()})}


def train_pass(context: Context, needs: Set[str]) -> dict[str, Later[Statistic]]:
    """Train-mode forward, and backward where gradients are needed, on minibatch 0."""
    stack = context.stack
    images, weights = context.images(), stack.weights(context.dtype)
    relus = {"logdet_relu", "relu_regions"} & needs
    observed = Observation(stack, layers="logdet_train" in needs, relus=bool(relus), outputs="fisher" in needs)
    results: dict[str, Later[Statistic]] = {}
    backward = needs & _OF_GRADIENTS
    with torch.set_grad_enabled(bool(backward)):
        logits = stack.forward(images, weights, Mode.TRAIN, observed)
    if backward:
        outputs = [output for _, output in observed.outputs]
        gradients = torch.autograd.grad(
            loss(logits, context.labels()), [*weights.leaves.values(), *outputs], materialize_grads=True
        )
        w = {shape: leaf.detach() for shape, leaf in weights.leaves.items()}
        g = context.gradients[0, context.dtype] = dict(zip(w, gradients, strict=False))
        if "fisher" in needs:
            results["fisher"] = fisher(stack, observed.outputs, gradients[len(w) :])
        if "snip" in needs:
            results["snip"] = saliency(stack, {shape: (w[shape] * g[shape]).abs_() for shape in w})
        if "signed_snip" in needs:
            results["signed_snip"] = sums(stack, {shape: w[shape] * g[shape] for shape in w})
        if "grad" in needs:
            results["grad"] = saliency(stack, {shape: g[shape].abs() for shape in w})
        if "grad_norm" in needs:
            results["grad_norm"] = norms(stack, g)
    if "logdet_train" in needs:
        results["logdet_train"] = observed.logdet_layers()
    if "logdet_relu" in needs:
        results["logdet_relu"] = observed.logdet_relus()
    if "relu_regions" in needs:
        results["relu_regions"] = observed.regions()
    return results


def hessian_pass(context: Context, _needs: Set[str]) -> dict[str, Later[Statistic]]:
    """Hessian times gradient on minibatch 0: the gradient of (g . stopgrad(g))."""
    stack = context.stack
    weights = stack.weights(context.dtype)
    leaves = list(weights.leaves.values())
    logits = stack.forward(context.images(), weights, Mode.TRAIN, Observer(), plain=True)
    gradients = torch.autograd.grad(loss(logits, context.labels()), leaves, create_graph=True, materialize_grads=True)
    product = sum(((g * g.detach()).sum() for g in gradients), torch.zeros((), device=stack.device))
    products = torch.autograd.grad(product, leaves, materialize_grads=True)
    per_weight = {
        shape: -(leaf.detach() * hg) for (shape, leaf), hg in zip(weights.leaves.items(), products, strict=True)
    }
    return {
        "signed_grasp": sums(stack, per_weight),
        "grasp": saliency(stack, {shape: values.abs() for shape, values in per_weight.items()}),
    }


def zico_pass(context: Context, _needs: Set[str]) -> dict[str, Later[Statistic]]:
    """Gradients on minibatches 0 and 1: mean over deviation, where they differ.

    In float64 where there are repeats. The sum hangs on the few weights whose gradients nearly agree: their rounding
    moves a score within its tolerance, but a standard error over seeds by as much as it is.
    """
    dtype = torch.float64 if context.config.repeats > 1 else context.dtype
    first, second = context.gradient(0, dtype), context.gradient(1, dtype)
    ratios = {}
    for shape in first:
        g0, g1 = first[shape].double(), second[shape].double()
        mean, deviation = (g0.abs() + g1.abs()) / 2, (g0 - g1).abs() / 2
        ratios[shape] = torch.where(deviation != 0, mean / deviation, 0.0)
    return {"gradient_ratio": sums(context.stack, ratios)}
