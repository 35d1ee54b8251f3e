"""The networks of both search spaces on a tape: operations as they run, with sizes in place of tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from archscore.spaces import Architecture, Layer, nasbench201, zennas
from archscore.spaces.nasbench201 import EDGES, Cell
from archscore.spaces.zennas import Genome
from archscore_server.engine.config import EvaluationConfig
from archscore_server.engine.convolutions import overruns
from archscore_server.engine.memory._tape import Tape, Value

KERNELS = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}
STAGES = 3


class Watch(Protocol):
    """Hears of what observers hear of; sizes are entries of one sample."""

    def layer(self, tape: Tape, output: Value, layers: int) -> None:
        """The output of so many layers that ran as one."""
        ...

    def relu(self, tape: Tape, output: Value) -> None:
        """The output of a ReLU."""
        ...

    def compares_layer(self, size: int) -> bool:
        """Whether the codes of a layer's output are compared."""
        ...

    @property
    def compares_relus(self) -> bool:
        """Whether those of ReLU inputs are."""
        ...

    def layer_overlaps(self, tape: Tape) -> None:
        """The codes of a layer's output, compared as bits."""
        ...

    def relu_overlaps(self, tape: Tape) -> None:
        """Those of a ReLU's input."""
        ...


class Walk:
    """One run of a network of N images."""

    def __init__(
        self,
        tape: Tape,
        watch: Watch,
        *,
        images: int,
        trains: bool,
        scales: bool,
        keeps_outputs: bool,
        folds: bool,
        merges: bool,
    ) -> None:
        """Takes how the network runs.

        Args:
            tape: counts.
            watch: hears of layers and ReLUs.
            images: N.
            trains: whether BatchNorm runs; else it is folded or left out.
            scales: whether weights are multiplied by a factor before they are used.
            keeps_outputs: whether the outputs of layers are kept (in `outputs`), and with them what they were made of.
            folds: whether average pooling is a convolution, which keeps nothing.
            merges: whether convolutions of a cell that read the same are one.
        """
        self.tape = tape
        self.weights: dict[tuple[int, ...], list[Value]] = {}
        self.features = 0
        self.outputs: set[Value] = set()
        self._watch = watch
        self._images = images
        self.trains = trains
        self._scales = scales
        self._folds = folds
        self.merges = merges
        self._keeps_outputs = keeps_outputs

    def weight(self, shape: tuple[int, ...], size: int) -> Value:
        """The weights of one call: a view of the leaf."""
        value = Value(size, differentiable=True)
        self.weights.setdefault(shape, []).append(value)
        return value

    def conv_norm(self, x: Value, layers: Sequence[Layer]) -> Value:
        """Convolutions of one shape that read the same input, and BatchNorm."""
        y = self.conv(x, layers)
        if not self.trains:
            return y
        z = self.norm(y)
        self.tape.drop(y)
        return z

    def conv(self, x: Value, layers: Sequence[Layer]) -> Value:
        """Convolutions of one shape that read the same input."""
        layer = layers[0]
        weight = self.weight(layer.weight_shape, len(layers) * layer.weights)
        factor = self.tape.new(weight.size) if self._scales else None
        size = self._images * len(layers) * layer.out_channels * layer.resolution**2
        if overruns(layer.in_channels // layer.groups, layer.kernel, layer.stride):
            padded = self.tape.operation("map", (weight,), 4 * weight.size)
            y = self.tape.operation("conv", (x, padded), size, saves=(x, padded))
            self.tape.drop(padded)
        else:
            y = self.tape.operation("conv", (x, weight), size, saves=(x,))
        self._convolved(y, len(layers))
        if factor:
            self.tape.drop(factor)
        return y

    def _convolved(self, output: Value, layers: int) -> None:
        self._layer(output, layers)

    def _layer(self, output: Value, layers: int) -> None:
        if self._keeps_outputs:
            self.outputs.add(self.tape.keep(output))
        self._watch.layer(self.tape, output, layers)

    def norm(self, x: Value) -> Value:
        """BatchNorm, which keeps its input."""
        return self.tape.operation("norm", (x,), x.size, saves=(x,))

    def relu(self, x: Value) -> Value:
        """A ReLU."""
        output = self.tape.relu(x)
        self._watch.relu(self.tape, output)
        return output

    def pool(self, x: Value) -> Value:
        """3x3 average pooling."""
        if self._folds:
            return self.tape.operation("map", (x,), x.size, temporary=x.size)
        return self.tape.operation("pool", (x,), x.size, saves=(x,))

    def classify(self, x: Value, classifier: Layer) -> Value:
        """Global average pool, linear layer and loss."""
        tape = self.tape
        self.features = x.size
        features = tape.operation("map", (x,), self._images * classifier.in_channels)
        weight = self.weight(classifier.weight_shape, classifier.weights)
        size = self._images * classifier.out_channels
        logits = tape.operation("conv", (features, weight), size, saves=(features,))
        self._layer(logits, 1)
        likelihoods = tape.operation("norm", (logits,), size)
        tape.drop(features, logits)
        return likelihoods


def walk(architecture: Architecture, config: EvaluationConfig, run: Walk, images: Value) -> Value:
    """Runs the network of an architecture on a tape."""
    if isinstance(architecture, Cell):
        return _walk_cell_network(architecture, config, run, images)
    if isinstance(architecture, Genome):
        return _walk_genome(architecture, config, run, images)
    raise TypeError("no network is known for this search space")


def _walk_genome(genome: Genome, config: EvaluationConfig, run: Walk, images: Value) -> Value:
    tape, network = run.tape, config.network
    if not isinstance(network, zennas.NetworkConfig):
        raise TypeError("the config is for networks of another search space")
    x = tape.keep(images)
    y = tape.keep(x)
    for unit in genome.units(network, resolution=config.resolution):
        tape.drop(y)
        y = tape.keep(x)
        for number, layer in enumerate(unit.path):
            entering = run.relu(y) if number else tape.keep(y)
            z = run.conv_norm(entering, [layer])
            tape.drop(entering, y)
            y = z
        if unit.projection or unit.identity:
            shortcut = run.conv_norm(x, [unit.projection]) if unit.projection else tape.keep(x)
            total = tape.operation("pass", (y, shortcut), y.size)
            tape.drop(y, shortcut)
            y = total
        rectified = run.relu(y)
        tape.drop(x)
        x = rectified
    logits = run.classify(x, genome.classifier(config.num_classes))
    tape.drop(x, y)
    return logits


def _walk_cell_network(cell: Cell, config: EvaluationConfig, run: Walk, images: Value) -> Value:
    tape, network = run.tape, config.network
    if not isinstance(network, nasbench201.NetworkConfig):
        raise TypeError("the config is for networks of another search space")
    description = cell.describe(network, resolution=config.resolution, num_classes=config.num_classes)
    layers = iter(description.layers)
    x = run.conv_norm(images, [next(layers)])
    for stage in range(STAGES):
        if stage:
            entering, x = x, _walk_reduction(run, x, layers)
            tape.drop(entering)
        for _ in range(network.cells_per_stage):
            edges = zip(EDGES, cell.operations, strict=True)
            own = {edge: next(layers) for edge, operation in edges if operation in KERNELS}
            entering, x = x, _walk_cell(run, cell, x, own)
            tape.drop(entering)
    entering = run.norm(x) if run.trains else tape.keep(x)
    rectified = run.relu(entering)
    tape.drop(entering, x)
    logits = run.classify(rectified, next(layers))
    tape.drop(rectified)
    return logits


def _walk_reduction(run: Walk, x: Value, layers: Iterator[Layer]) -> Value:
    tape = run.tape
    y = tape.keep(x)
    for layer in (next(layers), next(layers)):
        rectified = run.relu(y)
        z = run.conv_norm(rectified, [layer])
        tape.drop(rectified, y)
        y = z
    pooled = tape.operation("pool", (x,), x.size // 4, saves=(x,))
    shortcut = run.conv(pooled, [next(layers)])
    total = tape.operation("pass", (y, shortcut), y.size)
    tape.drop(pooled, y, shortcut)
    return total


def _walk_cell(run: Walk, cell: Cell, x: Value, layers: dict[tuple[int, int], Layer]) -> Value:
    tape = run.tape
    mark = tape.mark
    parts: list[list[Value]] = [[tape.keep(x)], [], [], []]
    previous: list[Value] = []
    for node in range(3):
        if not parts[node]:
            for edge, layer in layers.items():
                if edge[0] == node:  # fed zeros: not run
                    run.weight(layer.weight_shape, layer.weights)
            continue
        value = _collect(tape, parts[node])
        tape.drop(*previous)
        previous = [value]
        leaving = [(edge, operation) for edge, operation in zip(EDGES, cell.operations, strict=True) if edge[0] == node]
        skips = [target for (_, target), operation in leaving if operation == "skip_connect"]
        pools = [target for (_, target), operation in leaving if operation == "avg_pool_3x3"]
        kernels = {
            kernel: [edge for edge, name in leaving if name == operation] for operation, kernel in KERNELS.items()
        }
        groups = [edges for edges in kernels.values() if edges]
        if not run.merges:
            groups = [[edge] for edges in groups for edge in edges]
        dealt = iter(_deal(tape, value, bool(groups) + bool(pools) + len(skips)))
        held: list[Value] = []  # until the node is done
        if groups:
            entering = next(dealt)
            rectified = run.relu(entering)
            inputs = _deal(tape, rectified, len(groups))
            tape.drop(rectified)
            for own, edges in zip(inputs, groups, strict=True):
                y = run.conv_norm(own, [layers[edge] for edge in edges])
                for (_, target), part in zip(edges, _deal(tape, y, len(edges), slices=True), strict=True):
                    parts[target].append(part)
                tape.drop(y)
            held += [*inputs, entering]
        if pools:
            entering = next(dealt)
            pooled = run.pool(entering)
            for target, part in zip(pools, _deal(tape, pooled, len(pools)), strict=True):
                parts[target].append(part)
            held += [pooled, entering]
        for target, part in zip(skips, dealt, strict=True):
            parts[target].append(part)
        tape.drop(*held)
    result = _collect(tape, parts[-1])
    tape.drop(*previous)
    tape.prune(mark, {result} | run.outputs)
    for node_parts in parts:
        tape.drop(*node_parts)
    return result


def _deal(tape: Tape, value: Value, readers: int, *, slices: bool = False) -> list[Value]:
    """A view for each of several readers, of all or of a slice: their gradients wait for each other."""
    if readers == 1:
        return [tape.keep(value)]
    whole = tape.share(value, value.size)
    whole.dealt = True
    views = [tape.share(whole, value.size // readers if slices else value.size) for _ in range(readers)]
    tape.drop(whole)
    return views


def _collect(tape: Tape, parts: Sequence[Value]) -> Value:
    if len(parts) == 1:
        return tape.keep(parts[0])
    return tape.operation("pass", parts, parts[0].size)
