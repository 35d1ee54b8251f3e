"""The few ways in which a stack is run, and what is collected meanwhile.

Activations and gradients stay on the device: a pass reduces them to small statistics per layer and network, and returns
those (`archscore_server.engine.statistics` lists them).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from archscore_server.engine.config import EvaluationConfig, Precision
from archscore_server.engine.data import minibatch
from archscore_server.engine.datasets import Dataset
from archscore_server.engine.networks import LayerCall, Mode, Observer, Stack
from archscore_server.engine.networks._stack import Shape
from archscore_server.engine.observation import Observation
from archscore_server.engine.statistics import STATISTICS, Array, Pass, Saliency

Statistics = dict[str, Array | Saliency]

_DTYPES = {Precision.FLOAT32: torch.float32, Precision.FLOAT64: torch.float64}


def run(
    stack: Stack,
    seeds: Sequence[int],
    needs: Collection[str],
    config: EvaluationConfig,
    dataset: Dataset | None = None,
) -> Statistics:
    """Runs the passes that yield the statistics needed, each once.

    Args:
        stack: the networks.
        seeds: the seed of each network's minibatches.
        needs: names of statistics.
        config: batch size and precision.
        dataset: where minibatches are from; None for "gaussian".

    Returns:
        The statistics needed.
    """
    results: Statistics = {}
    for name in dict.fromkeys(STATISTICS[need] for need in needs):
        wanted = {need for need in needs if STATISTICS[need] is name}
        results |= _PASSES[name](stack, seeds, wanted, config, dataset)
    return results


def _weights(
    stack: Stack, seeds: Sequence[int], needs: Set[str], config: EvaluationConfig, dataset: Dataset | None
) -> Statistics:
    del seeds, needs, dataset
    weights = stack.weights(_DTYPES[config.precision])
    return {"weight_norm": stack.spread({shape: _norm(w.detach()) for shape, w in weights.leaves.items()})}


def _train(
    stack: Stack, seeds: Sequence[int], needs: Set[str], config: EvaluationConfig, dataset: Dataset | None
) -> Statistics:
    images, labels = _inputs(stack, seeds, config, dataset)
    weights = stack.weights(_DTYPES[config.precision])
    observed = Observation(
        stack, layers="logdet_train" in needs, relus="logdet_relu" in needs, outputs="fisher" in needs
    )
    results: Statistics = {}
    backward = needs & {"snip", "grad", "signed_snip", "grad_norm", "fisher"}
    with torch.set_grad_enabled(bool(backward)):
        logits = stack.forward(images, weights, Mode.TRAIN, observed)
        loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / len(images)
    if backward:
        outputs = [output for _, output in observed.outputs]
        gradients = torch.autograd.grad(loss, [*weights.leaves.values(), *outputs], materialize_grads=True)
        w = {shape: leaf.detach() for shape, leaf in weights.leaves.items()}
        g = dict(zip(w, gradients, strict=False))
        if "fisher" in needs:
            results["fisher"] = _fisher(stack, observed.outputs, gradients[len(w) :])
        if "snip" in needs:
            results["snip"] = _saliency(stack, {shape: (w[shape] * g[shape]).abs_() for shape in w})
        if "signed_snip" in needs:
            results["signed_snip"] = stack.spread({s: (w[s] * g[s]).double().flatten(1).sum(dim=1) for s in w})
        if "grad" in needs:
            results["grad"] = _saliency(stack, {shape: g[shape].abs() for shape in w})
        if "grad_norm" in needs:
            results["grad_norm"] = stack.spread({shape: _norm(g[shape]) for shape in w})
    if "logdet_train" in needs:
        results["logdet_train"] = observed.logdet_layers()
    if "logdet_relu" in needs:
        results["logdet_relu"] = observed.logdet_relus()
    return results


@torch.no_grad()
def _eval(
    stack: Stack, seeds: Sequence[int], needs: Set[str], config: EvaluationConfig, dataset: Dataset | None
) -> Statistics:
    del needs
    images, _ = _inputs(stack, seeds, config, dataset)
    observed = Observation(stack, layers=True)
    stack.forward(images, stack.weights(_DTYPES[config.precision]), Mode.EVAL, observed)
    return {"logdet_eval": observed.logdet_layers()}


def _synflow(
    stack: Stack, seeds: Sequence[int], needs: Set[str], config: EvaluationConfig, dataset: Dataset | None
) -> Statistics:
    del needs, dataset
    weights = stack.weights(torch.float64, absolute=True)
    channels = 3 * stack.networks if len(set(seeds)) > 1 else 3
    image = torch.ones(1, channels, config.resolution, config.resolution, dtype=torch.float64, device=stack.device)
    objective = stack.forward(image, weights, Mode.LINEAR, Observer()).sum()
    gradients = torch.autograd.grad(objective, list(weights.leaves.values()), materialize_grads=True)
    saliency = {
        shape: (leaf.detach() * g).abs_() for (shape, leaf), g in zip(weights.leaves.items(), gradients, strict=True)
    }
    return {"synflow": _saliency(stack, saliency)}


_PASSES = {Pass.WEIGHTS: _weights, Pass.TRAIN: _train, Pass.EVAL: _eval, Pass.SYNFLOW: _synflow}


def _inputs(
    stack: Stack, seeds: Sequence[int], config: EvaluationConfig, dataset: Dataset | None
) -> tuple[Tensor, Tensor]:
    """Minibatch 0: images [N, 3, R, R] where all networks share them, else [N, A*3, R, R]; labels [A, N]."""
    batches = [minibatch(config, seed, dataset=dataset) for seed in dict.fromkeys(seeds)]
    if len(batches) > 1:
        batches = [minibatch(config, seed, dataset=dataset) for seed in seeds]
    images = np.concatenate([batch.images for batch in batches], axis=1)
    labels = np.stack([batch.labels for batch in batches])
    on_device = torch.from_numpy(images).to(stack.device, _DTYPES[config.precision])
    return (
        on_device.contiguous(memory_format=torch.channels_last),
        torch.from_numpy(labels).to(stack.device).expand(stack.networks, -1),
    )


def _norm(values: Tensor) -> Tensor:
    """2-norm per layer, [U, ...] -> [U]."""
    norms: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1, dtype=torch.float64)
    return norms


def _saliency(stack: Stack, per_weight: Mapping[Shape, Tensor]) -> Saliency:
    """Sum and population standard deviation per layer of a saliency per weight, [U, *shape] for each shape."""
    totals, deviations = {}, {}
    for shape, values in per_weight.items():
        flat = values.double().flatten(1)
        totals[shape] = flat.sum(dim=1)
        mean = totals[shape] / flat.shape[1]
        deviations[shape] = torch.linalg.vector_norm(flat - mean[:, None], dim=1) / flat.shape[1] ** 0.5
    return Saliency(stack.spread(totals), stack.spread(deviations))


def _fisher(stack: Stack, outputs: Sequence[tuple[LayerCall, Tensor]], gradients: Sequence[Tensor]) -> Array:
    """Weights per output channel times the sum over channels of D_c, [A, L] (proxies.md, fisher).

    D_c is half the mean over samples of the square of the sum over positions of a * dL/da.
    """
    result = np.zeros(stack.networks * stack.slots)
    for (call, a), gradient in zip(outputs, gradients, strict=True):
        per_sample = (a.detach() * gradient).sum(dim=(2, 3), dtype=torch.float64)  # [N, U*C]
        information = per_sample.square().mean(dim=0).unflatten(0, (len(call.slots), -1)).sum(dim=1) / 2
        result[list(call.slots)] = (information * int(np.prod(call.shape[1:]))).cpu().numpy()
    return result.reshape(stack.networks, stack.slots)
