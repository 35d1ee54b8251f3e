"""A stack: networks with one skeleton, evaluated side by side.

A `Stack` knows which layers its networks have and keeps the weights of all layers of one shape in one tensor, so that
what is computed per layer (saliencies, norms) is a few calls per shape, whatever the number of layers and networks.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archscore.spaces import Layer
from archscore_server.engine import tables
from archscore_server.engine.config import Init
from archscore_server.engine.readings import Later, Readings
from archscore_server.engine.statistics import Array

Shape = tuple[int, ...]


class Mode(Enum):
    """How a stack is run."""

    TRAIN = auto()  # BatchNorm by the statistics of the minibatch
    EVAL = auto()  # BatchNorm by its initial running statistics, mean 0 and variance 1
    LINEAR = auto()  # BatchNorm replaced by the identity


@dataclass(frozen=True, slots=True)
class NormState:
    """What a BatchNorm in train mode works with, all [U*C]; None is as good as the initial value that nobody reads.

    Attributes:
        running_mean: updated by the run.
        running_var: updated by the run.
        weight: scale after normalisation.
    """

    running_mean: Tensor | None = None
    running_var: Tensor | None = None
    weight: Tensor | None = None


class Observer:
    """Sees a stack's tensors while they are alive; the default looks away."""

    #: Whether the codes of ReLU inputs are compared.
    compares_relus = False

    #: Whether outputs of layers are needed when the run is over.
    keeps_outputs = False

    def compares_layer(self, size: int, samples: int) -> bool:
        """Whether the codes of a layer's output are compared.

        Args:
            size: entries of a sample.
            samples: N.
        """
        del size, samples
        return False

    def layer(self, call: LayerCall, output: Tensor) -> None:
        """A weight layer's output before BatchNorm, up to a positive factor, codes and all.

        Args:
            call: the layers that ran.
            output: [N, U*C, H, W], U = len(call.slots).
        """

    def output(self, call: LayerCall, output: Tensor) -> None:
        """A weight layer's output as in `layer`, the codes of which come on their own: `layer_overlaps`."""

    def layer_overlaps(self, call: LayerCall, overlaps: Tensor, size: int) -> None:
        """How the codes of outputs overlap.

        Args:
            call: the layers that ran.
            overlaps: c_i . c_j for all pairs of samples, [U, N, N].
            size: entries of a code.
        """

    def relu_overlaps(self, networks: Sequence[int], multiplicity: Sequence[int], overlaps: Tensor, size: int) -> None:
        """How the codes of ReLU inputs overlap: whose they are as in `relu`, the rest as in `layer_overlaps`."""

    def relu(self, networks: Sequence[int], multiplicity: Sequence[int], output: Tensor) -> None:
        """A ReLU's output.

        Args:
            networks: the m networks of the stack that it belongs to.
            multiplicity: how many ReLUs of each network read this same input.
            output: [N, m*C, H, W].
        """

    def silent(self, network: int, size: int) -> None:
        """ReLU, convolution and BatchNorm of an edge that nothing but zeros ever reaches, and that is not run.

        Args:
            network: number in the stack.
            size: entries of its input per sample.
        """

    def norm(self, networks: Sequence[int], channels: int) -> NormState:
        """What a BatchNorm in train mode works with besides its input.

        Args:
            networks: the networks that its U units belong to.
            channels: U*C.
        """
        del networks, channels
        return NormState()

    def features(self, features: Tensor) -> None:
        """What enters the global average pool, [N, A*C, H, W]."""


@dataclass(frozen=True, slots=True)
class LayerCall:
    """Layers of one shape that run as one call.

    Attributes:
        shape: weight shape of each layer.
        position: place of the call among those of its shape.
        slots: network * L + slot, for each layer.
    """

    shape: Shape
    position: int
    slots: tuple[int, ...]


