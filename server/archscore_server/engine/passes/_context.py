"""What the passes over one stack share: its inputs, and the gradients that more than one of them reads."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from archscore_server.engine import minibatches
from archscore_server.engine.config import EvaluationConfig, Precision
from archscore_server.engine.datasets import GAUSSIAN, Dataset
from archscore_server.engine.networks import Mode, Observer, Shape, Stack

#: Of tensors; TF32 is in the products alone.
_DTYPES = {Precision.FLOAT32: torch.float32, Precision.TF32: torch.float32, Precision.FLOAT64: torch.float64}

Gradients = dict[Shape, Tensor]


class Context:
    """The passes over one stack.

    Attributes:
        stack: the networks.
        config: how they are evaluated.
        dtype: of weights and images.
        gradients: dL/dw by minibatch and precision, where a pass has computed them: [U, *shape] for each shape.
    """

    def __init__(self, stack: Stack, config: EvaluationConfig, dataset: Dataset | None) -> None:
        """Nothing has run yet."""
        self.stack = stack
        self.config = config
        self.dtype = _DTYPES[config.precision]
        self.gradients: dict[tuple[int, torch.dtype], Gradients] = {}
        self._dataset = dataset

    def images(
        self, index: int = 0, *, gaussian: bool = False, own: bool = False, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Images of minibatch `index`.

        Args:
            index: which minibatch.
            gaussian: from "gaussian", whatever the config says.
            own: a copy for each network even if all share them.
            dtype: if not the config's.

        Returns:
            [N, 3, R, R] where all networks share them, else [N, A*3, R, R]. Nothing may write to them or make them
            require gradients, unless they are `own`: other passes and stacks may have the same tensor.
        """
        config, dataset = self._source(gaussian=gaussian)
        seeds = self.stack.seeds
        by_seed = {seed: self._minibatch(config, seed, index, dataset).images for seed in set(seeds)}
        if len(by_seed) == 1 and not own:
            images = by_seed[seeds[0]]
        else:
            images = torch.cat([by_seed[seed] for seed in seeds], dim=1)
        return images.to(dtype or self.dtype).contiguous(memory_format=torch.channels_last)

    def labels(self, index: int = 0) -> Tensor:
        """Labels of minibatch `index`, [A, N]."""
        seeds = self.stack.seeds
        by_seed = {seed: self._minibatch(self.config, seed, index, self._dataset).labels for seed in set(seeds)}
        return torch.stack([by_seed[seed] for seed in seeds])

    def _source(self, *, gaussian: bool) -> tuple[EvaluationConfig, Dataset | None]:
        """What images are drawn by; `gaussian` as in `images`."""
        if gaussian:
            return replace(self.config, dataset=GAUSSIAN, dataset_sha256=None), None
        return self.config, self._dataset

    def _minibatch(
        self, config: EvaluationConfig, seed: int, index: int, dataset: Dataset | None
    ) -> minibatches.DeviceMinibatch:
        return minibatches.RECENT.get(config, seed, index, dataset, self.stack.device)

    def gradient(self, index: int, dtype: torch.dtype) -> Gradients:
        """dL/dw on minibatch `index` in train mode, computed unless a pass has."""
        if (index, dtype) not in self.gradients:
            weights = self.stack.weights(dtype)
            logits = self.stack.forward(self.images(index, dtype=dtype), weights, Mode.TRAIN, Observer())
            computed = torch.autograd.grad(
                loss(logits, self.labels(index)), list(weights.leaves.values()), materialize_grads=True
            )
            self.gradients[index, dtype] = dict(zip(weights.leaves, computed, strict=True))
        return self.gradients[index, dtype]


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over networks of the mean cross-entropy over the minibatch; logits [A, N, classes], labels [A, N]."""
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / labels.shape[1]
