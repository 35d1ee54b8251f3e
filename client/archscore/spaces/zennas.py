"""The ZenNAS search space: genomes, sequences of blocks of convolutions.

Source: Lin et al., "Zen-NAS: A Zero-Shot NAS for High-Performance Image Recognition", ICCV 2021.

A genome is written block by block, as in `SuperConvK3BNRELU(3,8,1,1)SuperResK3K3(8,16,1,8,1)`. The arguments are
`(in,out,stride,sub_layers)` for a SuperConv block and `(in,out,stride,bottleneck,sub_layers)` for all others; a block
is its sub-layers one after the other, and only the first of them has `in` and `stride`. After the last block come a
global average pool and a linear classifier.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from archscore.spaces._base import Description, EncodingError, Layer, NetworkError, SearchSpace, Size

IMAGE_CHANNELS: Final = 3
"""Channels that enter the first block."""

MAX_INTEGER: Final = 999_999_999
"""The largest number that an encoding can hold."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What the sub-layers of a block are. Every convolution is followed by BatchNorm, every unit ends in a ReLU.

    Attributes:
        name: the name in encodings.
        family: what one sub-layer is. "conv": one convolution. "basic": one residual unit of two convolutions.
            "bottleneck": two residual units, each a convolution between two 1x1 convolutions. "inverted": two inverted
            residual units, each a depthwise convolution between two 1x1 convolutions.
        kernel: side of the kernel of all convolutions but the 1x1 ones named above.
        expansion: in an inverted unit, channels of its depthwise convolution over channels that leave it; 1 elsewhere.
    """

    name: str
    family: Literal["conv", "basic", "bottleneck", "inverted"]
    kernel: int
    expansion: int = 1


KINDS: Final[Mapping[str, Kind]] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            *(Kind(f"SuperConvK{k}BNRELU", "conv", k) for k in (1, 3, 5, 7)),
            *(Kind(f"SuperResK{k}K{k}", "basic", k) for k in (3, 5, 7)),
            *(Kind(f"SuperResK1K{k}K1", "bottleneck", k) for k in (3, 5, 7)),
            *(Kind(f"SuperResIDWE{e}K{k}", "inverted", k, e) for e in (1, 2, 4, 6) for k in (3, 5, 7)),
        )
    }
)
"""All kinds of blocks by name."""


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """What shapes the network of a genome besides its encoding.

    Attributes:
        residual_links: whether the residual units have their shortcuts. Zen-NAS, ZiCo and T-CET score this space
            without them.
    """

    residual_links: bool = False


@dataclass(frozen=True, slots=True)
class Unit:
    """A step of the network: ReLU(path + shortcut), the form that every unit of this space has.

    Attributes:
        path: convolutions of the main path, in order. Each is followed by BatchNorm, and each but the last by a ReLU
            after that. Their padding is (kernel - 1) / 2.
        projection: the convolution of a projection shortcut, which has a bias and is followed by BatchNorm, if any.
        identity: whether the shortcut is the unit's input. With neither, the unit is its main path alone.
    """

    path: tuple[Layer, ...]
    projection: Layer | None = None
    identity: bool = False

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All convolutions in canonical order: the main path first."""
        return self.path if self.projection is None else (*self.path, self.projection)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a genome. All numbers are from 1 to `MAX_INTEGER`.

    Attributes:
        kind: a name in `KINDS`.
        in_channels: channels that enter the first sub-layer.
        out_channels: channels that leave every sub-layer, and enter all but the first.
        stride: stride of the first sub-layer; the others have 1.
        bottleneck: channels in the middle of a residual sub-layer; None for a SuperConv block, which has none.
        sub_layers: how many sub-layers.
    """

    kind: str
    in_channels: int
    out_channels: int
    stride: int
    bottleneck: int | None
    sub_layers: int

    def __post_init__(self) -> None:
        """Rejects unknown kinds, numbers out of range and a bottleneck where there is none, with a ValueError."""
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {_FAMILIES}")
        if (self.bottleneck is None) != (KINDS[self.kind].family == "conv"):
            raise ValueError("SuperConv blocks have no bottleneck, all others have one")
        if not all(1 <= number <= MAX_INTEGER for number in self._arguments()):
            raise ValueError(f"in_channels, out_channels, stride, bottleneck and sub_layers must be {_ANY_INTEGER}")

    def format(self) -> str:
        """The block's part of the canonical encoding."""
        return f"{self.kind}({','.join(map(str, self._arguments()))})"

    def _arguments(self) -> tuple[int, ...]:
        """The numbers in the order of the encoding."""
        if self.bottleneck is None:
            return (self.in_channels, self.out_channels, self.stride, self.sub_layers)
        return (self.in_channels, self.out_channels, self.stride, self.bottleneck, self.sub_layers)


