"""What each pass has alive, step by step; mirrors `archscore_server.engine.passes`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Set

from archscore.spaces import Architecture
from archscore_server.engine.config import EvaluationConfig, Init, Precision
from archscore_server.engine.memory._networks import Walk, Watch, walk
from archscore_server.engine.memory._single import SingleWalk, walk_single
from archscore_server.engine.memory._tape import Tape, Value
from archscore_server.engine.statistics import STATISTICS, Pass

_WIDTHS = {Precision.FLOAT32: 4, Precision.FLOAT64: 8, Precision.TF32: 4}
_DOUBLE = 8

#: Images that the neural tangent kernel is taken over, at most.
_KERNEL_IMAGES = 16

#: Matrices [N, N] of float64 that log-determinants have alive for each layer: K, its factor, and the inverse of that;
#: or K, and for the eigenvalues of the singular ones K again, twice.
_LOGDET_MATRICES = 3

#: Entries of each code that a CPU has as float32: two parts, one after the other.
_CODE_PARTS = 2 * 2048

#: Entries of each code whose products a GPU sums up in float16.
_EXACT_SUM = 2048

#: The part of a Hessian-vector product that is not followed: sums of gradients at the nodes of a cell, which the second
#: derivative makes once more.
_SECOND_RESERVE = 20

_OF_GRADIENTS = {"snip", "grad", "signed_snip", "grad_norm", "fisher"}


class _Codes(Watch):
    """Compares codes as an Observation does."""

    def __init__(self, images: int, device: str, *, layers: bool = False, relus: bool = False) -> None:
        self._layer_matrices = self._relu_matrices = 0
        self._images = images
        self._on_cpu = device == "cpu"
        self._layers = layers
        self._relus = relus

    def compares_layer(self, size: int) -> bool:
        return self._layers and size + 1 >= self._images

    @property
    def compares_relus(self) -> bool:
        return self._relus

    def layer(self, tape: Tape, output: Value, layers: int) -> None:
        if self.compares_layer(output.size // layers // self._images):
            self._compare(tape, output, layers)
            self._layer_matrices += layers

    def relu(self, tape: Tape, output: Value) -> None:
        if self._relus:
            self._compare(tape, output, 1)
            self._relu_matrices += 1

    def layer_overlaps(self, tape: Tape) -> None:
        self._overlaps(tape)
        self._layer_matrices += 1

    def relu_overlaps(self, tape: Tape) -> None:
        self._overlaps(tape)
        self._relu_matrices += 1

    def _overlaps(self, tape: Tape) -> None:
        tape.live += 4 * self._images**2
        tape.spike(0)

    def _compare(self, tape: Tape, output: Value, units: int) -> None:
        # Codes of more than one unit are copied in the order of the units.
        overlap = 4 * units * self._images**2
        codes = output.size * (1 + (units > 1))
        if self._on_cpu:  # as float32, part by part
            tape.spike(codes + 4 * min(output.size, units * self._images * _CODE_PARTS) + 2 * overlap)
        else:  # as float16, and their products by parts
            size = output.size // (units * self._images)
            products = -(-size // _EXACT_SUM) * overlap // 2
            padded = output.size * (size > _EXACT_SUM and size % _EXACT_SUM > 0)
            tape.spike(codes + padded + 2 * output.size + products + overlap)
        tape.live += overlap
        tape.spike(0)

    @property
    def kept(self) -> int:
        """Bytes that wait on a GPU until the stack is read: overlaps of layers, and K of all ReLUs together."""
        matrix = self._images**2
        return 4 * self._layer_matrices * matrix + (_DOUBLE * matrix if self._relu_matrices else 0)

    def logdet(self, tape: Tape) -> None:
        """The log-determinants of all matrices, beside the overlaps that they are made of."""
        matrices = max(self._layer_matrices, self._relu_matrices)
        tape.spike(matrices * self._images**2 * _LOGDET_MATRICES * _DOUBLE)


class Prediction:
    """The passes over one network, one after the other.

    Attributes:
        peak: the most bytes that were alive at once.
    """

    def __init__(self, architecture: Architecture, config: EvaluationConfig, device: str, *, single: bool) -> None:
        """Nothing has run yet.

        Args:
            architecture: of the network.
            config: how it is evaluated.
            device: kind of device.
            single: whether the kernels for CPUs run it where they can.
        """
        self.peak = 0
        self._architecture = architecture
        self._config = config
        self._device = device
        self._single = single
        self._width = _WIDTHS[config.precision]
        self._drawn = 0
        self._kept = 0
        self._gradients: set[int] = set()

    @property
    def _images(self) -> int:
        return 3 * self._config.resolution**2

    def run(self, needs: Collection[str]) -> int:
        """Runs the passes that yield the statistics needed; returns the peak."""
        for name, step in _STEPS.items():
            wanted = {need for need in needs if STATISTICS[need] is name}
            if wanted:
                step(self, wanted)
        # While a stack runs on a GPU, that before it is read.
        self.peak += self._kept
        return self.peak

    def _keep(self, nbytes: int) -> None:
        """What a pass leaves on a GPU until the stack is read, when everything has been queued; a CPU reads at once."""
        if self._device != "cpu":
            self._kept += nbytes

    def _tape(
        self,
        *,
        images: int,
        width: int | None = None,
        records: bool = True,
        trains: bool = True,
        scales: bool = False,
        layers: bool = False,
        relus: bool = False,
        own: bool = False,
        spare: int = 0,
        keeps_outputs: bool = False,
        plain: bool = False,
    ) -> tuple[Tape, Walk, _Codes, Value]:
        """Runs the network forward; `plain` as in Stack.forward."""
        width = width or self._width
        tape = Tape(width, records=records)
        codes = _Codes(images, self._device, layers=layers, relus=relus)
        single = self._single and width == 4 and not plain
        run = (SingleWalk if single else Walk)(
            tape,
            codes,
            images=images,
            trains=trains,
            scales=scales,
            keeps_outputs=keeps_outputs,
            folds=self._device == "cpu" and width == 4,
            merges=not self._single,
        )
        entering = tape.new(images * self._images, differentiable=own)
        tape.spike(spare)
        logits = (
            walk_single(self._architecture, self._config, run, entering)
            if isinstance(run, SingleWalk)
            else walk(self._architecture, self._config, run, entering)
        )
        return tape, run, codes, logits

    def _shapes(self, run: Walk) -> list[int]:
        """Weights of each shape."""
        return [sum(value.size for value in calls) for calls in run.weights.values()]

    def _end(self, peak: int, weights: int, width: int, *, extra: int = 0) -> None:
        """Notes the peak of a pass: with the weights as drawn, its leaves, and gradients that are kept."""
        kept = len(self._gradients) * weights * self._width
        self._drawn = max(self._drawn, 4 * weights)
        self.peak = max(self.peak, peak + self._drawn + width * weights + kept + extra + self._kept)

    def weights_pass(self, _needs: Set[str]) -> None:
        _, run, _, _ = self._tape(images=1, records=False)
        self._end(0, sum(self._shapes(run)), self._width)

    def train_pass(self, needs: Set[str]) -> None:
        n, backward = self._config.batch_size, bool(needs & _OF_GRADIENTS)
        relus = bool({"logdet_relu", "relu_regions"} & needs)
        tape, run, codes, logits = self._tape(
            images=n, records=backward, layers="logdet_train" in needs, relus=relus, keeps_outputs="fisher" in needs
        )
        shapes = self._shapes(run)
        if backward:
            outputs = run.outputs
            reached = tape.backward(logits, captured=outputs.__contains__)
            tape.drop(logits)
            for output in outputs - reached:  # zeros
                tape.new(output.size)
            self._leaf_gradients(tape, shapes, reached - outputs)
            if "fisher" in needs:
                tape.spike(max(output.size for output in outputs) * self._width)
            if needs & {"snip", "grad"}:
                tape.spike(self._saliency(shapes, self._width, copies=1))
            elif "signed_snip" in needs:
                tape.spike(sum(shapes) * self._width + (max(shapes) * _DOUBLE if self._width < _DOUBLE else 0))
        codes.logdet(tape)
        self._end(tape.peak, sum(shapes), self._width)
        self._keep(codes.kept)
        if backward:
            self._gradients.add(0)

    def eval_pass(self, _needs: Set[str]) -> None:
        tape, run, codes, _ = self._tape(
            images=self._config.batch_size, records=False, trains=False, scales=True, layers=True
        )
        shapes = self._shapes(run)
        tape.live -= sum(shapes) * self._width  # the leaves, of which `_end` takes account, are gone by then
        codes.logdet(tape)
        self._end(tape.peak, sum(shapes), self._width)
        self._keep(codes.kept)

    def synflow_pass(self, _needs: Set[str]) -> None:
        tape, run, _, logits = self._tape(images=1, width=_DOUBLE, trains=False)
        reached = tape.backward(logits)
        shapes = self._shapes(run)
        self._leaf_gradients(tape, shapes, reached)
        tape.spike(self._saliency(shapes, _DOUBLE, copies=1))
        self._end(tape.peak, sum(shapes), _DOUBLE)

    def hessian_pass(self, _needs: Set[str]) -> None:
        tape, run, _, logits = self._tape(images=self._config.batch_size, plain=True)
        shapes = self._shapes(run)
        tape.twice(logits, [value for calls in run.weights.values() for value in calls])
        tape.spike(max(shapes) * self._width)
        tape.spike(self._saliency(shapes, self._width, copies=2))
        self._end(tape.peak + tape.peak // _SECOND_RESERVE, sum(shapes), self._width)

    def zico_pass(self, _needs: Set[str]) -> None:
        width = _DOUBLE if self._config.repeats > 1 else self._width
        shared = width == self._width  # with TRAIN
        own = 0  # bytes of gradients that are not shared
        shapes: list[int] = []
        for index in {0, 1} - (self._gradients if shared else set()):
            tape, run, _, logits = self._tape(images=self._config.batch_size, width=width)
            reached = tape.backward(logits)
            shapes = self._shapes(run)
            self._leaf_gradients(tape, shapes, reached)
            self._end(tape.peak, sum(shapes), width, extra=own)
            if shared:
                self._gradients.add(index)
            else:
                own += sum(shapes) * width
        doubles = 2 if width < _DOUBLE else 0  # both gradients
        ratios = before = peak = 0
        for size in shapes:
            # Two absolute values and their sum, beside mean and deviation of the shape before.
            peak = max(peak, ratios + 2 * before + (doubles + 3) * size)
            # Mean, deviation, a mask of a byte an entry, quotient and ratio.
            ratios += size
            peak = max(peak, ratios + (doubles + 3) * size + size // _DOUBLE + 1)
            before = size
        self._end(peak * _DOUBLE, sum(shapes), 0, extra=own)

    def jacobian_pass(self, needs: Set[str]) -> None:
        n, width = self._config.batch_size, _DOUBLE if "labels" in needs else self._width
        if "jacobian_correlation" not in needs:
            return
        tape, run, _, logits = self._tape(images=n, width=width, own=True)
        images = n * self._images
        weights = {value for calls in run.weights.values() for value in calls}
        tape.backward(logits, wanted=lambda value: value not in weights)
        tape.spike(4 * images * _DOUBLE + 3 * n * n * _DOUBLE)
        self._end(tape.peak, sum(self._shapes(run)), width)
        self._keep(n * n * _DOUBLE)

    def ntk_pass(self, _needs: Set[str]) -> None:
        n = min(self._config.batch_size, _KERNEL_IMAGES)
        tape, run, _, logits = self._tape(images=n, plain=True)
        shapes = self._shapes(run)
        reached = tape.backward(logits, retain=True)
        self._leaf_gradients(tape, shapes, reached)
        tape.live -= sum(shapes) * self._width
        # The last backward runs beside the gradients of the images before; then they are copied, shape by shape.
        tape.spike(tape.peak - tape.live + (n - 1) * sum(shapes) * self._width)
        tape.live += n * sum(shapes) * self._width
        before = 0
        for size in shapes:
            tape.spike(n * (before + size) * _DOUBLE)
            before = size
        spare = self._config.batch_size * self._images * self._width
        self._end(tape.peak + spare, sum(shapes), self._width)
        self._keep(n * n * _DOUBLE)

    def zen_pass(self, _needs: Set[str]) -> None:
        n = self._config.batch_size
        images = n * self._images * self._width
        tape, run, _, _ = self._tape(images=n, records=False, spare=2 * images)
        weights = sum(self._shapes(run))
        again = 4 * weights if self._drawn and self._config.init is not Init.NORMAL else 0
        # The images and features of the first run are still there in the second; then come difference and distance.
        features = run.features * self._width
        self._end(max(tape.peak + features, 4 * features) + images, weights, self._width, extra=again)

    def _leaf_gradients(self, tape: Tape, shapes: Collection[int], reached: Iterable[Value]) -> None:
        """The gradients of the calls, which are alive already, become those of the leaves, shape by shape."""
        # Layers that do not reach the logits have zeros.
        tape.live += (sum(shapes) - sum(value.size for value in reached)) * tape.width
        tape.spike(max(shapes) * tape.width)

    def _saliency(self, shapes: list[int], width: int, *, copies: int) -> int:
        """What numbers per weight take beside weights and gradients: their own, and one shape in float64."""
        one = max(shapes) * _DOUBLE
        return copies * sum(shapes) * width + (2 * one if width < _DOUBLE else one)


_STEPS: dict[Pass, Callable[[Prediction, Set[str]], None]] = {
    Pass.TRAIN: Prediction.train_pass,
    Pass.EVAL: Prediction.eval_pass,
    Pass.SYNFLOW: Prediction.synflow_pass,
    Pass.HESSIAN: Prediction.hessian_pass,
    Pass.ZICO: Prediction.zico_pass,
    Pass.JACOBIAN: Prediction.jacobian_pass,
    Pass.NTK: Prediction.ntk_pass,
    Pass.ZEN: Prediction.zen_pass,
    Pass.WEIGHTS: Prediction.weights_pass,
}
