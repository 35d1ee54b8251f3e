"""What a pass sees of a stack while activations are alive, reduced at once to what codes are compared by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from archscore_server.engine._device import indices, to_device
from archscore_server.engine.codes import certain_logdet, codes, gram, overlaps, settled
from archscore_server.engine.networks import LayerCall, Observer, Stack, in_slots
from archscore_server.engine.readings import Later
from archscore_server.engine.statistics import Array


class Observation(Observer):
    """Watches one run of a stack.

    Attributes:
        outputs: every call's output, where outputs are kept.
    """

    def __init__(self, stack: Stack, *, layers: bool = False, relus: bool = False, outputs: bool = False) -> None:
        """Chooses what to watch.

        Args:
            stack: the networks that will run.
            layers: compare the codes of layer outputs.
            relus: compare the codes of ReLU inputs.
            outputs: keep layer outputs for their gradients.
        """
        self._stack = stack
        self._layers, self._relus, self._outputs = layers, relus, outputs
        self._layer_overlaps: list[Tensor] = []  # [U, N, N] each
        self._layer_slots: list[int] = []
        self._layer_sizes: list[int] = []
        self._relu_overlaps: list[Tensor] = []  # [m, N, N] each
        self._relu_networks: list[int] = []
        self._relu_multiplicities: list[int] = []
        self._relu_sizes: list[int] = []
        self._silent = np.zeros(stack.networks)
        self.outputs: list[tuple[LayerCall, Tensor]] = []

    @property
    def compares_relus(self) -> bool:  # type: ignore[override]
        """See Observer."""
        return self._relus

    @property
    def keeps_outputs(self) -> bool:  # type: ignore[override]
        """See Observer."""
        return self._outputs

    def compares_layer(self, size: int, samples: int) -> bool:
        """See Observer."""
        # The rank of K is at most n + 1: below B it is singular, whatever the codes.
        return self._layers and size + 1 >= samples

    def layer(self, call: LayerCall, output: Tensor) -> None:
        """See Observer."""
        self.output(call, output)
        layers = len(call.slots)
        size = output[0].numel() // layers
        if self.compares_layer(size, len(output)):
            self.layer_overlaps(call, overlaps(codes(output.detach(), layers)), size)

    def output(self, call: LayerCall, output: Tensor) -> None:
        """See Observer."""
        if self._outputs:
            self.outputs.append((call, output))

    def layer_overlaps(self, call: LayerCall, overlaps: Tensor, size: int) -> None:
        """See Observer."""
        self._layer_overlaps.append(overlaps)
        self._layer_slots += call.slots
        self._layer_sizes += [size] * len(call.slots)

    def relu(self, networks: Sequence[int], multiplicity: Sequence[int], output: Tensor) -> None:
        """See Observer."""
        if self._relus:
            size = output[0].numel() // len(networks)
            own = overlaps(codes(output.detach(), len(networks), rectified=True))
            self.relu_overlaps(networks, multiplicity, own, size)

    def relu_overlaps(self, networks: Sequence[int], multiplicity: Sequence[int], overlaps: Tensor, size: int) -> None:
        """See Observer."""
        self._relu_overlaps.append(overlaps)
        self._relu_networks += networks
        self._relu_multiplicities += multiplicity
        self._relu_sizes += [size] * len(networks)

    def silent(self, network: int, size: int) -> None:
        """See Observer."""
        # every sample has the code 0...0, so K_ij = n
        self._silent[network] += size

    def logdet_layers(self) -> Later[Array]:
        """Logdet K_l, [A, L]; 0 where K_l is singular or the layer never ran."""
        shape, slots, device = self._stack.present.shape, tuple(self._layer_slots), self._stack.device
        if not self._layer_overlaps:
            return lambda: np.zeros(shape)
        overlap, sizes = _joined(self._layer_overlaps), indices(self._layer_sizes, device)

        def finish(values: Array) -> Array:
            found = settled(values, lambda own: gram(overlap[own], sizes[own]), overlap.shape[-1], device)
            return in_slots(shape, slots, np.nan_to_num(found, nan=0.0))

        return self._stack.readings.read(certain_logdet(gram(overlap, sizes)), finish)

    def regions(self) -> Later[Array]:
        """The number of distinct codes of all ReLUs of a network together, [A]."""
        k = self._relu_sum()
        # K_ij is the number of agreeing entries, and K_ii all of them
        agree = k == k.diagonal(dim1=-2, dim2=-1)[:, None, :]
        first = ~agree.tril(-1).any(dim=-1)
        return self._stack.read(first.sum(dim=-1))

    def logdet_relus(self) -> Later[Array]:
        """Log det of the sum of K over all ReLUs of a network, [A]; NaN where it is singular."""
        k, device = self._relu_sum(), self._stack.device

        def finish(values: Array) -> Array:
            return settled(values, k.__getitem__, k.shape[-1], device)

        return self._stack.readings.read(certain_logdet(k), finish)

    def _relu_sum(self) -> Tensor:
        """The sum of K over all ReLUs of a network, [A, N, N]."""
        overlap = _joined(self._relu_overlaps)
        k = gram(overlap, indices(self._relu_sizes, overlap.device))
        multiplicities = indices(self._relu_multiplicities, k.device).to(k.dtype)
        total = to_device(self._silent, k.device)[:, None, None].repeat(1, *k.shape[1:])
        return total.index_add_(0, indices(self._relu_networks, k.device), k * multiplicities[:, None, None])


def _joined(parts: list[Tensor]) -> Tensor:
    """All parts as one tensor, which takes their place."""
    if len(parts) > 1:
        parts[:] = [torch.cat(parts)]
    return parts[0]
