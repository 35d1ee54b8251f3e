"""The few ways in which a stack is run, and what is collected meanwhile.

Activations and gradients stay on the device: a pass reduces them to small statistics per layer and network, and returns
those (`archscore_server.engine.statistics` lists them).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Set

from archscore_server.engine.config import EvaluationConfig, Init
from archscore_server.engine.datasets import Dataset
from archscore_server.engine.networks import Stack
from archscore_server.engine.passes._context import Context
from archscore_server.engine.passes._forward import eval_pass, zen_pass
from archscore_server.engine.passes._gradients import hessian_pass, train_pass, weights_pass, zico_pass
from archscore_server.engine.passes._samples import jacobian_pass, ntk_pass
from archscore_server.engine.passes._synflow import synflow_pass
from archscore_server.engine.statistics import MINIBATCHES, STATISTICS, Pass, Statistic

_PASSES: dict[Pass, Callable[[Context, Set[str]], dict[str, Statistic]]] = {
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


#: Passes that read no images of the config's dataset.
_WITHOUT_IMAGES = {Pass.WEIGHTS, Pass.SYNFLOW, Pass.ZEN}

#: Minibatches of Gaussian images that Zen reads.
_ZEN_MINIBATCHES = 2


def prepare(stack: Stack, needs: Collection[str], config: EvaluationConfig, dataset: Dataset | None = None) -> None:
    """Draws the weights and minibatches that `run` will take, if they are kept until then; arguments as there."""
    context = Context(stack, config, dataset)
    passes = {STATISTICS[need] for need in needs}
    for init in {Init.NORMAL if own is Pass.ZEN else config.init for own in passes}:
        stack.prepare(init)
    for index in range(max((MINIBATCHES.get(own, 1) for own in passes - _WITHOUT_IMAGES), default=0)):
        context.prepare(index)
    if Pass.ZEN in passes:
        for index in range(_ZEN_MINIBATCHES):
            context.prepare(index, gaussian=True)


def run(
    stack: Stack,
    needs: Collection[str],
    config: EvaluationConfig,
    dataset: Dataset | None = None,
    on_pass: OnPass | None = None,
) -> dict[str, Statistic]:
    """Runs the passes that yield the statistics needed, each once.

    Args:
        stack: the networks.
        needs: names of statistics.
        config: batch size and precision.
        dataset: where minibatches are from; None for "gaussian".
        on_pass: called with each pass that has run and its seconds. A pass ends with its results on the host, so they
            are those of a GPU too; what was queued of building the stack counts for the first pass, and building the
            next one for the pass that had to wait.

    Returns:
        The statistics needed.
    """
    context = Context(stack, config, dataset)
    results: dict[str, Statistic] = {}
    for name, run_pass in _PASSES.items():
        wanted = {need for need in needs if STATISTICS[need] is name}
        if wanted:
            started = time.perf_counter()
            results |= run_pass(context, wanted)
            if on_pass:
                on_pass(name, time.perf_counter() - started)
    return results