@dataclass(frozen=True, slots=True)
class Genome:
    """An architecture of this space.

    Attributes:
        blocks: at least one; the first takes `IMAGE_CHANNELS`, each other one what the block before it puts out.
    """

    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        """Rejects an empty genome and channels that do not chain, with a ValueError."""
        if not self.blocks:
            raise ValueError("a genome has at least one block")
        if self.blocks[0].in_channels != IMAGE_CHANNELS:
            raise ValueError(f"in_channels of the first block must be {IMAGE_CHANNELS}")
        if any(block.in_channels != before.out_channels for before, block in pairwise(self.blocks)):
            raise ValueError("in_channels of a block must be out_channels of the block before it")

    def format(self) -> str:
        """The canonical encoding: the blocks one after the other, without names."""
        return "".join(block.format() for block in self.blocks)

    @property
    def connected(self) -> bool:
        """True: every block of every genome reaches the classifier."""
        return True

    @property
    def sub_layers(self) -> int:
        """Sub-layers of all blocks together."""
        return sum(block.sub_layers for block in self.blocks)

    def size(self, network: NetworkConfig, *, resolution: int, num_classes: int) -> Size:
        """How large the network of this genome is, in time proportional to the number of blocks, however deep they are.

        Args:
            network: whether residual units have their shortcuts.
            resolution: side of the square input image in pixels, a positive multiple of the product of all strides.
            num_classes: classes of the classifier, at least 1.

        Raises:
            NetworkError: no such network exists for this resolution or number of classes.
        """
        classifier = self.classifier(num_classes)
        # Two values a channel are a BatchNorm's; the classifier has one bias a class instead.
        parameters, flops, layers = classifier.weights + num_classes, classifier.flops, 1
        for block, side in zip(self.blocks, self._sides(resolution), strict=True):
            # All sub-layers after the first are alike.
            for number, times in ((0, 1), (1, block.sub_layers - 1)):
                if times:
                    for layer in _layers(_sub_layer(block, "", number, side, network)):
                        parameters += times * (layer.weights + (3 if layer.bias else 2) * layer.out_channels)
                        flops += times * layer.flops
                        layers += times
        return Size(parameters, flops, layers)

    def units(self, network: NetworkConfig, *, resolution: int) -> Iterator[Unit]:
        """The network up to the global average pool, unit by unit, made one at a time.

        Layers are named `blockB.subS.unitU.convC` and `blockB.subS.unitU.projection`, all numbered from 0.

        Args:
            network: whether residual units have their shortcuts.
            resolution: side of the square input image in pixels, a positive multiple of the product of all strides.

        Raises:
            NetworkError: no such network exists for this resolution (raised by the call, not on the way).
        """
        sides = self._sides(resolution)
        return (
            unit
            for number, (block, side) in enumerate(zip(self.blocks, sides, strict=True))
            for sub_layer in range(block.sub_layers)
            for unit in _sub_layer(block, f"block{number}", sub_layer, side, network)
        )

    def classifier(self, num_classes: int) -> Layer:
        """The linear layer after the global average pool, named `classifier`.

        Raises:
            NetworkError: there are no classes.
        """
        if num_classes < 1:
            raise NetworkError("num_classes must be at least 1")
        features = self.blocks[-1].out_channels
        return Layer("classifier", "linear", features, num_classes, 1, 1, groups=1, bias=True, resolution=1)

    def describe(self, network: NetworkConfig, *, resolution: int, num_classes: int) -> Description:
        """What the network of this genome consists of and costs.

        Lists every layer, and an encoding of a hundred characters may stand for billions of them: where it is not
        trusted, check its `size` first. The layers are those of `units`, and `classifier`.

        Args:
            network: whether residual units have their shortcuts.
            resolution: side of the square input image in pixels, a positive multiple of the product of all strides.
            num_classes: classes of the classifier, at least 1.

        Raises:
            NetworkError: no such network exists for this resolution or number of classes.
        """
        scored = self.size(network, resolution=resolution, num_classes=num_classes)
        linked = self.size(_WITH_LINKS, resolution=resolution, num_classes=num_classes)
        return Description(
            canonical=self.format(),
            connected=self.connected,
            parameters=scored.parameters,
            flops=scored.flops,
            parameters_with_residual_links=linked.parameters,
            flops_with_residual_links=linked.flops,
            layers=(*_layers(self.units(network, resolution=resolution)), self.classifier(num_classes)),
        )

    def mutate(self, rng: random.Random) -> Genome:
        """A genome with another block in the place of one, as the search on CIFAR draws it.

        The block is drawn uniformly, and so is what becomes of it, each on its own and all again until anything has
        changed: its kind among `SEARCHED_KINDS`, `out_channels` and `bottleneck` times one of `CHANNEL_FACTORS`,
        rounded to a multiple of 8 between 8 and 2048, and `sub_layers` plus one of {-2, ..., 2}, at least 1. A
        SuperConv block changes in `out_channels` only. A block that has 6 or more sub-layers then is split in two.
        """
        place = rng.randrange(len(self.blocks))
        mutant = _mutant(self.blocks[place], rng)
        after = self.blocks[place + 1 :]
        if after:
            after = (replace(after[0], in_channels=mutant.out_channels), *after[1:])
        return Genome((*self.blocks[:place], *_split(mutant), *after))

    def _sides(self, resolution: int) -> list[int]:
        """Side of the square map that enters each block."""
        if resolution < 1:
            raise NetworkError("resolution must be at least 1")
        sides, side = [], resolution
        for number, block in enumerate(self.blocks, start=1):
            sides.append(side)
            # In this form a resolution is a multiple of the product of all strides, which may be huge.
            side, remainder = divmod(side, block.stride)
            if remainder:
                raise NetworkError(
                    f"resolution must be a multiple of the product of all strides: at {resolution}, block {number} of "
                    f"{len(self.blocks)} has stride {block.stride} and an input of {sides[-1]}x{sides[-1]}"
                )
        return sides


