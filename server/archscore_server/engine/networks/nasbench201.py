"""NAS-Bench-201 networks as stacks (Dong and Yang, ICLR 2020).

All cells of a network are alike, so the wiring of a stack is laid out once: for each node which networks read it and
how. All edges that leave a node with one operation are one call, except that convolutions are one call for each number
of such edges that a network has there: one convolution with `groups` networks, from C to that number times C channels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from archscore.spaces.nasbench201 import EDGES, Cell, NetworkConfig
from archscore_server.engine.config import EvaluationConfig
from archscore_server.engine.networks._features import Units, collect, deal
from archscore_server.engine.networks._join import Part
from archscore_server.engine.networks._pooling import avg_pool_3x3
from archscore_server.engine.networks._run import Run
from archscore_server.engine.networks._single import Parts, SingleRun, suits
from archscore_server.engine.networks._stack import LayerCall, Mode, Observer, Stack, Weights

_KERNELS = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}
_NODES = 4
_STAGES = 3
_EPS = 1e-5


@dataclass(frozen=True, slots=True)
class _Outputs:
    """Where the units that an operation puts out go: for each target node which of them, and whose they are."""

    nodes: tuple[int, ...]
    units: tuple[Units, ...]
    owners: tuple[Units, ...]


@dataclass(frozen=True, slots=True)
class _Convolutions:
    """The convolutions of one kernel that leave a node, for the networks that have `edges` of them there.

    Attributes:
        kernel: 1 or 3.
        readers: the networks, numbered among those that have a ReLU at this node.
        units: (network, edge) of each convolution, network by network.
        outputs: where they go.
    """

    kernel: int
    readers: Units
    units: tuple[tuple[int, int], ...]
    outputs: _Outputs


@dataclass(frozen=True, slots=True)
class _Node:
    """Who reads a node.

    Attributes:
        relu: the networks with convolutions here, or None.
        relu_edges: how many each of them has.
        convolutions: their calls.
        pool: the networks with average pools here, or None.
        pool_outputs: where the pooled maps go.
        skips: target nodes of skip connections, and the networks that have them.
    """

    relu: Units | None
    relu_edges: tuple[int, ...]
    convolutions: tuple[_Convolutions, ...]
    pool: Units | None
    pool_outputs: _Outputs | None
    skips: tuple[tuple[int, Units], ...]


class NasBench201Stack(Stack):
    """Networks of NAS-Bench-201 cells, side by side."""

    def __init__(
        self,
        cells: Sequence[Cell],
        seeds: Sequence[int],
        config: EvaluationConfig,
        device: torch.device,
        single: bool,
    ) -> None:
        """Lays out the calls.

        Args:
            cells: the cell of each network; all connected.
            seeds: the seed of each network.
            config: channels, depth, resolution, classes and init.
            device: where it runs.
            single: whether the one network runs by the kernels for CPUs.
        """
        network = config.network
        if not isinstance(network, NetworkConfig):
            raise TypeError("the config is for networks of another search space")
        size = {"resolution": config.resolution, "num_classes": config.num_classes}
        depth = network.cells_per_stage
        super().__init__(
            [cell.describe(network, **size).layers for cell in cells],
            np.array([list(_present(cell, depth)) for cell in cells]),
            seeds,
            config.init,
            device,
        )
        self._architectures = cells
        self._single = single
        self._nodes = tuple(_node(cells, node, device, merged=not self._single) for node in range(_NODES - 1))
        self._silent = [(a, e) for a, cell in enumerate(cells) for e in _silent_edges(cell)]

        everyone = range(len(cells))
        channels, stage_slots = network.channels, 6 * depth + 3
        self._stem = self._call((channels, 3, 3, 3), [(a, 0) for a in everyone])
        self._cells: list[list[list[LayerCall]]] = []
        self._reductions: list[tuple[LayerCall, LayerCall, LayerCall]] = []
        for stage in range(_STAGES):
            first = 1 + stage * stage_slots
            self._cells.append([self._cell_calls(channels, first + 6 * cell) for cell in range(depth)])
            if stage < _STAGES - 1:
                shapes = (
                    (2 * channels, channels, 3, 3),
                    (2 * channels, 2 * channels, 3, 3),
                    (2 * channels, channels, 1, 1),
                )
                main, second, shortcut = (
                    self._call(shape, [(a, first + 6 * depth + i) for a in everyone]) for i, shape in enumerate(shapes)
                )
                self._reductions.append((main, second, shortcut))
                channels *= 2
        self._classifier = self._call((config.num_classes, channels), [(a, self.slots - 1) for a in everyone])

    def _cell_calls(self, channels: int, first_slot: int) -> list[LayerCall]:
        for a, e in self._silent:
            kernel = _KERNELS[self._architectures[a].operations[e]]
            self._call((channels, channels, kernel, kernel), [(a, first_slot + e)])
        return [
            self._call((channels, channels, group.kernel, group.kernel), [(a, first_slot + e) for a, e in group.units])
            for node in self._nodes
            for group in node.convolutions
        ]

    def forward(
        self, images: Tensor, weights: Weights, mode: Mode, observer: Observer, *, plain: bool = False
    ) -> Tensor:
        """Runs the stack; see Stack."""
        if self._single and not plain and suits(mode, images):
            return self._forward_single(images, _SingleRun(weights, mode, observer, _EPS))
        run = _Run(self, weights, mode, observer, _EPS)
        # one group where all share the images
        x = run.conv_norm(images, self._stem, groups=images.shape[1] // 3, padding=1)
        for stage, cells in enumerate(self._cells):
            if stage:
                x = run.reduction(x, self._reductions[stage - 1])
            for calls in cells:
                x = run.cell(x, self._nodes, calls)
                for network, _ in self._silent:
                    observer.silent(network, x[0].numel() // self.networks)
        x = run.relu(run.norm(x, list(range(self.networks))))
        return run.classify(x, self._classifier)

    def _forward_single(self, images: Tensor, run: _SingleRun) -> Tensor:
        parts: Parts = [run.conv_norm(images, self._stem, padding=1)]
        for stage, cells in enumerate(self._cells):
            if stage:
                parts = run.reduction(parts, self._reductions[stage - 1])
            for calls in cells:
                parts = run.cell(parts, self._nodes, calls, silent=len(self._silent))
        (x,) = run.read(run.normalised(parts), rectified=1)
        return run.classify(x, self._classifier)


class _SingleRun(SingleRun):
    """One run of one network by the kernels for CPUs."""

    def cell(self, parts: Parts, nodes: Sequence[_Node], calls: Sequence[LayerCall], *, silent: int) -> Parts:
        """A cell, its input and output sums that nobody has read yet."""
        for _ in range(silent):
            self.silent(parts[0].map[0].numel())
        sums: list[Parts] = [parts, [], [], []]
        remaining = iter(calls)
        for node, own in zip(nodes, sums, strict=False):
            if own:
                self._leave(own, node, sums, remaining)
        return sums[-1]

    def _leave(self, parts: Parts, node: _Node, sums: Sequence[Parts], calls: Iterator[LayerCall]) -> None:
        """Sends what leaves a node to where it adds up."""
        convolutions, skips = len(node.convolutions), len(node.skips)
        readers = iter(self.read(parts, plain=skips + bool(node.pool), rectified=convolutions))
        for target, _ in node.skips:
            sums[target].append(Part(next(readers)))
        if node.pool_outputs:
            pooled = self.pool(next(readers))
            for target in node.pool_outputs.nodes:
                sums[target].append(Part(pooled))
        for group, x in zip(node.convolutions, readers, strict=True):
            (target,) = group.outputs.nodes
            sums[target].append(self.conv_norm(x, next(calls), padding=group.kernel // 2))

    def reduction(self, parts: Parts, calls: tuple[LayerCall, LayerCall, LayerCall]) -> Parts:
        """The residual block between stages, [N, C, H, W] -> [N, 2C, H/2, W/2]."""
        first, second, shortcut = calls
        x, rectified = self.read(parts, plain=1, rectified=1)
        y = self.conv_norm(rectified, first, stride=2, padding=1)
        (rectified,) = self.read([y], rectified=1)
        return [self.conv_norm(rectified, second, padding=1), self.conv(F.avg_pool2d(x, 2), shortcut)]


class _Run(Run):
    """One run of a stack."""

    def cell(self, x: Tensor, nodes: Sequence[_Node], calls: Sequence[LayerCall]) -> Tensor:
        """[N, A*C, H, W] -> [N, A*C, H, W]."""
        parts: list[list[Tensor]] = [[] for _ in range(_NODES)]
        owners: list[list[Units]] = [[] for _ in range(_NODES)]
        remaining = iter(calls)
        for number, node in enumerate(nodes):
            if number and not parts[number]:
                continue
            if number:
                x = collect(parts[number], owners[number])
            for target, part, own in self._node(x, node, remaining):
                parts[target].append(part)
                owners[target].append(own)
        return collect(parts[-1], owners[-1])

    def _node(self, x: Tensor, node: _Node, calls: Iterator[LayerCall]) -> Iterator[tuple[int, Tensor, Units]]:
        """What the edges that leave a node add to their targets."""
        readers = [units for units in (node.relu, node.pool) if units]
        dealt = iter(deal(x, [*readers, *(own for _, own in node.skips)]))
        if node.relu:
            rectified = torch.relu(next(dealt))
            self._observer.relu(node.relu.numbers, node.relu_edges, rectified)
            inputs = deal(rectified, [group.readers for group in node.convolutions])
            for group, features in zip(node.convolutions, inputs, strict=True):
                y = self.conv_norm(features, next(calls), groups=len(group.readers), padding=group.kernel // 2)
                yield from _sent(y, group.outputs)
        if node.pool_outputs:
            pooled = avg_pool_3x3(next(dealt))
            yield from _sent(pooled, node.pool_outputs)
        for (target, own), part in zip(node.skips, dealt, strict=True):
            yield target, part, own

    def reduction(self, x: Tensor, calls: tuple[LayerCall, LayerCall, LayerCall]) -> Tensor:
        """The residual block between stages, [N, A*C, H, W] -> [N, A*2C, H/2, W/2]."""
        first, second, shortcut = calls
        y = self.conv_norm(self.relu(x), first, groups=self._networks, stride=2, padding=1)
        y = self.conv_norm(self.relu(y), second, groups=self._networks, padding=1)
        return y + self.conv(F.avg_pool2d(x, 2), shortcut, groups=self._networks)


def _sent(features: Tensor, outputs: _Outputs) -> Iterator[tuple[int, Tensor, Units]]:
    yield from zip(outputs.nodes, deal(features, outputs.units), outputs.owners, strict=True)


def _present(cell: Cell, depth: int) -> Iterator[bool]:
    """Which slots hold a layer, in canonical order."""
    yield True
    for stage in range(_STAGES):
        for _ in range(depth):
            yield from (operation in _KERNELS for operation in cell.operations)
        yield from (True,) * (3 if stage < _STAGES - 1 else 1)


def _fed(cell: Cell) -> set[int]:
    """The nodes that anything but zeros reaches."""
    fed = {0}
    for (source, target), operation in zip(EDGES, cell.operations, strict=True):
        if operation != "none" and source in fed:
            fed.add(target)
    return fed


def _silent_edges(cell: Cell) -> list[int]:
    """The convolutions in a cell that are fed zeros: they are not run, but their ReLUs and weights count."""
    fed = _fed(cell)
    return [
        e
        for e, ((source, _), operation) in enumerate(zip(EDGES, cell.operations, strict=True))
        if operation in _KERNELS and source not in fed
    ]


def _node(cells: Sequence[Cell], node: int, device: torch.device, *, merged: bool) -> _Node:
    """Lays out who reads a node; `merged` says whether convolutions that read the same are one call."""
    edges: dict[str, dict[int, list[int]]] = defaultdict(dict)  # operation -> network -> edges
    for a, cell in enumerate(cells):
        if node in _fed(cell):
            for e, ((source, _), operation) in enumerate(zip(EDGES, cell.operations, strict=True)):
                if source == node:
                    edges[operation].setdefault(a, []).append(e)
    networks = len(cells)

    def outputs(units: Sequence[tuple[int, int]], numbers: Sequence[int], total: int) -> _Outputs:
        """Sorts (network, edge) units, which have these numbers among an operation's outputs, by target node."""
        by_target: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for number, (a, e) in zip(numbers, units, strict=True):
            by_target[EDGES[e][1]].append((number, a))
        targets = sorted(by_target)
        return _Outputs(
            tuple(targets),
            tuple(Units(total, [number for number, _ in by_target[target]], device) for target in targets),
            tuple(Units(networks, [a for _, a in by_target[target]], device) for target in targets),
        )

    convolving = sorted({a for operation in _KERNELS for a in edges[operation]})
    groups = []
    for operation, kernel in _KERNELS.items():
        by_count: dict[int, list[int]] = defaultdict(list)
        for a, own in edges[operation].items():
            by_count[len(own)].append(a)
        for count in sorted(by_count):
            members = by_count[count]
            readers = Units(len(convolving), [convolving.index(a) for a in members], device)
            units = [(a, e) for a in members for e in edges[operation][a]]
            for calls in [units] if merged else [[unit] for unit in units]:
                sent = outputs(calls, range(len(calls)), len(calls))
                groups.append(_Convolutions(kernel, readers, tuple(calls), sent))
    pooling = list(edges["avg_pool_3x3"])
    pooled = [(a, e) for a in pooling for e in edges["avg_pool_3x3"][a]]
    skipping: dict[int, list[int]] = defaultdict(list)
    for a, own in edges["skip_connect"].items():
        for e in own:
            skipping[EDGES[e][1]].append(a)
    return _Node(
        relu=Units(networks, convolving, device) if convolving else None,
        relu_edges=tuple(sum(len(edges[operation].get(a, ())) for operation in _KERNELS) for a in convolving),
        convolutions=tuple(groups),
        pool=Units(networks, pooling, device) if pooling else None,
        pool_outputs=outputs(pooled, [pooling.index(a) for a, _ in pooled], len(pooling)) if pooling else None,
        skips=tuple((target, Units(networks, skipping[target], device)) for target in sorted(skipping)),
    )
