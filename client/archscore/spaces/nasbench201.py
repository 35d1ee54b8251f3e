"""The NAS-Bench-201 search space: a cell of four nodes and six edges, stacked into a fixed macro network.

Source: Dong and Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search", ICLR 2020.

A cell is written `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`: group j (1-based) lists the edges into node j, and `op~i` is
the edge from node i. `index:N` names the N-th cell of the benchmark's official order.
"""

from __future__ import annotations

import functools
import random
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from archscore.spaces._base import Description, EncodingError, Layer, NetworkError, SearchSpace, Size

OPERATIONS: Final = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
"""What an edge can do, in the benchmark's order."""

EDGES: Final = tuple((source, target) for target in range(1, 4) for source in range(target))
"""The (source, target) nodes of the edges, in the order in which the encoding lists them."""

NUM_CELLS: Final = len(OPERATIONS) ** len(EDGES)

_KERNELS: Final = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}
_NUM_STAGES: Final = 3
_RESOLUTION_MULTIPLE: Final = 2 ** (_NUM_STAGES - 1)


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """The macro network around the cell.

    Attributes:
        channels: C, the width of the first stage; the second has 2C and the third 4C.
        cells_per_stage: N, how often the cell is repeated in each of the three stages.
    """

    channels: int = 16
    cells_per_stage: int = 5

    def __post_init__(self) -> None:
        """Rejects networks without channels or without cells, with a ValueError."""
        if self.channels < 1 or self.cells_per_stage < 1:
            raise ValueError("channels and cells_per_stage must be at least 1")


@dataclass(frozen=True, slots=True)
class Cell:
    """One of the 15,625 cells.

    Attributes:
        operations: the six operations, each one of `OPERATIONS`, in the order of `EDGES`.
    """

    operations: tuple[str, ...]

    def __post_init__(self) -> None:
        """Rejects anything but six known operations, with a ValueError."""
        if len(self.operations) != len(EDGES) or not all(operation in OPERATIONS for operation in self.operations):
            raise ValueError(f"a cell has {len(EDGES)} operations, each {_ANY_OPERATION}")

    def format(self) -> str:
        """The canonical encoding, `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`."""
        return _TEMPLATE.format(*self.operations)

    @property
    def connected(self) -> bool:
        """Whether a path of edges other than `none` leads from node 0 to node 3."""
        reached = {0}
        # An edge's source comes before its target, and EDGES is sorted by target: one pass settles every node.
        for (source, target), operation in zip(EDGES, self.operations, strict=True):
            if operation != "none" and source in reached:
                reached.add(target)
        return EDGES[-1][1] in reached

    @property
    def index(self) -> int:
        """The cell's place in the benchmark's official order, 0 to 15,624."""
        number = 0
        for operation in self.operations:
            number = number * len(OPERATIONS) + OPERATIONS.index(operation)
        return _official_order().index_of[number]

    def mutate(self, rng: random.Random) -> Cell:
        """One of the cell's 24 neighbours, uniformly: another operation on one edge."""
        edge = rng.randrange(len(EDGES))
        others = [operation for operation in OPERATIONS if operation != self.operations[edge]]
        return Cell((*self.operations[:edge], rng.choice(others), *self.operations[edge + 1 :]))

    def size(self, network: NetworkConfig, *, resolution: int, num_classes: int) -> Size:
        """How large the network of this cell is; see `describe`.

        Raises:
            NetworkError: no such network exists for this resolution or number of classes.
        """
        skeleton = _skeleton(network, resolution, num_classes)
        parameters, flops, layers = skeleton.parameters, skeleton.flops, skeleton.layers
        for operation in self.operations:
            if operation in _KERNELS:
                parameters += skeleton.edge_parameters[operation]
                flops += skeleton.edge_flops[operation]
                layers += _NUM_STAGES * network.cells_per_stage
        return Size(parameters, flops, layers)

    def describe(self, network: NetworkConfig, *, resolution: int, num_classes: int) -> Description:
        """What the network of this cell consists of and costs.

        Convolutions on edges that cannot reach the output count as well: they are built. Layers are named `stem`,
        `stageS.cellN.edgeE`, `reductionS.conv1`, `reductionS.conv2`, `reductionS.shortcut` and `classifier`, all
        numbered from 0 (edges as in `EDGES`) but for the two convolutions.

        Args:
            network: width and depth of the network.
            resolution: side of the square input image in pixels, a multiple of 4.
            num_classes: classes of the classifier, at least 1.

        Raises:
            NetworkError: no such network exists for this resolution or number of classes.
        """
        size = self.size(network, resolution=resolution, num_classes=num_classes)
        skeleton = _skeleton(network, resolution, num_classes)
        layers = [skeleton.stem]
        for stage in skeleton.stages:
            for edges in stage.cells:
                for operation, convolutions in zip(self.operations, edges, strict=True):
                    if operation in convolutions:
                        layers.append(convolutions[operation])
            layers.extend(stage.tail)

        return Description(
            canonical=self.format(),
            connected=self.connected,
            parameters=size.parameters,
            flops=size.flops,
            # The shortcuts of the reduction blocks are always built.
            parameters_with_residual_links=size.parameters,
            flops_with_residual_links=size.flops,
            layers=tuple(layers),
        )


