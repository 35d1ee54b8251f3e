"""The stack that comes next, built while a GPU still computes the one before it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial

import torch

from archscore.spaces import Architecture
from archscore_server.engine import passes
from archscore_server.engine.config import EvaluationConfig
from archscore_server.engine.datasets import Dataset
from archscore_server.engine.minibatches import RECENT
from archscore_server.engine.networks import Stack, build
from archscore_server.engine.tables import TABLES

_logger = logging.getLogger(__name__)

Networks = tuple[Sequence[Architecture], Sequence[int]]
"""The networks of a stack: the architecture and the seed of each."""


class Ahead:
    """Builds stacks, and the one that comes next when the host would wait for the device.

    Then the layout of the networks, weights that no other had yet and the minibatches of another seed are there when
    they are needed. On a CPU there is no such time: the host computes itself.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        dataset: Dataset | None,
        device: torch.device,
        *,
        needs: Sequence[str],
        single: bool,
        ahead: bool,
    ) -> None:
        """Builds nothing yet.

        Args:
            config: what shapes the networks.
            dataset: where minibatches are from; None for "gaussian".
            device: where stacks run.
            needs: names of the statistics that stacks are run for.
            single: whether networks run one by one by the kernels for CPUs.
            ahead: whether to build any before it is asked for.
        """
        self._config = config
        self._dataset = dataset
        self._device = device
        self._needs = needs
        self._build = partial(build, config=config, device=device, single=single)
        self._ahead = ahead
        self._built: tuple[Networks, Stack] | None = None

    def build(self, architectures: Sequence[Architecture], seeds: Sequence[int], then: Networks) -> Stack:
        """A stack of connected architectures, each with its seed.

        Args:
            architectures: the architecture of each network.
            seeds: the seed of each.
            then: what the next stack will likely be of; nothing if there is none.
        """
        stack = self._take(architectures, seeds) or self._build(architectures, seeds)
        if self._ahead and then[0]:
            stack.meanwhile = partial(self._build_ahead, *then)
        return stack

    def _take(self, architectures: Sequence[Architecture], seeds: Sequence[int]) -> Stack | None:
        """What was built ahead, if it is of these; there is none any more."""
        built, self._built = self._built, None
        if built is None:
            return None
        key, stack = built
        return stack if key == (tuple(architectures), tuple(seeds)) else None

    def _build_ahead(self, architectures: Sequence[Architecture], seeds: Sequence[int]) -> None:
        try:
            stack = self._build(architectures, seeds)
            passes.prepare(stack, self._needs, self._config, self._dataset)
        except Exception as error:  # noqa: BLE001 -- it comes again when the stack is asked for, and is of that one then
            _logger.warning("stacks are no longer built ahead: %s", error)
            self._ahead = False
            # Where memory runs short, it is for the stack that is being computed.
            TABLES.clear(self._device)
            RECENT.clear(self._device)
        else:
            self._built = ((tuple(architectures), tuple(seeds)), stack)
