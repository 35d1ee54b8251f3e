"""One network as the kernels for CPUs run it, on a tape; mirrors `archscore_server.engine.networks._single`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from archscore.spaces import Architecture, Layer, nasbench201, zennas
from archscore.spaces.nasbench201 import EDGES, Cell
from archscore.spaces.zennas import Genome
from archscore_server.engine import kernels
from archscore_server.engine.config import EvaluationConfig
from archscore_server.engine.memory._networks import KERNELS, STAGES, Walk
from archscore_server.engine.memory._tape import Value


@dataclass(frozen=True, slots=True)
class Part:
    """A map that is to be added up with others.

    Attributes:
        map: its entries.
        channels: C.
        normalised: whether BatchNorm comes first.
        coded: whether its codes are compared.
        alone: whether nobody else reads the map.
    """

    map: Value
    channels: int
    normalised: bool = False
    coded: bool = False
    alone: bool = False


class SingleWalk(Walk):
    """One run of a network of N images."""

    def conv_part(self, x: Value, layer: Layer, *, normalised: bool = True) -> Part:
        """A convolution, with BatchNorm to come."""
        y = self.conv(x, [layer])
        coded = self._watch.compares_layer(y.size // self._images)
        return Part(y, layer.out_channels, normalised and self.trains, coded, alone=True)

    def _convolved(self, output: Value, layers: int) -> None:
        del layers  # its codes are compared when it is read
        if self._keeps_outputs:
            self.outputs.add(self.tape.keep(output))

    def read(
        self, parts: list[Part], *, plain: bool = False, rectified: bool = False, relu: bool = False
    ) -> tuple[Value | None, Value | None]:
        """The sum of parts and its positive part, each where it is read; parts are used up."""
        tape, channels = self.tape, parts[0].channels
        parts.sort(key=lambda part: not part.alone)
        entries = parts[0].map.size // self._images
        total, positive = tape.sum(
            [part.map for part in parts],
            [part.normalised for part in parts],
            [part.alone for part in parts],
            total=plain,
            rectified=rectified,
            statistics=kernels.STATISTICS * kernels.period(channels),
            uses_up=not self._keeps_outputs,
        )
        layers = sum(part.coded for part in parts)
        relus = int(relu and self._watch.compares_relus)
        codes = (layers + relus) * self._images * kernels.code_bytes(entries)
        tape.live += codes
        tape.spike(0)
        for _ in range(relus):
            self._watch.relu_overlaps(tape)
        for _ in range(layers):
            self._watch.layer_overlaps(tape)
        tape.live -= codes
        tape.drop(*(part.map for part in parts))
        parts.clear()
        return total, positive

    def rectified(self, parts: list[Part]) -> Value:
        """The positive part of a sum that nobody else reads."""
        _, positive = self.read(parts, rectified=True, relu=True)
        return _there(positive)

    def last(self, parts: list[Part]) -> Value:
        """BatchNorm of a sum, and its positive part."""
        if not self.trains:
            return self.rectified(parts)
        channels = parts[0].channels
        total, _ = self.read(parts, plain=True)
        return self.rectified([Part(_there(total), channels, normalised=True)])


def walk_single(architecture: Architecture, config: EvaluationConfig, run: SingleWalk, images: Value) -> Value:
    """Runs the network of an architecture on a tape."""
    if isinstance(architecture, Cell):
        return _walk_cell_network(architecture, config, run, images)
    if isinstance(architecture, Genome):
        return _walk_genome(architecture, config, run, images)
    raise TypeError("no network is known for this search space")


def _walk_genome(genome: Genome, config: EvaluationConfig, run: SingleWalk, images: Value) -> Value:
    tape, network = run.tape, config.network
    if not isinstance(network, zennas.NetworkConfig):
        raise TypeError("the config is for networks of another search space")
    x, shortcut = tape.keep(images), tape.keep(images)
    for unit in genome.units(network, resolution=config.resolution):
        parts: list[Part] = []
        for layer in unit.path:
            if parts:
                rectified = run.rectified(parts)
                tape.drop(x)
                x = rectified
            parts = [run.conv_part(x, layer)]
        if unit.projection:
            parts.append(run.conv_part(shortcut, unit.projection))
        elif unit.identity:
            parts.append(Part(tape.keep(shortcut), parts[0].channels))
        rectified = run.rectified(parts)
        tape.drop(x, shortcut)
        x, shortcut = rectified, tape.keep(rectified)
    logits = run.classify(x, genome.classifier(config.num_classes))
    tape.drop(x, shortcut)
    return logits


def _walk_cell_network(cell: Cell, config: EvaluationConfig, run: SingleWalk, images: Value) -> Value:
    network = config.network
    if not isinstance(network, nasbench201.NetworkConfig):
        raise TypeError("the config is for networks of another search space")
    description = cell.describe(network, resolution=config.resolution, num_classes=config.num_classes)
    layers = iter(description.layers)
    parts = [run.conv_part(images, next(layers))]
    for stage in range(STAGES):
        if stage:
            parts = _walk_reduction(run, parts, layers)
        for _ in range(network.cells_per_stage):
            edges = zip(EDGES, cell.operations, strict=True)
            own = {edge: next(layers) for edge, operation in edges if operation in KERNELS}
            parts = _walk_cell(run, cell, parts, own)
    rectified = run.last(parts)
    logits = run.classify(rectified, next(layers))
    run.tape.drop(rectified)
    return logits


def _walk_reduction(run: SingleWalk, parts: list[Part], layers: Iterator[Layer]) -> list[Part]:
    tape = run.tape
    total, positive = run.read(parts, plain=True, rectified=True, relu=True)
    x, rectified = _there(total), _there(positive)
    y = run.conv_part(rectified, next(layers))
    again = run.rectified([y])
    tape.drop(rectified)
    result = [run.conv_part(again, next(layers))]
    pooled = tape.operation("pool", (x,), x.size // 4, saves=(x,))
    result.append(run.conv_part(pooled, next(layers), normalised=False))
    tape.drop(x, again, pooled)
    return result


def _walk_cell(run: SingleWalk, cell: Cell, parts: list[Part], layers: dict[tuple[int, int], Layer]) -> list[Part]:
    tape = run.tape
    mark = tape.mark
    channels = parts[0].channels
    sums: list[list[Part]] = [parts, [], [], []]
    for node in range(3):
        leaving = [(edge, operation) for edge, operation in zip(EDGES, cell.operations, strict=True) if edge[0] == node]
        convolutions = [layers[edge] for edge, operation in leaving if operation in KERNELS]
        if not sums[node]:
            for layer in convolutions:  # fed zeros: not run
                run.weight(layer.weight_shape, layer.weights)
            continue
        skips = [target for (_, target), operation in leaving if operation == "skip_connect"]
        pools = [target for (_, target), operation in leaving if operation == "avg_pool_3x3"]
        total, rectified = run.read(
            sums[node], plain=bool(skips or pools), rectified=bool(convolutions), relu=bool(convolutions)
        )
        for target in skips:
            sums[target].append(Part(tape.keep(_there(total)), channels))
        if pools:
            x = _there(total)
            pooled = tape.operation("map", (x,), x.size)
            for target in pools:
                sums[target].append(Part(tape.keep(pooled), channels))
            tape.drop(pooled)
        for (_, target), layer in zip(
            [edge for edge, operation in leaving if operation in KERNELS], convolutions, strict=True
        ):
            sums[target].append(run.conv_part(_there(rectified), layer))
        tape.drop(*(output for output in (total, rectified) if output))
    tape.prune(mark, {part.map for part in sums[-1]} | run.outputs)
    return sums[-1]


def _there(value: Value | None) -> Value:
    if value is None:
        raise ValueError("nobody reads it")
    return value