def parse(text: str) -> Genome:
    """Reads a genome; ASCII white space around it is ignored, and `name|` before the arguments of a block is dropped.

    Raises:
        EncodingError: the text is anything else.
    """
    position = len(text) - len(text.lstrip(string.whitespace))
    end = max(position, len(text.rstrip(string.whitespace)))
    blocks: list[Block] = []
    while not blocks or position < end:
        block, position = _parse_block(text, position, end, blocks[-1] if blocks else None)
        blocks.append(block)
    return Genome(tuple(blocks))


SEARCHED_KINDS: Final = tuple(kind.name for kind in KINDS.values() if kind.family in ("basic", "bottleneck"))
"""What a residual block may become in the search on CIFAR."""

CHANNEL_FACTORS: Final = ((5, 2), (2, 1), (3, 2), (5, 4), (1, 1), (4, 5), (2, 3), (1, 2), (2, 5))
"""What a mutation multiplies channels by, as (numerator, denominator)."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What a search allows. Networks count with their residual links, whatever scores are taken with.

    Attributes:
        max_parameters: all trainable values; None for any number.
        max_flops: multiply-accumulates for one image; None for any number.
        max_sub_layers: sub-layers of all blocks together; None for any number.
    """

    max_parameters: int | None = None
    max_flops: int | None = None
    max_sub_layers: int | None = None

    def fits(self, genome: Genome, *, resolution: int = 32, num_classes: int = 10) -> bool:
        """Whether a genome keeps to the budget; the defaults are CIFAR-10's.

        Raises:
            NetworkError: the genome has no network of this resolution or number of classes.
        """
        size = genome.size(_WITH_LINKS, resolution=resolution, num_classes=num_classes)
        return all(
            most is None or used <= most
            for used, most in (
                (size.parameters, self.max_parameters),
                (size.flops, self.max_flops),
                (genome.sub_layers, self.max_sub_layers),
            )
        )


def sample(rng: random.Random) -> Genome:
    """A random genome of the search on CIFAR: where `START` is after 64 mutations that each kept to `CIFAR_BUDGET`.

    A mutation that does not is drawn again. The distribution is that of this random walk; it is not uniform.
    """
    genome = START
    for _ in range(_SAMPLE_STEPS):
        while not CIFAR_BUDGET.fits(mutant := genome.mutate(rng)):
            pass
        genome = mutant
    return genome


_WITH_LINKS: Final = NetworkConfig(residual_links=True)
_SAMPLE_STEPS: Final = 64
_SPLIT_FROM: Final = 6
_CHANNEL_MULTIPLE: Final = 8
_MAX_SEARCHED_CHANNELS: Final = 2048

