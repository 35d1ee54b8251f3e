"""The few ways in which a stack is run, and what is collected meanwhile.

Activations and gradients stay on the device: a pass reduces them to small statistics per layer and network, and returns
those (`archscore_server.engine.statistics` lists them).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Set

from archscore_server.engine._device import Timer
from archscore_server.engine.config import EvaluationConfig
from archscore_server.engine.datasets import Dataset
from archscore_server.engine.networks import Stack
from archscore_server.engine.passes._context import Context
from archscore_server.engine.passes._forward import eval_pass, zen_pass
from archscore_server.engine.passes._gradients import hessian_pass, train_pass, weights_pass, zico_pass
from archscore_server.engine.passes._samples import jacobian_pass, ntk_pass
from archscore_server.engine.passes._synflow import synflow_pass
from archscore_server.engine.readings import Later
from archscore_server.engine.statistics import STATISTICS, Pass, Statistic

_PASSES: dict[Pass, Callable[[Context, Set[str]], dict[str, Later[Statistic]]]] = {
    Pass.TRAIN: train_pass,
    Pass.EVAL: eval_pass,
    Pass.SYNFLOW: synflow_pass,
    Pass.HESSIAN: hessian_pass,
    Pass.ZICO: zico_pass,  # after TRAIN, whose gradients it takes
    Pass.JACOBIAN: jacobian_pass,
    Pass.NTK: ntk_pass,
    Pass.ZEN: zen_pass,
    Pass.WEIGHTS: weights_pass,  # runs nothing: by then the device has much to do
}

#: Told of each pass that has run, and how many seconds it took.
OnPass = Callable[[Pass, float], None]


class Running:
    """Passes over a stack that a GPU has been given, and may not have computed yet; on a CPU they have run.

    What it holds on the device meanwhile is little: what is to be read, and matrices that may need a second look.
    """

    def __init__(
        self, stack: Stack, needs: Collection[str], config: EvaluationConfig, dataset: Dataset | None = None
    ) -> None:
        """Runs, or queues, the passes that yield the statistics needed, each once.

        Args:
            stack: the networks.
            needs: names of statistics.
            config: batch size and precision.
            dataset: where minibatches are from; None for "gaussian".
        """
        context = Context(stack, config, dataset)
        self._readings = stack.readings
        self._statistics: dict[str, Later[Statistic]] = {}
        self._timers: dict[Pass, Timer] = {}
        for name, run_pass in _PASSES.items():
            wanted = {need for need in needs if STATISTICS[need] is name}
            if wanted:
                with Timer(stack.device) as self._timers[name]:
                    self._statistics |= run_pass(context, wanted)
        self._readings.send()

    def finish(self, on_pass: OnPass | None = None) -> dict[str, Statistic]:
        """Waits for the passes, and gives the statistics. To be called once.

        Args:
            on_pass: called with each pass and the seconds that it took: on a GPU those from its first to its last
                operation there, during which the device may have waited for the host.
        """
        self._readings.wait()
        if on_pass:
            for name, timer in self._timers.items():
                on_pass(name, timer.seconds())
        return {name: statistic() for name, statistic in self._statistics.items()}


def run(
    stack: Stack,
    needs: Collection[str],
    config: EvaluationConfig,
    dataset: Dataset | None = None,
    on_pass: OnPass | None = None,
) -> dict[str, Statistic]:
    """Runs passes over a stack and waits for them; arguments as of `Running` and `Running.finish`."""
    return Running(stack, needs, config, dataset).finish(on_pass)
