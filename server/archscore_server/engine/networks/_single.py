"""One network run by the kernels for CPUs: a sum of maps waits until somebody reads it, and is made in one step."""

from __future__ import annotations

import torch
from torch import Tensor

from archscore_server.engine import kernels
from archscore_server.engine.networks import _convolution
from archscore_server.engine.networks._convolution import conv3x3
from archscore_server.engine.networks._join import Join, Part, overlaps, pool
from archscore_server.engine.networks._run import MOMENTUM, classify, convolve
from archscore_server.engine.networks._stack import LayerCall, Mode, Observer, Weights

#: A map that nobody has read yet: what it is the sum of.
Parts = list[Part]


def suits(mode: Mode, images: Tensor) -> bool:
    """Whether the kernels can run in this mode on these images."""
    return mode is not Mode.LINEAR and images.dtype == torch.float32


class SingleRun:
    """Layers of one network in train or eval mode, float32, under one observer; differentiates once."""

    def __init__(self, weights: Weights, mode: Mode, observer: Observer, eps: float) -> None:
        """Takes what all layers share; `eps` is BatchNorm's."""
        self._weights = weights
        self._trains = mode is Mode.TRAIN
        self._observer = observer
        self._eps = eps
        self._factor = 1.0 if self._trains else (1 + eps) ** -0.5  # of BatchNorm with mean 0 and variance 1

    def conv_norm(self, x: Tensor, call: LayerCall, *, groups: int = 1, stride: int = 1, padding: int = 0) -> Part:
        """Convolution, and BatchNorm to come."""
        return self._conv(x, call, groups, stride, padding, self._factor, normalised=self._trains)

    def conv(self, x: Tensor, call: LayerCall) -> Part:
        """A 1x1 convolution without BatchNorm."""
        return self._conv(x, call, 1, 1, 0, 1.0, normalised=False)

    def _conv(
        self, x: Tensor, call: LayerCall, groups: int, stride: int, padding: int, factor: float, *, normalised: bool
    ) -> Part:
        weights = self._weights.of(call)
        if _convolution.suits(x, weights[0], groups=groups, stride=stride):
            weight = weights.flatten(0, 1)
            y = conv3x3(x, weight if factor == 1 else weight * factor)
        else:
            y = convolve(x, weights, groups=groups, stride=stride, padding=padding, factor=factor)
        self._observer.output(call, y)
        coded = self._observer.compares_layer(y[0].numel(), len(y))
        return Part(y, normalised, call if coded else None, alone=True)

    def read(self, parts: Parts, *, plain: int = 0, rectified: int = 0, relus: int | None = None) -> tuple[Tensor, ...]:
        """The sum of parts, for each that reads it.

        Args:
            parts: what is added up; emptied, so that what nobody else has is gone.
            plain: how many read the sum.
            rectified: how many read its positive part, convolutions first.
            relus: how many ReLUs of the network that stands for, if not `rectified`.

        Returns:
            For each reader the sum, then for each its positive part, [N, C, H, W] each.
        """
        multiplicity = rectified if relus is None else relus
        coded = multiplicity > 0 and self._observer.compares_relus
        channels, size = parts[0].map.shape[1], parts[0].map[0].numel()
        parts.sort(key=lambda part: not part.alone)  # their memory may be taken: see Join
        join = Join(tuple(parts), plain, rectified, coded, self._eps, uses_up=not self._observer.keeps_outputs)
        parts.clear()
        outputs = join.run()
        if join.codes is not None:
            self._observer.relu_overlaps([0], [multiplicity], overlaps(join.codes), size)
        for part, codes, statistics in zip(join.parts, join.part_codes, join.statistics, strict=True):
            if part.coded and codes is not None:
                self._observer.layer_overlaps(part.coded, overlaps(codes), size)
            if statistics is not None:
                self._normalised(statistics[:, :channels], part.map)
        return outputs

    def _normalised(self, statistics: Tensor, y: Tensor) -> None:
        """Moves running statistics, where somebody keeps them."""
        own = self._observer.norm([0], len(statistics[0]))
        if own.running_mean is not None and own.running_var is not None:
            entries = y.numel() // y.shape[1]
            unbiased = statistics[kernels.VARIANCE] * (entries / (entries - 1))
            own.running_mean.lerp_(statistics[kernels.MEAN], MOMENTUM)
            own.running_var.lerp_(unbiased, MOMENTUM)

    def silent(self, size: int) -> None:
        """ReLU, convolution and BatchNorm of an edge that nothing but zeros ever reaches, and that is not run."""
        self._observer.silent(0, size)

    def normalised(self, parts: Parts) -> Parts:
        """BatchNorm of a sum. In eval mode it is a positive factor, which nobody minds behind the last convolution."""
        if not self._trains:
            return parts
        (x,) = self.read(parts, plain=1)
        return [Part(x, normalised=True)]

    def pool(self, x: Tensor) -> Tensor:
        """3x3 average pooling."""
        return pool(x)

    def classify(self, x: Tensor, call: LayerCall) -> Tensor:
        """Global average pool and linear layer: [N, C, H, W] -> logits [1, N, classes]."""
        return classify(x, call, self._weights, self._observer)
