"""What the passes over one stack share: its inputs, and the gradients that more than one of them reads."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from archscore_server.engine.config import EvaluationConfig, Precision
from archscore_server.engine.data import Minibatch, minibatch
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
        gradients: dL/dw by minibatch, where a pass has computed them: [U, *shape] for each shape.
    """

    def __init__(self, stack: Stack, config: EvaluationConfig, dataset: Dataset | None) -> None:
        """Nothing has run yet."""
        self.stack = stack
        self.config = config
        self.dtype = _DTYPES[config.precision]
        self.gradients: dict[int, Gradients] = {}
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
            [N, 3, R, R] where all networks share them, else [N, A*3, R, R].
        """
        config, dataset = self.config, self._dataset
        if gaussian:
            config, dataset = replace(config, dataset=GAUSSIAN, dataset_sha256=None), None
        shared = len(set(self.stack.seeds)) == 1 and not own
        seeds = self.stack.seeds[:1] if shared else self.stack.seeds
        images = np.concatenate([minibatch(config, seed, index, dataset).images for seed in seeds], axis=1)
        on_device = torch.from_numpy(images).to(self.stack.device, dtype or self.dtype)
        return on_device.contiguous(memory_format=torch.channels_last)

    def labels(self, index: int = 0) -> Tensor:
        """Labels of minibatch `index`, [A, N]."""
        batches: dict[int, Minibatch] = {
            seed: minibatch(self.config, seed, index, self._dataset) for seed in set(self.stack.seeds)
        }
        labels = np.stack([batches[seed].labels for seed in self.stack.seeds])
        return torch.from_numpy(labels).to(self.stack.device)

    def gradient(self, index: int) -> Gradients:
        """dL/dw on minibatch `index` in train mode, computed unless a pass has."""
        if index not in self.gradients:
            weights = self.stack.weights(self.dtype)
            logits = self.stack.forward(self.images(index), weights, Mode.TRAIN, Observer())
            computed = torch.autograd.grad(
                loss(logits, self.labels(index)), list(weights.leaves.values()), materialize_grads=True
            )
            self.gradients[index] = dict(zip(weights.leaves, computed, strict=True))
        return self.gradients[index]


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over networks of the mean cross-entropy over the minibatch; logits [A, N, classes], labels [A, N]."""
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / labels.shape[1]
