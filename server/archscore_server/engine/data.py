"""Minibatches, drawn with numpy alone so that anybody can reproduce a score (proxies.md, Config and randomness)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archscore_server.engine._cache import ByteCache
from archscore_server.engine.config import ConfigError, EvaluationConfig
from archscore_server.engine.datasets import GAUSSIAN, Dataset, Datasets

#: Streams: images and labels of minibatch i of "gaussian", and the order in which the images of a dataset are taken.
_IMAGES, _LABELS, _ORDER = 1_000_000, 2_000_000, 3_000_000

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


def dataset_of(config: EvaluationConfig, data: Datasets | None, minibatches: int = 1) -> Dataset | None:
    """The dataset that a config names, which must go with it; None for "gaussian".

    Args:
        config: the config.
        data: where datasets are.
        minibatches: how many minibatches will be read.

    Raises:
        ConfigError: resolution or num_classes are not the dataset's, or it has too few images.
        DatasetError: it cannot be used.
    """
    if config.dataset == GAUSSIAN:
        return None
    dataset = (data or Datasets()).open(config.dataset, config.dataset_sha256)
    for field, description in dataset.info.conflicts(
        resolution=config.resolution,
        num_classes=config.num_classes,
        batch_size=config.batch_size,
        minibatches=minibatches,
    ):
        raise ConfigError(field, description)
    return dataset


def minibatch(config: EvaluationConfig, seed: int, index: int = 0, dataset: Dataset | None = None) -> Minibatch:
    """A minibatch of the config's dataset. Recent ones are kept.

    Args:
        config: dataset, batch size and, for "gaussian", resolution and classes.
        seed: what is drawn.
        index: which minibatch of that seed.
        dataset: what `dataset_of` gives for the config.

    Raises:
        ConfigError: the dataset has too few images.
        ValueError: it is not the dataset of the config.
    """
    if config.dataset != (dataset.info.name if dataset else GAUSSIAN):
        raise ValueError(f"the config asks for dataset {config.dataset!r}")
    key = _key(config, dataset.info.content_sha256 if dataset else GAUSSIAN, seed, index)
    kept = _MINIBATCHES.get(key)
    if kept is None:
        kept = _draw(config, seed, index, dataset)
        _MINIBATCHES.put(key, kept, kept.images.nbytes + kept.labels.nbytes)
    return kept


def minibatch_sha256(config: EvaluationConfig, data: Datasets | None = None) -> str:
    """SHA-256 over minibatch 0 of the first seed, in hexadecimal: float32 images, then int64 labels, little-endian.

    The minibatch is drawn for this alone and not kept: who asks for the hash seldom needs the images.

    Raises:
        ConfigError: the config does not go with its dataset.
        DatasetError: the dataset cannot be used.
    """
    first = _draw(config, config.seed, 0, dataset_of(config, data))
    digest = hashlib.sha256(first.images.astype("<f4", copy=False).tobytes())
    digest.update(first.labels.astype("<i8", copy=False).tobytes())
    return digest.hexdigest()


def _key(config: EvaluationConfig, content: str, seed: int, index: int) -> tuple[object, ...]:
    """What a minibatch depends on."""
    return content, seed, index, config.batch_size, config.resolution, config.num_classes


def _draw(config: EvaluationConfig, seed: int, index: int, dataset: Dataset | None) -> Minibatch:
    return _sample(dataset, config.batch_size, seed, index) if dataset else _gaussian(config, seed, index)


def _gaussian(config: EvaluationConfig, seed: int, index: int) -> Minibatch:
    shape = (config.batch_size, 3, config.resolution, config.resolution)
    images = rng(seed, _IMAGES + index).standard_normal(shape)
    labels = rng(seed, _LABELS + index).integers(0, config.num_classes, config.batch_size)
    return Minibatch(images.astype(np.float32), labels)


def _sample(dataset: Dataset, batch_size: int, seed: int, index: int) -> Minibatch:
    """Images of a dataset without replacement, normalised per channel."""
    rows = rng(seed, _ORDER).permutation(dataset.info.images)[index * batch_size : (index + 1) * batch_size]
    if len(rows) < batch_size:
        raise ConfigError("batch_size", f"{dataset.info.name} has too few images for minibatch {index}")
    images = (dataset.images[rows] / 255 - dataset.mean[:, None, None]) / dataset.std[:, None, None]
    return Minibatch(images.astype(np.float32), dataset.labels[rows])
