"""Minibatches, drawn with numpy alone so that anybody can reproduce a score (proxies.md, Config and randomness)."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archscore_server.engine.config import ConfigError, EvaluationConfig
from archscore_server.engine.datasets import GAUSSIAN, Dataset, Datasets

#: Streams: images and labels of minibatch i of "gaussian", and the order in which the images of a dataset are taken.
_IMAGES, _LABELS, _ORDER = 1_000_000, 2_000_000, 3_000_000


def rng(a: int, b: int) -> np.random.Generator:
    """The random stream (a, b)."""
    return np.random.Generator(np.random.PCG64([a, b]))


@dataclass(frozen=True, slots=True)
class Minibatch:
    """Images, float32 [B, 3, R, R], and labels, int64 [B]."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]


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
    """Draws a minibatch of the config's dataset.

    Args:
        config: dataset, batch size and, for "gaussian", resolution and classes.
        seed: what is drawn.
        index: which minibatch of that seed.
        dataset: what `dataset_of` gives for the config.

    Raises:
        ConfigError: the dataset has too few images.
        ValueError: it is not the dataset of the config.
    """
    _content(config, dataset)
    return _sample(dataset, config.batch_size, seed, index) if dataset else _gaussian(config, seed, index)


def minibatch_key(config: EvaluationConfig, seed: int, index: int, dataset: Dataset | None) -> Hashable:
    """All that `minibatch` depends on.

    Raises:
        ValueError: the dataset is not that of the config.
    """
    return _content(config, dataset), seed, index, config.batch_size, config.resolution, config.num_classes


def minibatch_sha256(config: EvaluationConfig, data: Datasets | None = None) -> str:
    """SHA-256 over minibatch 0 of the first seed, in hexadecimal: float32 images, then int64 labels, little-endian.

    Raises:
        ConfigError: the config does not go with its dataset.
        DatasetError: the dataset cannot be used.
    """
    first = minibatch(config, config.seed, 0, dataset_of(config, data))
    digest = hashlib.sha256(first.images.astype("<f4", copy=False).tobytes())
    digest.update(first.labels.astype("<i8", copy=False).tobytes())
    return digest.hexdigest()


def _content(config: EvaluationConfig, dataset: Dataset | None) -> str:
    """What images are taken from."""
    if config.dataset != (dataset.info.name if dataset else GAUSSIAN):
        raise ValueError(f"the config asks for dataset {config.dataset!r}")
    return dataset.info.content_sha256 if dataset else GAUSSIAN


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
