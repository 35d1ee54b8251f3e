"""What every search space offers: a parser, architectures as values, and what they cost.

Standard library only: the client, the service and the engine all build on these types.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self


class EncodingError(ValueError):
    """An encoding that the grammar of its search space does not accept.

    Attributes:
        position: 0-based character offset in the string as sent, where the first surprise is.
        expected: what the grammar allows there, in words.
    """

    def __init__(self, position: int, expected: str) -> None:
        """Says where the encoding departs from the grammar and what was expected there."""
        super().__init__(f"at position {position}: expected {expected}")
        self.position = position
        self.expected = expected


class NetworkError(ValueError):
    """An architecture for which there is no network of the size asked: wrong resolution, or no classes."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One convolution or linear layer of a network, in the canonical order of its space.

    Attributes:
        name: where the layer stands in the network, unique within it.
        kind: "conv" or "linear".
        in_channels: channels (conv) or features (linear) that enter.
        out_channels: channels or features that leave.
        kernel: side of the square kernel; 1 for a linear layer.
        stride: stride of the convolution; 1 for a linear layer.
        groups: groups of the convolution.
        bias: whether the layer has a bias.
        resolution: side of the square output map; 1 for a linear layer.
    """

    name: str
    kind: Literal["conv", "linear"]
    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    groups: int
    bias: bool
    resolution: int

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """Shape of the weight, as torch stores it: [out, in / groups, k, k] or [out, in]."""
        if self.kind == "linear":
            return (self.out_channels, self.in_channels)
        return (self.out_channels, self.in_channels // self.groups, self.kernel, self.kernel)

    @property
    def weights(self) -> int:
        """Number of weights, without the bias."""
        return self.out_channels * (self.in_channels // self.groups) * self.kernel**2

    @property
    def flops(self) -> int:
        """Multiply-accumulates for one image (biases not counted)."""
        return self.weights * self.resolution**2


@dataclass(frozen=True, slots=True)
class Size:
    """How large the network of an architecture is.

    Attributes:
        parameters: all trainable values, biases and BatchNorm included.
        flops: multiply-accumulates of convolutions and linear layers for one image, dead ones included.
        layers: number of convolutions and linear layers.
    """

    parameters: int
    flops: int
    layers: int


@dataclass(frozen=True, slots=True)
class Description:
    """What is known of an architecture before any network is built.

    Attributes:
        canonical: the canonical encoding.
        connected: whether the logits depend on the input.
        parameters: all trainable values of the network as scored, biases and BatchNorm included.
        flops: multiply-accumulates of convolutions and linear layers for one image, as scored, dead ones included.
        parameters_with_residual_links: the same with every shortcut built: what budgets and published figures count.
        flops_with_residual_links: likewise.
        layers: convolutions and linear layers in canonical order, as scored.
    """

    canonical: str
    connected: bool
    parameters: int
    flops: int
    parameters_with_residual_links: int
    flops_with_residual_links: int
    layers: tuple[Layer, ...]


class Architecture(Protocol):
    """A parsed encoding: a frozen, hashable value that knows nothing of tensors."""

    def format(self) -> str:
        """The canonical encoding; parsing it gives an equal value."""
        ...

    @property
    def connected(self) -> bool:
        """Whether the logits depend on the input (a disconnected architecture is DEGENERATE)."""
        ...

    def size(self, network: Any, *, resolution: int, num_classes: int) -> Size:
        """How large a network of this architecture is, without listing its layers.

        Takes time and memory in proportion to the encoding, however deep the network: limits are checked by it.

        Args:
            network: the `NetworkConfig` of the architecture's space.
            resolution: side of the square input image in pixels.
            num_classes: classes of the classifier.

        Raises:
            NetworkError: no such network exists for this resolution or number of classes.
        """
        ...

    def describe(self, network: Any, *, resolution: int, num_classes: int) -> Description:
        """What a network of this architecture consists of and costs.

        Lists every layer. Where the encoding is not trusted, check its `size` first.

        Args:
            network: the `NetworkConfig` of the architecture's space.
            resolution: side of the square input image in pixels.
            num_classes: classes of the classifier.

        Raises:
            NetworkError: no such network exists for this resolution or number of classes.
        """
        ...

    def mutate(self, rng: random.Random) -> Self:
        """A neighbour in the search space, drawn with `rng`."""
        ...


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """A search space: its name, its grammar and how to draw from it.

    Attributes:
        name: the name that requests use.
        description: one or two sentences for people.
        example: a valid canonical encoding.
        network: the default `NetworkConfig`, of the space's own type: all that shapes a network besides its encoding.
        resolution_multiple: every input resolution must be a multiple of this; an architecture may ask for more.
        parse: turns an encoding into a value, or raises EncodingError.
        sample: draws an architecture; the module of the space says from which distribution.
    """

    name: str
    description: str
    example: str
    network: Any
    resolution_multiple: int
    parse: Callable[[str], Architecture]
    sample: Callable[[random.Random], Architecture]
