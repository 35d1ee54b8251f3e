"""Minibatches, drawn with numpy alone so that anybody can reproduce a score (proxies.md, Config and randomness)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from archscore_server.engine._cache import ByteCache
from archscore_server.engine.config import EvaluationConfig

#: Stream of the images and of the labels of minibatch i.
_IMAGES, _LABELS = 1_000_000, 2_000_000


#: Bytes of minibatches that are kept: some dozens of the default size.
CACHE_BYTES = 64 * 2**20


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


_MINIBATCHES: ByteCache[Minibatch] = ByteCache(CACHE_BYTES)


def minibatch(config: EvaluationConfig, seed: int, index: int = 0) -> Minibatch:
    """Minibatch `index` of the config's dataset for a seed. Recent ones are kept."""
    key = (seed, index, config.batch_size, config.resolution, config.num_classes)
    kept = _MINIBATCHES.get(key)
    if kept is None:
        kept = _gaussian(*key)
        _MINIBATCHES.put(key, kept, kept.images.nbytes + kept.labels.nbytes)
    return kept


def minibatch_sha256(config: EvaluationConfig) -> str:
    """SHA-256 over minibatch 0 of the first seed, in hexadecimal: float32 images, then int64 labels, little-endian.

    The minibatch is drawn for this alone and not kept: who asks for the hash seldom needs the images.
    """
    return _sha256(config.seed, config.batch_size, config.resolution, config.num_classes)


@lru_cache(maxsize=1024)
def _sha256(seed: int, batch_size: int, resolution: int, num_classes: int) -> str:
    first = _gaussian(seed, 0, batch_size, resolution, num_classes)
    digest = hashlib.sha256(first.images.astype("<f4", copy=False).tobytes())
    digest.update(first.labels.astype("<i8", copy=False).tobytes())
    return digest.hexdigest()


def _gaussian(seed: int, index: int, batch_size: int, resolution: int, num_classes: int) -> Minibatch:
    images = rng(seed, _IMAGES + index).standard_normal((batch_size, 3, resolution, resolution))
    labels = rng(seed, _LABELS + index).integers(0, num_classes, batch_size)
    return Minibatch(images.astype(np.float32), labels)
