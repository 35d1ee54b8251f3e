"""ZenNAS genomes as stacks (Lin et al., ICCV 2021): one genome, with seeds of their own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from archscore.spaces import Layer
from archscore.spaces.zennas import Genome, NetworkConfig
from archscore_server.engine.config import EvaluationConfig
from archscore_server.engine.networks._join import Part
from archscore_server.engine.networks._run import Run
from archscore_server.engine.networks._single import SingleRun, suits
from archscore_server.engine.networks._stack import LayerCall, Mode, Observer, Stack, Weights

_EPS = 1e-3


class ZenNasStack(Stack):
    """Networks of one genome, side by side."""

    def __init__(
        self,
        genomes: Sequence[Genome],
        seeds: Sequence[int],
        config: EvaluationConfig,
        device: torch.device,
        single: bool,
    ) -> None:
        """Lays out the calls.

        Args:
            genomes: the genome of each network, all equal.
            seeds: the seed of each network.
            config: links, resolution, classes and init.
            device: where it runs.
            single: whether the one network runs by the kernels for CPUs.
        """
        genome, network = genomes[0], config.network
        if not isinstance(network, NetworkConfig):
            raise TypeError("the config is for networks of another search space")
        self._units = list(genome.units(network, resolution=config.resolution))
        classifier = genome.classifier(config.num_classes)
        layers = [*(layer for unit in self._units for layer in unit.layers), classifier]
        present = np.ones((len(genomes), len(layers)), dtype=np.bool_)
        super().__init__([layers] * len(genomes), present, seeds, config.init, device)
        self._single = single
        everyone = range(len(genomes))
        self._layer_calls = [
            self._call(layer.weight_shape, [(a, slot) for a in everyone]) for slot, layer in enumerate(layers)
        ]

    def forward(
        self, images: Tensor, weights: Weights, mode: Mode, observer: Observer, *, plain: bool = False
    ) -> Tensor:
        """Runs the stack; see Stack."""
        if self._single and not plain and suits(mode, images):
            return self._forward_single(images, _SingleRun(weights, mode, observer, _EPS))
        run = _Run(self, weights, mode, observer, _EPS)
        calls = iter(self._layer_calls)
        x = images
        for unit in self._units:
            y = x
            for number, layer in enumerate(unit.path):
                y = run.layer(run.relu(y) if number else y, layer, next(calls))
            if unit.projection:
                y = y + run.layer(x, unit.projection, next(calls))
            elif unit.identity:
                y = y + x
            x = run.relu(y)
        return run.classify(x, next(calls))

    def _forward_single(self, images: Tensor, run: _SingleRun) -> Tensor:
        calls = iter(self._layer_calls)
        x, shortcut = images, images
        for unit, following in zip(self._units, [*self._units[1:], None], strict=True):
            parts: list[Part] = []
            for layer in unit.path:
                if parts:
                    (x,) = run.read(parts, rectified=1)
                parts = [run.layer(x, layer, next(calls))]
            if unit.projection:
                parts.append(run.layer(shortcut, unit.projection, next(calls)))
            elif unit.identity:
                parts.append(Part(shortcut))
            readers = 2 if following and (following.projection or following.identity) else 1
            x, *rest = run.read(parts, rectified=readers, relus=1)
            shortcut = rest[0] if rest else x
        return run.classify(x, next(calls))


class _SingleRun(SingleRun):
    def layer(self, x: Tensor, layer: Layer, call: LayerCall) -> Part:
        """Convolution and BatchNorm; a bias is left out, see below."""
        return self.conv_norm(x, call, groups=layer.groups, stride=layer.stride, padding=(layer.kernel - 1) // 2)


class _Run(Run):
    def layer(self, x: Tensor, layer: Layer, call: LayerCall) -> Tensor:
        """Convolution and BatchNorm of all networks.

        The bias of a projection is left out: it is 0, and it is not scored.
        """
        networks = x.shape[1] // layer.in_channels  # 1 where all share the images
        return self.conv_norm(
            x, call, groups=networks * layer.groups, stride=layer.stride, padding=(layer.kernel - 1) // 2
        )