def parse(text: str) -> Cell:
    """Reads a cell, written out or as `index:N`; ASCII white space around it is ignored.

    Raises:
        EncodingError: the text is anything else.
    """
    start = len(text) - len(text.lstrip(string.whitespace))
    end = max(start, len(text.rstrip(string.whitespace)))
    if text.startswith(_INDEX_PREFIX, start, end):
        return _parse_index(text, start + len(_INDEX_PREFIX), end)
    if not text.startswith("|", start, end):
        raise EncodingError(start, f"'|' or '{_INDEX_PREFIX}'")

    position = start + 1
    operations = []
    for tokens in _TOKENS_AFTER_OPERATION:
        # No operation is a prefix of another, so the first that fits is the only one.
        for operation in OPERATIONS:
            if text.startswith(operation, position, end):
                break
        else:
            raise EncodingError(position, _ANY_OPERATION)
        operations.append(operation)
        position += len(operation)
        for token in tokens:
            if not text.startswith(token, position, end):
                raise EncodingError(position, f"'{token}'")
            position += len(token)
    if position != end:
        raise EncodingError(position, _END)
    return Cell(tuple(operations))


def from_index(index: int) -> Cell:
    """The cell at a place in the benchmark's official order.

    Raises:
        ValueError: the index is not within 0 to 15,624.
    """
    if not 0 <= index < NUM_CELLS:
        raise ValueError(f"index must be {_ANY_INDEX}")
    number = _official_order().number_at[index]
    digits = []
    for _ in EDGES:
        number, digit = divmod(number, len(OPERATIONS))
        digits.append(digit)
    return Cell(tuple(OPERATIONS[digit] for digit in reversed(digits)))


def cells() -> Iterator[Cell]:
    """All 15,625 cells in the benchmark's official order."""
    return map(from_index, range(NUM_CELLS))


def sample(rng: random.Random) -> Cell:
    """A cell drawn uniformly from all 15,625."""
    return Cell(tuple(rng.choice(OPERATIONS) for _ in EDGES))


_END: Final = "end of text"
_INDEX_PREFIX: Final = "index:"
_ANY_INDEX: Final = f"an integer from 0 to {NUM_CELLS - 1}"
_ANY_OPERATION: Final = f"one of {', '.join(OPERATIONS)}"


def _tokens_after(source: int, target: int) -> tuple[str, ...]:
    """What follows the operation of an edge, up to the next operation or the end."""
    closes_group = source == target - 1
    opens_another = closes_group and target < EDGES[-1][1]
    return (f"~{source}", "|", "+", "|") if opens_another else (f"~{source}", "|")


_TOKENS_AFTER_OPERATION: Final = tuple(_tokens_after(source, target) for source, target in EDGES)
_TEMPLATE: Final = "|" + "".join("{}" + "".join(tokens) for tokens in _TOKENS_AFTER_OPERATION)


def _parse_index(text: str, position: int, end: int) -> Cell:
    """Reads the N of `index:N`, which stands at `position`; looks at one digit more than any index has, at most."""
    head = text[position : min(end, position + len(str(NUM_CELLS)) + 1)]
    digits = head[: len(head) - len(head.lstrip(string.digits))]
    if not digits or (digits[0] == "0" and digits != "0") or int(digits) >= NUM_CELLS:
        raise EncodingError(position, f"{_ANY_INDEX}, without leading zeros")
    if position + len(digits) != end:
        raise EncodingError(position + len(digits), _END)
    return from_index(int(digits))


@dataclass(frozen=True, slots=True)
class _OfficialOrder:
    """The benchmark's order of the cells.

    A cell's number is its place in `itertools.product(OPERATIONS, repeat=6)`: its operations read as digits in base 5.
    """

    number_at: tuple[int, ...]
    index_of: tuple[int, ...]


@functools.cache
def _official_order() -> _OfficialOrder:
    numbers = list(range(NUM_CELLS))
    random.Random(88).shuffle(numbers)  # noqa: S311 -- the order that the benchmark was published in
    indices = [0] * NUM_CELLS
    for index, number in enumerate(numbers):
        indices[number] = index
    return _OfficialOrder(number_at=tuple(numbers), index_of=tuple(indices))


