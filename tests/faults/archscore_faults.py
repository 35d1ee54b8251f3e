"""Proxies that do harm to the worker that computes them. Installed by having this directory on PYTHONPATH.

Each scores what `l2_norm` does, so that an answer that came about in spite of a fault can be checked. A proxy whose
name ends in `_once` does its harm only if there is a file of its name in the directory $ARCHSCORE_FAULTS, which it
takes away first: one worker of many, once for each file.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from archscore_server.engine.proxies import proxy
from archscore_server.engine.statistics import Array, over_layers

#: Seconds that `fault_slow` takes.
SLOW = 0.2

#: The layer slots of the first cell of a NAS-Bench-201 network.
_FIRST_CELL = slice(1, 7)


class FaultError(Exception):
    """What `fault_raise` raises."""


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def _hang() -> None:
    while True:
        time.sleep(3600)


def _raise() -> None:
    raise FaultError("a fault that a test asked for")


def _slow() -> None:
    time.sleep(SLOW)


def _register(name: str, harm: Callable[[], None], when: Callable[[], bool] = lambda: True) -> None:
    def harmful(weight_norm: Array) -> Array:
        """Does harm when it is computed."""
        if when():
            harm()
        return over_layers(weight_norm)

    proxy(name=name, formula="l2_norm", paper="none", uses_labels=False)(harmful)


def _take(name: str) -> bool:
    """Whether there was a file of this name, which only one process can take away."""
    try:
        (Path(os.environ["ARCHSCORE_FAULTS"]) / name).unlink()
    except FileNotFoundError:
        return False
    return True


for _name, _harm in (("fault_hang", _hang), ("fault_raise", _raise), ("fault_slow", _slow)):
    _register(_name, _harm)
for _name, _harm in (("fault_kill_once", _kill), ("fault_stop_once", _stop), ("fault_hang_once", _hang)):
    _register(_name, _harm, partial(_take, _name))


@proxy(formula="l2_norm", paper="none", uses_labels=False)
def fault_poison(weight_norm: Array) -> Array:
    """Kills its worker if a NAS-Bench-201 cell without convolutions is among the networks."""
    if np.any(weight_norm[:, _FIRST_CELL].sum(axis=-1) == 0):
        _kill()
    return over_layers(weight_norm)
