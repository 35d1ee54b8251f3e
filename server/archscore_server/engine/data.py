"""Minibatches, drawn with numpy alone so that anybody can reproduce a score (proxies.md, Config and randomness)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from archscore_server.engine.config import EvaluationConfig

#: Stream of the images and of the labels of minibatch i.
_IMAGES, _LABELS = 1_000_000, 2_000_000


def rng(a: int, b: int) -> np.random.Generator:
    """The random stream (a, b)."""
    return np.random.Generator(np.random.PCG64([a, b]))


@dataclass(frozen=True, slots=True)
class Minibatch:
    """Images, float32 [B, 3, R, R], and labels, int64 [B]. Read-only: minibatches are shared."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Makes the arrays read-only."""
        self.images.flags.writeable = False
        self.labels.flags.writeable = False


def minibatch(config: EvaluationConfig, seed: int, index: int = 0) -> Minibatch:
    """Minibatch `index` of the config's dataset for a seed."""
    return _gaussian(seed, index, config.batch_size, config.resolution, config.num_classes)


@lru_cache(maxsize=8)
def _gaussian(seed: int, index: int, batch_size: int, resolution: int, num_classes: int) -> Minibatch:
    images = rng(seed, _IMAGES + index).standard_normal((batch_size, 3, resolution, resolution))
    labels = rng(seed, _LABELS + index).integers(0, num_classes, batch_size)
    return Minibatch(images.astype(np.float32), labels)


def minibatch_sha256(config: EvaluationConfig) -> str:
    """SHA-256 over minibatch 0 of the first seed, in hexadecimal: float32 images, then int64 labels, little-endian."""
    return _sha256(config.dataset, config.seed, config.batch_size, config.resolution, config.num_classes)


@lru_cache(maxsize=256)
def _sha256(dataset: str, seed: int, batch_size: int, resolution: int, num_classes: int) -> str:
    config = EvaluationConfig(
        dataset=dataset, seed=seed, batch_size=batch_size, resolution=resolution, num_classes=num_classes
    )
    first = minibatch(config, seed)
    digest = hashlib.sha256(first.images.astype("<f4").tobytes())
    digest.update(first.labels.astype("<i8").tobytes())
    return digest.hexdigest()