_FAMILIES: Final = (
    "SuperConvK{1,3,5,7}BNRELU, SuperResKkKk, SuperResK1KkK1, SuperResIDWE{1,2,4,6}Kk, with one k of 3, 5, 7"
)
_NAME_LENGTHS: Final = tuple(sorted({len(name) for name in KINDS}))
_CONV_ARGUMENTS: Final = ("out", "stride", "sub_layers")
_RESIDUAL_ARGUMENTS: Final = ("out", "stride", "bottleneck", "sub_layers")
_DIGITS: Final = len(str(MAX_INTEGER))
_ANY_INTEGER: Final = f"an integer from 1 to {MAX_INTEGER}"


def _parse_block(text: str, position: int, end: int, before: Block | None) -> tuple[Block, int]:
    """Reads the block that stands at `position`, after the block `before` if any; returns where it ends, too."""
    # No name is a prefix of another, so the first length that fits is the only one.
    for length in _NAME_LENGTHS:
        kind = KINDS.get(text[position : min(end, position + length)])
        if kind:
            break
    else:
        raise EncodingError(position, f"{'end of text or ' if before else ''}one of {_FAMILIES}")
    position = _skip("(", text, position + len(kind.name), end)

    # What is before the first comma holds the name and its bar, if there are any.
    comma = text.find(",", position, end)
    name, bar, _ = text[position : end if comma < 0 else comma].partition("|")
    if bar and _is_name(name):
        position += len(name) + len(bar)

    in_channels, after = _read_integer(text, position, end)
    if before and in_channels != before.out_channels:
        raise EncodingError(position, f"in = {before.out_channels}, the out of the block before")
    if not before and in_channels != IMAGE_CHANNELS:
        raise EncodingError(position, f"in = {IMAGE_CHANNELS}, the channels of an image")
    position = after

    numbers = []
    for argument in _CONV_ARGUMENTS if kind.family == "conv" else _RESIDUAL_ARGUMENTS:
        position = _skip(",", text, position, end, then=f" and {argument}")
        number, after = _read_integer(text, position, end)
        if not number:
            raise EncodingError(position, f"{argument}, {_ANY_INTEGER}")
        numbers.append(number)
        position = after
    position = _skip(")", text, position, end)
    out_channels, stride, *middle, sub_layers = numbers
    bottleneck = middle[0] if middle else None
    return Block(kind.name, in_channels, out_channels, stride, bottleneck, sub_layers), position


def _skip(token: str, text: str, position: int, end: int, *, then: str = "") -> int:
    """Where the token that must stand at `position` ends; `then` says what must follow, should it be missing."""
    if not text.startswith(token, position, end):
        raise EncodingError(position, f"'{token}'{then}")
    return position + len(token)


def _is_name(text: str) -> bool:
    """Whether a text is one or more of A-Z, a-z, 0-9 and _."""
    return text.isascii() and text.replace("_", "a").isalnum()


def _read_integer(text: str, position: int, end: int) -> tuple[int, int]:
    """The integer at `position` and where it ends; 0 where there is none that the grammar accepts."""
    head = text[position : min(end, position + _DIGITS + 1)]
    digits = head[: len(head) - len(head.lstrip(string.digits))]
    if not digits or digits[0] == "0" or len(digits) > _DIGITS:
        return 0, position
    return int(digits), position + len(digits)


class _Convolution(NamedTuple):
    """A convolution of a main path, as yet without a place in a network."""

    kernel: int
    in_channels: int
    out_channels: int
    stride: int = 1
    groups: int = 1


def _sub_layer(block: Block, name: str, number: int, side: int, network: NetworkConfig) -> Iterator[Unit]:
    """The units of sub-layer `number` of a block that is called `name` and takes maps of `side` x `side`."""
    first = number == 0
    if not first:
        side //= block.stride
    for unit, convolutions in enumerate(_main_paths(block, first=first)):
        prefix = f"{name}.sub{number}.unit{unit}"
        path = []
        for place, convolution in enumerate(convolutions):
            side //= convolution.stride
            path.append(_conv(f"{prefix}.conv{place}", convolution, side))
        if block.bottleneck is None or not network.residual_links:
            yield Unit(tuple(path))
            continue
        entering, leaving = path[0].in_channels, path[-1].out_channels
        # Only the first unit of a block may have a stride over 1, and that one has a projection whatever its shape.
        if first and unit == 0:
            projection = _Convolution(1, entering, leaving, block.stride)
        elif entering != leaving:
            projection = _Convolution(1, entering, leaving)
        else:
            yield Unit(tuple(path), identity=True)
            continue
        yield Unit(tuple(path), _conv(f"{prefix}.projection", projection, side, bias=True))