class Stack(ABC):
    """A networks with one skeleton.

    A subclass lays out its calls with `_call`, in any order.

    Attributes:
        networks: A.
        slots: L, layer slots of the skeleton in canonical order.
        present: [A, L], which slots hold a layer.
        layers: for each network its layers in canonical order.
        seeds: for each network the seed of its weights and minibatches.
        device: where it runs.
        readings: what the host will read of it.
    """

    def __init__(
        self,
        layers: Sequence[Sequence[Layer]],
        present: NDArray[np.bool_],
        seeds: Sequence[int],
        init: Init,
        device: torch.device,
    ) -> None:
        """Notes which layers there are, and how their weights are drawn when they are first asked for."""
        self.layers = layers
        self.seeds = tuple(seeds)
        self._init = init
        self.present = present
        self.networks, self.slots = present.shape
        self.device = device
        self.readings = Readings(device)
        self._calls: dict[Shape, list[LayerCall]] = {}
        self._drawn: dict[Init, dict[Shape, Tensor]] = {}

    @abstractmethod
    def forward(
        self, images: Tensor, weights: Weights, mode: Mode, observer: Observer, *, plain: bool = False
    ) -> Tensor:
        """Runs the stack.

        Args:
            images: [N, 3, R, R] shared by all networks, or [N, A*3, R, R].
            weights: from `weights`.
            mode: how BatchNorm behaves.
            observer: sees layer outputs and ReLUs.
            plain: whether what comes is differentiated more than once, or with respect to BatchNorm's scales; else it
                may take forms that cannot.

        Returns:
            Logits, [A, N, classes].
        """

    def weights(self, dtype: torch.dtype, *, init: Init | None = None, absolute: bool = False) -> Weights:
        """The initial weights in a precision, or their absolute values; fresh leaves that require gradients.

        Args:
            dtype: the precision.
            init: how they are drawn, if not as the config says.
            absolute: whether to take absolute values.
        """
        leaves = {
            shape: (drawn.to(dtype).abs() if absolute else drawn.to(dtype, copy=True)).requires_grad_()
            for shape, drawn in self._draw(init or self._init).items()
        }
        return Weights(leaves, self._calls)

    def owners(self) -> dict[Shape, list[int]]:
        """For each shape, the networks that its weights belong to, [U]."""
        return {
            shape: [slot // self.slots for call in calls for slot in call.slots] for shape, calls in self._calls.items()
        }

    def read(self, values: Tensor) -> Later[Array]:
        """Numbers on the host, float64 of the same shape."""
        return self.readings.read(values, lambda read: read)

    def spread(self, per_shape: dict[Shape, Tensor]) -> Later[Array]:
        """Numbers per layer, [U] for each shape as its weights are ordered, as [A, L] on the host; 0 in empty slots."""
        slots = [slot for shape in per_shape for call in self._calls[shape] for slot in call.slots]
        values = torch.cat([values.double() for values in per_shape.values()])
        return self.readings.read(values, partial(in_slots, self.present.shape, slots))

    def _call(self, shape: Shape, slots: Sequence[tuple[int, int]]) -> LayerCall:
        """Registers a call of the layers in (network, slot), all of one weight shape."""
        calls = self._calls.setdefault(shape, [])
        call = LayerCall(shape, len(calls), tuple(network * self.slots + slot for network, slot in slots))
        calls.append(call)
        return call

    def _draw(self, init: Init) -> dict[Shape, Tensor]:
        """The weights of all calls, [U, *shape] float32 for each shape."""
        if init not in self._drawn:
            self._drawn[init] = {
                shape: tables.TABLES.take(shape, rows, init, self.device) for shape, rows in self._rows().items()
            }
        return self._drawn[init]

    def _rows(self) -> dict[Shape, list[tables.Row]]:
        """For each shape, the seed and number of each layer, [U]."""
        numbers = (self.present.cumsum(axis=1) - 1).ravel().tolist()
        return {
            shape: [(self.seeds[slot // self.slots], numbers[slot]) for call in calls for slot in call.slots]
            for shape, calls in self._calls.items()
        }


class Weights:
    """Weights of a stack: one leaf [U, *shape] a shape, dealt to the calls once.

    Attributes:
        leaves: the leaves, by shape.
    """

    def __init__(self, leaves: dict[Shape, Tensor], calls: dict[Shape, list[LayerCall]]) -> None:
        """Splits each leaf by its calls: one split, so that its gradient is one concatenation."""
        self.leaves = leaves
        self._dealt = {shape: leaf.split([len(call.slots) for call in calls[shape]]) for shape, leaf in leaves.items()}

    def of(self, call: LayerCall) -> Tensor:
        """The weights of a call, [U, *shape]."""
        weights: Tensor = self._dealt[call.shape][call.position]
        return weights


def in_slots(shape: Shape, slots: Sequence[int], values: Array) -> Array:
    """Numbers of layers, each in a slot (network * L + slot), as an array of shape [A, L]; 0 in the other slots."""
    result = np.zeros(math.prod(shape))
    result[list(slots)] = values
    return result.reshape(shape)