@dataclass(frozen=True, slots=True)
class _Stage:
    """The cells of one resolution, and the layers between them and the next stage.

    Attributes:
        cells: per cell and edge, the convolution that each operation with weights would put there.
        tail: the reduction block's convolutions, or the classifier after the last stage.
        tail_parameters: trainable values of the tail, BatchNorm included.
    """

    cells: tuple[tuple[Mapping[str, Layer], ...], ...]
    tail: tuple[Layer, ...]
    tail_parameters: int


@dataclass(frozen=True, slots=True)
class _Skeleton:
    """The macro network with its edges still open: what all cells share.

    Attributes:
        stem: the first convolution.
        stages: the three stages.
        parameters: trainable values outside the cells.
        flops: multiply-accumulates outside the cells.
        layers: number of layers outside the cells.
        edge_parameters: per operation with weights, what one edge with it adds over all repetitions of the cell.
        edge_flops: likewise.
    """

    stem: Layer
    stages: tuple[_Stage, ...]
    parameters: int
    flops: int
    layers: int
    edge_parameters: Mapping[str, int]
    edge_flops: Mapping[str, int]


@functools.lru_cache(maxsize=16)
def _skeleton(network: NetworkConfig, resolution: int, num_classes: int) -> _Skeleton:
    if resolution < 1 or resolution % _RESOLUTION_MULTIPLE:
        raise NetworkError(f"resolution must be a positive multiple of {_RESOLUTION_MULTIPLE}")
    if num_classes < 1:
        raise NetworkError("num_classes must be at least 1")

    stem = _conv("stem", 3, network.channels, kernel=3, resolution=resolution)
    stages = tuple(_stage(stage, network, resolution, num_classes) for stage in range(_NUM_STAGES))
    # An operation costs the same on every edge of a cell, so one edge per cell stands for all six.
    first_edges = [edges[0] for stage in stages for edges in stage.cells]
    return _Skeleton(
        stem=stem,
        stages=stages,
        parameters=_with_batch_norm(stem) + sum(stage.tail_parameters for stage in stages),
        flops=stem.flops + sum(layer.flops for stage in stages for layer in stage.tail),
        layers=1 + sum(len(stage.tail) for stage in stages),
        edge_parameters={
            operation: sum(_with_batch_norm(edge[operation]) for edge in first_edges) for operation in _KERNELS
        },
        edge_flops={operation: sum(edge[operation].flops for edge in first_edges) for operation in _KERNELS},
    )


def _stage(stage: int, network: NetworkConfig, resolution: int, num_classes: int) -> _Stage:
    """One stage; `resolution` is that of the network's input."""
    width = network.channels * 2**stage
    side = resolution // 2**stage
    cells = tuple(
        tuple(
            {
                operation: _conv(f"stage{stage}.cell{cell}.edge{edge}", width, width, kernel=kernel, resolution=side)
                for operation, kernel in _KERNELS.items()
            }
            for edge in range(len(EDGES))
        )
        for cell in range(network.cells_per_stage)
    )
    if stage == _NUM_STAGES - 1:
        classifier = _linear("classifier", width, num_classes)
        # With the BatchNorm before the global pool, and a bias per class.
        return _Stage(cells, (classifier,), _batch_norm(width) + classifier.weights + num_classes)
    name = f"reduction{stage}"
    conv1 = _conv(f"{name}.conv1", width, 2 * width, kernel=3, stride=2, resolution=side // 2)
    conv2 = _conv(f"{name}.conv2", 2 * width, 2 * width, kernel=3, resolution=side // 2)
    # Its average pool has halved the resolution already, and no BatchNorm follows.
    shortcut = _conv(f"{name}.shortcut", width, 2 * width, kernel=1, resolution=side // 2)
    parameters = _with_batch_norm(conv1) + _with_batch_norm(conv2) + shortcut.weights
    return _Stage(cells, (conv1, conv2, shortcut), parameters)


def _conv(name: str, in_channels: int, out_channels: int, *, kernel: int, resolution: int, stride: int = 1) -> Layer:
    return Layer(name, "conv", in_channels, out_channels, kernel, stride, groups=1, bias=False, resolution=resolution)


def _linear(name: str, in_features: int, out_features: int) -> Layer:
    return Layer(name, "linear", in_features, out_features, kernel=1, stride=1, groups=1, bias=True, resolution=1)


def _batch_norm(channels: int) -> int:
    """Trainable values of a BatchNorm: a weight and a bias per channel."""
    return 2 * channels


def _with_batch_norm(convolution: Layer) -> int:
    return convolution.weights + _batch_norm(convolution.out_channels)


SPACE: Final = SearchSpace(
    name="nasbench201",
    description="NAS-Bench-201 (Dong and Yang, ICLR 2020): cells of four nodes and six edges with five operations, "
    "15,625 in all, written out or as index:N.",
    example="|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|",
    network=NetworkConfig(),
    resolution_multiple=_RESOLUTION_MULTIPLE,
    parse=parse,
    sample=sample,
)
