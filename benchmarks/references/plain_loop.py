"""The best plain loop: ordinary PyTorch, one NAS-Bench-201 network at a time, nothing computed twice.

This is what a competent user would write without archscore, and the fair opponent of its engine: the proxies share
their passes (one train-mode forward and backward, one eval-mode forward, one backward for SynFlow), memory is
channels_last, a Gram matrix is one product and all log-determinants are one batched call. What it leaves out is what
archscore adds: edges are not merged and networks are not stacked.

Definitions, weights and data are those of archscore's documentation, so the values can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archscore.spaces.nasbench201 import EDGES, Cell

PROXIES = ("grad_norm", "snip", "synflow", "naswot", "layerwise_naswot", "ssnr", "tcet")

_NEED_GRADIENTS = {"grad_norm", "snip", "ssnr", "tcet"}
_NEED_EVAL_CODES = {"layerwise_naswot", "tcet"}

_Draws: TypeAlias = npt.NDArray[np.float64]


class _Conv2d(nn.Conv2d):
    """A convolution that starts without values: its weights are set from the documented streams."""

    def reset_parameters(self) -> None:
        """Draws nothing, for it would be thrown away."""


class _ReLUConvNorm(nn.Sequential):
    """ReLU, convolution, BatchNorm: [B, inputs, H, W] -> [B, outputs, H / stride, W / stride]."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            nn.ReLU(),
            _Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
        )


def _edge(operation: str, channels: int) -> nn.Module | None:
    match operation:
        case "none":
            return None
        case "skip_connect":
            return nn.Identity()
        case "nor_conv_1x1":
            return _ReLUConvNorm(channels, channels, 1)
        case "nor_conv_3x3":
            return _ReLUConvNorm(channels, channels, 3)
        case "avg_pool_3x3":
            return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
        case _:
            raise ValueError(f"unknown operation: {operation}")


class _Cell(nn.Module):
    """A cell of four nodes, each the sum of its edges; edges that are `none` are never run."""

    def __init__(self, operations: Sequence[str], channels: int) -> None:
        super().__init__()
        self._edges: list[list[tuple[int, nn.Module]]] = [[], [], []]  # per target node
        for (source, target), operation in zip(EDGES, operations, strict=True):
            edge = _edge(operation, channels)
            if edge is not None:
                self.add_module(f"edge_{source}_{target}", edge)
                self._edges[target - 1].append((source, edge))

    def forward(self, x: Tensor) -> Tensor:
        """Features of the last node, [B, C, H, W] like x."""
        nodes = [x]
        for edges in self._edges:
            outputs = [edge(nodes[source]) for source, edge in edges]
            node = outputs[0] if outputs else torch.zeros_like(x)
            for output in outputs[1:]:
                node = node + output
            nodes.append(node)
        return nodes[-1]


class _Reduction(nn.Module):
    """The residual block between two stages: twice the channels, half the resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            _ReLUConvNorm(channels, 2 * channels, 3, stride=2), _ReLUConvNorm(2 * channels, 2 * channels, 3)
        )
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), _Conv2d(channels, 2 * channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, 2C, H/2, W/2]."""
        out: Tensor = self.main(x) + self.shortcut(x)
        return out


