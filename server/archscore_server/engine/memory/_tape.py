"""Which tensors of a run are alive when: forward, backward, and backward through the backward.

A `Tape` takes the operations of a network as the network would run them, with sizes in place of tensors. It frees a
tensor when nothing in the program, no gradient and no operation still to be differentiated refers to it, as torch does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence, Set

#: Maps of the size of its input that torch's second derivative of BatchNorm has alive at once, besides what goes in.
_NORM_TEMPORARIES = 6


class Value:
    """A tensor: so many entries, wanted by so many."""

    __slots__ = ("dealt", "differentiable", "refs", "size", "whole")

    def __init__(self, size: int, *, differentiable: bool) -> None:
        """One reference: whoever made it."""
        self.size = size
        self.refs = 1
        self.whole: Value | None = None  # what this is a view of
        self.dealt = False  # whether the gradients of its readers wait for each other
        self.differentiable = differentiable


class _Node:
    """An operation that can be differentiated."""

    __slots__ = ("inputs", "output", "rule", "saved", "temporary")

    def __init__(
        self, rule: str, inputs: Sequence[Value], output: Value, saved: Sequence[Value], temporary: int = 0
    ) -> None:
        self.rule = rule
        self.inputs = inputs
        self.output = output
        self.saved = saved
        self.temporary = temporary


class _Sum:
    """A sum of maps by the kernels for CPUs, that can be differentiated: what is read of it are two outputs.

    Attributes:
        inputs: the maps.
        normalised: which of them go through BatchNorm.
        total: the sum, if it is read.
        rectified: its positive part, if that is read.
        saved: what the derivative needs.
        factors: entries that the derivative takes for a moment.
        uses_up: whether the gradients of normalised maps take their place.
    """

    __slots__ = ("factors", "inputs", "normalised", "rectified", "saved", "total", "uses_up")

    def __init__(
        self,
        inputs: Sequence[Value],
        normalised: Sequence[bool],
        total: Value | None,
        rectified: Value | None,
        saved: Sequence[Value],
        factors: int,
        uses_up: bool,
    ) -> None:
        self.inputs = inputs
        self.normalised = normalised
        self.total = total
        self.rectified = rectified
        self.saved = saved
        self.factors = factors
        self.uses_up = uses_up

    @property
    def outputs(self) -> tuple[Value, ...]:
        return tuple(output for output in (self.total, self.rectified) if output)


class Tape:
    """A run whose tensors are counted.

    Attributes:
        live: bytes alive now.
        peak: the most bytes that were alive at once.
        width: bytes of an entry.
    """

    def __init__(self, width: int, *, records: bool, live: int = 0) -> None:
        """Starts a run.

        Args:
            width: bytes of an entry.
            records: whether operations are kept for a backward.
            live: bytes that are alive already.
        """
        self.live = self.peak = live
        self.width = width
        self._records = records
        self._nodes: list[_Node | _Sum] = []

    def new(self, size: int, *, differentiable: bool = False) -> Value:
        """A new tensor."""
        self.live += size * self.width
        self.peak = max(self.peak, self.live)
        return Value(size, differentiable=differentiable)

    def keep(self, value: Value) -> Value:
        """One more reference to a tensor."""
        value.refs += 1
        return value

    def drop(self, *values: Value) -> None:
        """One reference less to each."""
        for value in values:
            value.refs -= 1
            if not value.refs:
                if value.whole:
                    self.drop(value.whole)
                else:
                    self.live -= value.size * self.width

    def spike(self, nbytes: int) -> None:
        """So many bytes more, for a moment."""
        self.peak = max(self.peak, self.live + nbytes)

    def operation(
        self, rule: str, inputs: Sequence[Value], size: int, *, saves: Sequence[Value] = (), temporary: int = 0
    ) -> Value:
        """An operation of one output.

        Args:
            rule: "pass" where each input's gradient is the output's own; else each is a new tensor, and "conv", "norm",
                "pool" and "relu" say what the derivative of the derivative is.
            inputs: what it takes, weights included.
            size: entries of the output.
            saves: what its derivative needs, besides the output itself where `inputs` has it not.
            temporary: entries that the derivative takes for a moment.
        """
        output = self.new(size, differentiable=self._records and any(value.differentiable for value in inputs))
        if output.differentiable:
            self._record(_Node(rule, tuple(inputs), output, tuple(saves), temporary))
        return output

    def relu(self, x: Value) -> Value:
        """A ReLU, which keeps its output."""
        output = self.operation("relu", (x,), x.size)
        if output.differentiable:
            self._nodes[-1].saved = (self.keep(output),)
        return output

    def sum(
        self,
        parts: Sequence[Value],
        normalised: Sequence[bool],
        unshared: Sequence[bool],
        *,
        total: bool,
        rectified: bool,
        statistics: int,
        uses_up: bool,
    ) -> tuple[Value | None, Value | None]:
        """A sum of maps by the kernels for CPUs, and its positive part, each where it is read.

        The gradients of all that read an output wait for each other.

        Args:
            parts: the maps.
            normalised: which of them go through BatchNorm.
            unshared: which of them nobody else reads; these first.
            total: whether the sum is read.
            rectified: whether its positive part is.
            statistics: entries of the statistics of a map.
            uses_up: whether gradients, or where there are none the outputs, take the place of maps.
        """
        own = [self.new(statistics) for each in normalised if each]
        size, alone = parts[0].size, len(parts) == 1 and not normalised[0]
        differentiable = self._records and any(part.differentiable for part in parts)
        spare = [part for part, each in zip(parts, unshared, strict=True) if each and uses_up and not self._records]
        whole = positive = None
        if total and alone:
            whole = self._view(parts[0])
        elif total:
            whole = self._view(spare.pop(0)) if spare else self.new(size)
        if rectified:
            positive = self._view(spare.pop()) if spare and not (alone and total) else self.new(size)
        for output in (whole, positive):
            if output:
                output.dealt = True
                output.differentiable = differentiable
        if differentiable and (whole or positive):
            maps = [part for part, each in zip(parts, normalised, strict=True) if each]
            saved = [*maps, *own, *([positive] if positive else [])]
            self._record(
                _Sum(tuple(parts), tuple(normalised), whole, positive, saved, 3 * len(maps) * statistics // 4, uses_up)
            )
        self.drop(*own)
        return whole, positive

    def _view(self, whole: Value) -> Value:
        view = Value(whole.size, differentiable=False)
        view.whole = self.keep(whole)
        return view

    def share(self, whole: Value, size: int) -> Value:
        """A view of part of a tensor, which keeps all of it alive."""
        part = Value(size, differentiable=whole.differentiable)
        part.whole = self.keep(whole)
        if part.differentiable:
            self._record(_Node("pass", (whole,), part, ()))
        return part

    def _record(self, node: _Node | _Sum) -> None:
        for value in node.saved:
            self.keep(value)
        self._nodes.append(node)

    @property
    def mark(self) -> int:
        """A place to `prune` from."""
        return len(self._nodes)

    def prune(self, mark: int, results: Set[Value]) -> None:
        """Forgets the operations since a mark that no result depends on."""
        needed, kept = set(results), []
        for node in reversed(self._nodes[mark:]):
            if not needed.isdisjoint(_outputs(node)):
                needed.update(node.inputs)
                kept.append(node)
            else:
                self.drop(*node.saved)
        self._nodes[mark:] = reversed(kept)

    def backward(
        self,
        output: Value,
        *,
        retain: bool = False,
        captured: Callable[[Value], bool] | None = None,
        wanted: Callable[[Value], bool] | None = None,
    ) -> set[Value]:
        """Runs the derivatives, last operation first.

        Args:
            output: what is differentiated.
            retain: whether the operations stay for another backward.
            captured: whose gradients are kept, besides those of leaves.
            wanted: of which leaves gradients are computed; None for all.

        Returns:
            The leaves that have gradients, and what was captured; these gradients stay alive.
        """
        results: dict[Value, list[Value]] = {}
        outputs = {own for node in self._nodes for own in _outputs(node)}
        gradients = {output: [self.new(output.size)]}
        for node in reversed(self._nodes):
            if isinstance(node, _Sum):
                own = self._unsummed(node, gradients)
                if own and not retain:
                    self.drop(*node.saved)
                for value, part in own:
                    self._add(gradients if value in outputs else results, value, part)
                continue
            gradient = self._gathered(gradients, node.output)
            if gradient is not None:
                if captured and captured(node.output):
                    results[node.output] = [self.keep(gradient)]
                own = [
                    (value, self._derived(node, gradient, value))
                    for value in node.inputs
                    if value.differentiable and (value in outputs or not wanted or wanted(value))
                ]
                # What an operation took is gone before what it gave is added up.
                self.drop(gradient)
                if not retain:
                    self.drop(*node.saved)
                for value, part in own:
                    self._add(gradients if value in outputs else results, value, part)
        if not retain:
            self._nodes.clear()
        return set(results)

    def _unsummed(self, node: _Sum, gradients: dict[Value, list[Value]]) -> list[tuple[Value, Value]]:
        """The gradients of the maps of a sum; those of its readers are there until they are done."""
        of_total = gradients.pop(node.total, []) if node.total else []
        of_rectified = gradients.pop(node.rectified, []) if node.rectified else []
        arrived = [*of_total, *of_rectified]
        if not arrived:
            return []
        alone = len(of_total) == 1 and not of_rectified
        if node.uses_up and of_rectified:
            whole = self.keep(of_rectified[0])
        else:
            whole = self.keep(of_total[0]) if alone else self.new(node.inputs[0].size)
        own = [
            (value, self.keep(whole) if not each else self.keep(value) if node.uses_up else self.new(value.size))
            for value, each in zip(node.inputs, node.normalised, strict=True)
        ]
        self.spike(node.factors * self.width)
        self.drop(whole, *arrived)
        return own

    def twice(self, output: Value, leaves: Sequence[Value]) -> None:
        """Runs the derivatives, and then those of the sum of squares of the gradients of `leaves`.

        Gradients and products of the leaves stay alive.
        """
        nodes = [node for node in self._nodes if isinstance(node, _Node)]  # sums differentiate only once
        gradients = {output: [self.new(output.size)]}
        held: dict[_Node, Value] = {}  # what the derivative of a derivative needs
        reached = []
        for node in reversed(nodes):
            gradient = self._gathered(gradients, node.output)
            if gradient is None:
                continue
            reached.append(node)
            if node.rule in ("conv", "norm"):
                held[node] = self.keep(gradient)
            own = [(value, self._derived(node, gradient, value)) for value in node.inputs if value.differentiable]
            self.drop(gradient)
            for value, part in own:
                self._add(gradients, value, part)
        # The sum of squares: a product for each leaf, from its gradient.
        seconds = {leaf: self.new(leaf.size) for leaf in leaves if leaf in gradients}
        pending: dict[Value, list[Value]] = {}
        readers = Counter(value for node in reached for value in node.inputs)
        # The derivatives of the derivatives go through the network from its input to its output.
        for node in reversed(reached):
            inputs = [value for value in node.inputs if value in seconds]
            size = node.output.size
            if node.rule == "pass":
                result = self.keep(seconds[inputs[0]]) if len(inputs) == 1 else self.new(size)
            else:
                result = self.new(size)
            if node.rule in ("conv", "norm"):
                self.spike((size if node.rule == "conv" else _NORM_TEMPORARIES * size) * self.width)
            if node.rule in ("conv", "norm", "pool"):  # a pool's is all zeros, but it is there
                for value in node.inputs:
                    if value.differentiable:
                        self._add(pending, value, self.new(value.size))
            elif node.rule == "relu":  # all zeros, too
                self._add(pending, node.output, self.new(size))
            seconds[node.output] = result
            for value in inputs:
                readers[value] -= 1
                if not readers[value]:
                    self.drop(seconds.pop(value))
            if node in held:
                self.drop(held[node])
        self.drop(*seconds.values())
        for node in reversed(nodes):
            second = self._gathered(pending, node.output)
            if second is not None:
                own = [(value, self._derived(node, second, value)) for value in node.inputs if value.differentiable]
                self.drop(second, *node.saved)
                for value, part in own:
                    self._add(pending, value, part)
            else:
                self.drop(*node.saved)
        self._nodes.clear()

    def _derived(self, node: _Node, gradient: Value, value: Value) -> Value:
        """The gradient of an input, from that of the output."""
        if node.rule == "pass":
            return self.keep(gradient)
        own = self.new(value.size)
        self.spike(node.temporary * self.width)
        return own

    def _add(self, gradients: dict[Value, list[Value]], value: Value, own: Value) -> None:
        parts = gradients.setdefault(value, [])
        if value.dealt or not parts:
            parts.append(own)
        else:
            # Out of place, as torch does under a dispatch mode; where nothing looks on it may take less.
            total = self.new(value.size)
            self.drop(*parts, own)
            parts[:] = [total]

    def _gathered(self, gradients: dict[Value, list[Value]], value: Value) -> Value | None:
        """Takes the gradient of a tensor, the sum of those of its readers."""
        parts = gradients.pop(value, [])
        if not parts:
            return None
        if len(parts) == 1 and parts[0].size == value.size:
            return parts[0]
        total = self.new(value.size)
        self.drop(*parts)
        return total


def _outputs(node: _Node | _Sum) -> tuple[Value, ...]:
    return node.outputs if isinstance(node, _Sum) else (node.output,)
