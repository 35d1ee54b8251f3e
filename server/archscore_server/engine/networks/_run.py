"""One run of a stack: the layers that all search spaces have, with the observer looking on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from archscore_server.engine.convolutions import overruns
from archscore_server.engine.networks._stack import LayerCall, Mode, Observer, Stack, Weights

#: What torch's BatchNorm moves its running statistics by.
MOMENTUM = 0.1


class Run:
    """Layers of a stack, in one mode, under one observer."""

    def __init__(self, stack: Stack, weights: Weights, mode: Mode, observer: Observer, eps: float) -> None:
        """Takes what all layers share; `eps` is BatchNorm's."""
        self._networks = stack.networks
        self._slots = stack.slots
        self._weights = weights
        self._mode = mode
        self._observer = observer
        self._eps = eps

    def relu(self, x: Tensor) -> Tensor:
        """A ReLU that every network has once."""
        rectified = torch.relu(x)
        self._observer.relu(range(self._networks), [1] * self._networks, rectified)
        return rectified

    def conv_norm(self, x: Tensor, call: LayerCall, *, groups: int, stride: int = 1, padding: int = 0) -> Tensor:
        """Convolution and BatchNorm."""
        if self._mode is Mode.EVAL:
            # mean 0 and variance 1: BatchNorm is a factor, and a positive one, so codes do not mind it
            return self.conv(x, call, groups=groups, stride=stride, padding=padding, factor=(1 + self._eps) ** -0.5)
        y = self.conv(x, call, groups=groups, stride=stride, padding=padding)
        return self.norm(y, [slot // self._slots for slot in call.slots])

    def conv(
        self, x: Tensor, call: LayerCall, *, groups: int, stride: int = 1, padding: int = 0, factor: float = 1.0
    ) -> Tensor:
        """Convolution of all layers of a call, their weights times a factor; `groups` as in F.conv2d."""
        y = convolve(x, self._weights.of(call), groups=groups, stride=stride, padding=padding, factor=factor)
        self._observer.layer(call, y)
        return y

    def norm(self, x: Tensor, networks: list[int]) -> Tensor:
        """BatchNorm at initialisation of units that belong to these networks."""
        if self._mode is Mode.TRAIN:
            own = self._observer.norm(networks, x.shape[1])
            return F.batch_norm(
                x, own.running_mean, own.running_var, own.weight, training=True, momentum=MOMENTUM, eps=self._eps
            )
        return x * (1 + self._eps) ** -0.5 if self._mode is Mode.EVAL else x

    def classify(self, x: Tensor, call: LayerCall) -> Tensor:
        """Global average pool and linear layer: [N, A*C, H, W] -> logits [A, N, classes]."""
        return classify(x, call, self._weights, self._observer)


def convolve(x: Tensor, weights: Tensor, *, groups: int, stride: int, padding: int, factor: float) -> Tensor:
    """Convolution by the weights of all layers of a call, [U, *shape], times a factor; `groups` as in F.conv2d."""
    weight = weights.flatten(0, 1)
    if factor != 1:
        weight = weight * factor
    if overruns(weight.shape[1], weight.shape[2], stride):
        weight = F.pad(weight, (0, 1, 0, 1))  # the kernel grows to 2x2, and the zeros add nothing
    return F.conv2d(x, weight, stride=stride, padding=padding, groups=groups)


def classify(x: Tensor, call: LayerCall, weights: Weights, observer: Observer) -> Tensor:
    """Global average pool and linear layer: [N, A*C, H, W] -> logits [A, N, classes]."""
    observer.features(x)
    networks = len(call.slots)
    features = x.mean(dim=(2, 3)).unflatten(1, (networks, -1)).transpose(0, 1)  # [A, N, C]
    logits = (features @ weights.of(call).transpose(1, 2)).transpose(0, 1).flatten(1)
    logits = logits[:, :, None, None]  # [N, A*classes, 1, 1]
    observer.layer(call, logits)
    by_network: Tensor = logits.flatten(1).unflatten(1, (networks, -1)).transpose(0, 1)
    return by_network