class Network(nn.Sequential):
    """The network of a NAS-Bench-201 cell, with the weights that archscore gives it.

    It is an ordinary module: every ReLU is a module of its own, and `modules()` lists convolutions and linear layers
    in archscore's canonical order.

    Args:
        operations: names of the six operations, in string order.
        channels: C, the channels of the first stage.
        cells_per_stage: N, the cells of each of the three stages.
        num_classes: outputs of the classifier.
        seed: seed of the weights, kaiming_normal.
    """

    def __init__(
        self, operations: Sequence[str], *, channels: int, cells_per_stage: int, num_classes: int, seed: int
    ) -> None:
        """Builds all layers, dead ones included."""
        layers: list[nn.Module] = [_Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)]
        for stage in range(3):
            width = channels * 2**stage
            if stage:
                layers.append(_Reduction(width // 2))
            layers += [_Cell(operations, width) for _ in range(cells_per_stage)]
        width = 4 * channels
        layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        super().__init__(*layers, nn.Linear(width, num_classes))
        longest = max(9 * width * width, num_classes * width)
        with torch.no_grad():
            for index, layer in enumerate(weight_layers(self)):
                shape = layer.weight.shape
                draws = _stream(seed, index, longest)[: shape.numel()] * math.sqrt(2 / shape[1:].numel())
                layer.weight.copy_(torch.from_numpy(draws.reshape(shape)))
                if layer.bias is not None:
                    layer.bias.zero_()


def weight_layers(network: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    """Convolutions and linear layers of a network, in canonical order."""
    return [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


@lru_cache(maxsize=256)
def _stream(seed: int, layer: int, length: int) -> _Draws:
    """Standard normal draws that a layer's weights are a prefix of; kept, for every network starts with the same."""
    return np.random.Generator(np.random.PCG64([seed, layer])).standard_normal(length)


@lru_cache(maxsize=2)
def minibatch(
    seed: int, batch_size: int, resolution: int, num_classes: int, device: str = "cpu"
) -> tuple[Tensor, Tensor]:
    """The first minibatch of the data set `gaussian`.

    Returns:
        Images [B, 3, R, R] in channels_last order and labels [B].
    """
    images = np.random.Generator(np.random.PCG64([seed, 1_000_000])).standard_normal(
        (batch_size, 3, resolution, resolution)
    )
    labels = np.random.Generator(np.random.PCG64([seed, 2_000_000])).integers(0, num_classes, batch_size)
    on_device = torch.from_numpy(images).float().to(device)
    return on_device.contiguous(memory_format=torch.channels_last), torch.from_numpy(labels).to(device)


def score(
    cell: Cell,
    proxies: Sequence[str],
    *,
    channels: int,
    cells_per_stage: int,
    batch_size: int,
    resolution: int,
    num_classes: int,
    seed: int,
    device: str = "cpu",
) -> dict[str, float]:
    """Scores one cell in float32, with just the passes that the proxies need.

    Args:
        cell: a connected cell.
        proxies: names out of `PROXIES`.
        channels: C of the network.
        cells_per_stage: N of the network.
        batch_size: images of the minibatch.
        resolution: side of an image in pixels.
        num_classes: classes of the classifier.
        seed: seed of weights and data.
        device: where to compute. In float32, that is without TF32, only if torch is told so.

    Returns:
        The value of every proxy asked for.

    Raises:
        ValueError: a proxy is not one of `PROXIES`.
    """
    asked = set(proxies)
    if not asked <= set(PROXIES):
        raise ValueError(f"unknown proxies: {sorted(asked - set(PROXIES))}")
    network = Network(
        cell.operations, channels=channels, cells_per_stage=cells_per_stage, num_classes=num_classes, seed=seed
    )
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, labels = minibatch(seed, batch_size, resolution, num_classes, device)

    values: dict[str, float] = {}
    logdets = torch.zeros(0)
    if asked & _NEED_EVAL_CODES:  # before any train-mode pass changes the running statistics
        logdets = _logdet(torch.stack(_layer_grams(network, images)))
        values["layerwise_naswot"] = logdets.sum().item()
    if asked & _NEED_GRADIENTS or "naswot" in asked:
        relu_gram, gradients = _train_pass(
            network, images, labels, gram="naswot" in asked, gradients=bool(asked & _NEED_GRADIENTS)
        )
        if relu_gram is not None:
            values["naswot"] = torch.linalg.eigvalsh(relu_gram).log().sum().item()
        if gradients:
            values |= _gradient_proxies(network, gradients, logdets)
    if "synflow" in asked:
        values["synflow"] = _synflow(network, resolution)
    return {proxy: values[proxy] for proxy in proxies}


def _gram(features: Tensor) -> Tensor:
    """Pairs of entries on which the binary codes of two samples agree.

    Args:
        features: [B, C, H, W] or [B, features].

    Returns:
        K, [B, B] in float64, exact: with C the products of the codes and r its diagonal, n - r - r' + 2 C.
    """
    if features.dim() == 4:
        features = features.permute(0, 2, 3, 1)  # the order of the entries does not matter: this one needs no copy
    positive = features.flatten(1) > 0
    if positive.device.type == "cpu" and torch.cpu._is_vnni_supported():
        codes = positive.view(torch.int8)
        products = torch._int_mm(codes, codes.T)  # three times as fast as a product in float32, on such a CPU
    else:
        floats = positive.float()
        products = (floats @ floats.T).int()
    ones = products.diagonal()
    return (2 * products + (positive.shape[1] - ones[:, None] - ones)).double()


def _logdet(grams: Tensor) -> Tensor:
    """Log-determinants [L] of Gram matrices [L, B, B]; 0 for those that are singular to working precision."""
    eigenvalues = torch.linalg.eigvalsh(grams)
    smallest, largest = eigenvalues[:, 0], eigenvalues[:, -1]
    regular = smallest > 16 * grams.shape[-1] * 2.2e-16 * largest
    return torch.where(regular, eigenvalues.clamp_min(1e-300).log().sum(1), 0.0)


@torch.no_grad()
def _layer_grams(network: Network, images: Tensor) -> list[Tensor]:
    """Gram matrices of the outputs of all weight layers in eval mode, in canonical order."""
    layers = weight_layers(network)
    grams: dict[nn.Module, Tensor] = {}

    def collect(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        grams[module] = _gram(output)

    hooks = [layer.register_forward_hook(collect) for layer in layers]
    network.eval()
    network(images)
    for hook in hooks:
        hook.remove()
    return [grams[layer] for layer in layers]


def _train_pass(
    network: Network, images: Tensor, labels: Tensor, *, gram: bool, gradients: bool
) -> tuple[Tensor | None, Sequence[Tensor | None]]:
    """One train-mode forward, and a backward if gradients are needed.

    Returns:
        The sum of the Gram matrices of all ReLU inputs (or None), and the gradient of the loss in the weights of every
        weight layer, None where no gradient reaches (empty unless asked for).
    """
    grams: list[Tensor] = []

    def collect(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        grams.append(_gram(inputs[0].detach()))

    relus: Iterable[nn.Module] = [module for module in network.modules() if isinstance(module, nn.ReLU)] if gram else ()
    hooks = [relu.register_forward_pre_hook(collect) for relu in relus]
    network.train()
    with torch.set_grad_enabled(gradients):
        loss = F.cross_entropy(network(images), labels)
    for hook in hooks:
        hook.remove()
    found: Sequence[Tensor | None] = ()
    if gradients:
        found = torch.autograd.grad(loss, [layer.weight for layer in weight_layers(network)], allow_unused=True)
    return (torch.stack(grams).sum(0) if gram else None), found


@torch.no_grad()
def _gradient_proxies(network: Network, gradients: Sequence[Tensor | None], logdets: Tensor) -> dict[str, float]:
    """grad_norm, snip, ssnr, and tcet if there are log-determinants, out of the gradients of one train pass."""
    norms, sums, deviations = [], [], []
    for layer, found in zip(weight_layers(network), gradients, strict=True):
        gradient = torch.zeros_like(layer.weight) if found is None else found
        saliency = (layer.weight * gradient).abs_().double()
        norms.append(torch.linalg.vector_norm(gradient, dtype=torch.float64))
        sums.append(saliency.sum())
        deviations.append(saliency.std(correction=0))
    sum_, deviation = torch.stack(sums), torch.stack(deviations)
    ratio = torch.where(deviation > 1e-12 * sum_, sum_ / deviation, sum_)
    values = {"grad_norm": torch.stack(norms).sum(), "snip": sum_.sum(), "ssnr": ratio.sum()}
    if len(logdets):
        values["tcet"] = ratio @ logdets
    return {name: value.item() for name, value in values.items()}


def _synflow(network: Network, resolution: int) -> float:
    """SynFlow in float64; changes the network, so it comes last."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.Identity())
    network.double()
    weights = [layer.weight for layer in weight_layers(network)]
    with torch.no_grad():
        for weight in weights:
            weight.abs_()
    image = torch.ones(1, 3, resolution, resolution, dtype=torch.float64, device=weights[0].device)
    objective = network(image).sum()
    gradients: Sequence[Tensor | None] = torch.autograd.grad(objective, weights, allow_unused=True)
    saliencies = [(w.detach() * g).abs().sum() for w, g in zip(weights, gradients, strict=True) if g is not None]
    return torch.stack(saliencies).sum().item()