def _main_paths(block: Block, *, first: bool) -> tuple[tuple[_Convolution, ...], ...]:
    """The main paths of the units of a block's first sub-layer, or of any other."""
    kind, middle, leaving = KINDS[block.kind], block.bottleneck, block.out_channels
    entering, stride = (block.in_channels, block.stride) if first else (leaving, 1)
    if middle is None:
        return ((_Convolution(kind.kernel, entering, leaving, stride),),)
    if kind.family == "basic":
        return ((_Convolution(kind.kernel, entering, middle, stride), _Convolution(kind.kernel, middle, leaving)),)
    if kind.family == "bottleneck":
        return (
            _narrowed(kind.kernel, entering, middle, leaving, stride),
            _narrowed(kind.kernel, leaving, middle, leaving, 1),
        )
    return (_inverted(kind, entering, middle, stride), _inverted(kind, middle, leaving, 1))


def _narrowed(kernel: int, entering: int, middle: int, leaving: int, stride: int) -> tuple[_Convolution, ...]:
    """Main path of a bottleneck unit."""
    return (
        _Convolution(1, entering, middle),
        _Convolution(kernel, middle, middle, stride),
        _Convolution(1, middle, leaving),
    )


def _inverted(kind: Kind, entering: int, leaving: int, stride: int) -> tuple[_Convolution, ...]:
    """Main path of an inverted residual unit."""
    expanded = _round_channels(kind.expansion * leaving)
    return (
        _Convolution(1, entering, expanded),
        _Convolution(kind.kernel, expanded, expanded, stride, groups=expanded),
        _Convolution(1, expanded, leaving),
    )


def _round_channels(numerator: int, denominator: int = 1) -> int:
    """The multiple of 8 next to a quotient, half to even, and at least 8."""
    # A quotient of integers is exact where it is half-way, as a product with 1/1.5 would not be.
    return max(1, round(numerator / (_CHANNEL_MULTIPLE * denominator))) * _CHANNEL_MULTIPLE


def _conv(name: str, convolution: _Convolution, resolution: int, *, bias: bool = False) -> Layer:
    kernel, in_channels, out_channels, stride, groups = convolution
    return Layer(name, "conv", in_channels, out_channels, kernel, stride, groups, bias, resolution)


def _layers(units: Iterable[Unit]) -> Iterator[Layer]:
    """The layers of units, in canonical order."""
    return chain.from_iterable(unit.layers for unit in units)


def _mutant(block: Block, rng: random.Random) -> Block:
    """Another block for the place of this one; see `Genome.mutate`."""
    while True:
        mutant = replace(block, out_channels=_scaled(block.out_channels, rng))
        if block.bottleneck is not None:
            mutant = replace(
                mutant,
                kind=rng.choice(SEARCHED_KINDS),
                bottleneck=_scaled(block.bottleneck, rng),
                sub_layers=min(max(1, block.sub_layers + rng.randint(-2, 2)), MAX_INTEGER),
            )
        if mutant != block:
            return mutant


def _scaled(channels: int, rng: random.Random) -> int:
    """Channels times one of `CHANNEL_FACTORS`."""
    numerator, denominator = rng.choice(CHANNEL_FACTORS)
    return min(_round_channels(channels * numerator, denominator), _MAX_SEARCHED_CHANNELS)


def _split(block: Block) -> tuple[Block, ...]:
    """The block, in two halves if it is deep; the second goes from `out` to `out` with stride 1."""
    if block.sub_layers < _SPLIT_FROM:
        return (block,)
    half = block.sub_layers // 2
    rest = replace(block, in_channels=block.out_channels, stride=1, sub_layers=block.sub_layers - half)
    return replace(block, sub_layers=half), rest


START: Final = parse(
    "SuperConvK3BNRELU(3,8,1,1)SuperResK3K3(8,16,1,8,1)SuperResK3K3(16,32,2,16,1)SuperResK3K3(32,64,2,32,1)"
    "SuperResK3K3(64,64,2,32,1)SuperConvK1BNRELU(64,128,1,1)"
)
"""Where the search on CIFAR starts."""


CIFAR_BUDGET: Final = Budget(max_parameters=1_000_000, max_sub_layers=18)
"""The budget of the search on CIFAR."""


SPACE: Final = SearchSpace(
    name="zennas",
    description="ZenNAS genomes (Lin et al., ICCV 2021): sequences of blocks of convolutions, residual units or "
    "inverted residual units, with their widths, strides and depths.",
    example=START.format(),
    network=NetworkConfig(),
    resolution_multiple=1,
    parse=parse,
    sample=sample,
)
