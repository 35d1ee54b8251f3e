"""Minibatches."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archscore_server.engine import ConfigError, DatasetError, DatasetNotFoundError, Datasets, EvaluationConfig
from archscore_server.engine.data import dataset_of, minibatch, minibatch_sha256
from support.images import rng, write_npz


def test_gaussian_minibatches_are_what_numpy_draws() -> None:
    config = EvaluationConfig(batch_size=5, resolution=8, num_classes=7)
    for index in (0, 1):
        batch = minibatch(config, 42, index)
        images = np.random.Generator(np.random.PCG64([42, 1_000_000 + index])).standard_normal((5, 3, 8, 8))
        labels = np.random.Generator(np.random.PCG64([42, 2_000_000 + index])).integers(0, 7, 5)
        np.testing.assert_array_equal(batch.images, images.astype(np.float32))
        np.testing.assert_array_equal(batch.labels, labels)


def test_the_hash_is_that_of_images_and_labels() -> None:
    config = EvaluationConfig(batch_size=4, resolution=4, seed=9)
    batch = minibatch(config, 9)
    expected = hashlib.sha256(batch.images.tobytes() + batch.labels.astype("<i8").tobytes()).hexdigest()
    assert minibatch_sha256(config) == expected
    assert minibatch_sha256(EvaluationConfig(batch_size=4, resolution=4, seed=8)) != expected


COUNT = 50
IMAGES = rng(3, 4).integers(0, 256, (COUNT, 8, 8, 3)).astype(np.uint8)
LABELS = rng(3, 5).integers(0, 6, COUNT)


@pytest.fixture
def data(tmp_path: Path) -> Datasets:
    """A data directory with one dataset."""
    write_npz(tmp_path, "x", images=IMAGES, labels=LABELS)
    return Datasets(tmp_path)


def config_for(data: Datasets, **fields: Any) -> EvaluationConfig:
    return EvaluationConfig(**{**data.open("npz:x").info.config_fields, "batch_size": 16, **fields})


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_minibatches_of_a_dataset_are_normalised_and_permuted(data: Datasets, seed: int, index: int) -> None:
    config = config_for(data)
    batch = minibatch(config, seed, index, dataset_of(config, data))
    order = np.random.Generator(np.random.PCG64([seed, 3_000_000])).permutation(COUNT)[index * 16 : (index + 1) * 16]
    scaled = IMAGES.transpose(0, 3, 1, 2) / 255.0
    mean, std = (getattr(np, name)(scaled, axis=(0, 2, 3), keepdims=True)[0] for name in ("mean", "std"))
    for image, label, place in zip(batch.images, batch.labels, order, strict=True):
        expected = (scaled[place] - mean) / std
        np.testing.assert_allclose(image, expected, rtol=1e-7, atol=1e-8)
        assert label == LABELS[place]
    assert (batch.images.dtype, batch.labels.dtype) == (np.float32, np.int64)


def test_minibatches_of_equal_names_and_other_content_differ(data: Datasets, tmp_path: Path) -> None:
    config = config_for(data, dataset_sha256=None)
    first = minibatch(config, 0, 0, dataset_of(config, data))
    write_npz(tmp_path, "x", images=IMAGES[::-1], labels=LABELS)
    changed = Datasets(tmp_path)
    second = minibatch(config, 0, 0, dataset_of(config, changed))
    assert not np.array_equal(first.images, second.images)
    assert minibatch_sha256(config, data) != minibatch_sha256(config, changed)
    with pytest.raises(DatasetError, match="have changed"):
        dataset_of(config_for(data), changed)


def test_the_hash_is_that_of_the_dataset_s_minibatch(data: Datasets) -> None:
    config = config_for(data, seed=9)
    batch = minibatch(config, 9, 0, dataset_of(config, data))
    expected = hashlib.sha256(batch.images.tobytes() + batch.labels.tobytes()).hexdigest()
    assert minibatch_sha256(config, data) == expected
    assert minibatch_sha256(replace(config, seed=10), data) != expected
    with pytest.raises(DatasetNotFoundError):
        minibatch_sha256(config, Datasets())


def test_a_config_must_go_with_its_dataset(data: Datasets) -> None:
    assert dataset_of(EvaluationConfig(), None) is None
    for field, value in (("resolution", 4), ("num_classes", 10), ("batch_size", 51)):
        with pytest.raises(ConfigError, match="npz:x") as caught:
            dataset_of(config_for(data, **{field: value}), data)
        assert caught.value.field == field
    whole = config_for(data, batch_size=50)
    assert dataset_of(whole, data) is data.open("npz:x")
    with pytest.raises(ConfigError, match="2 minibatches of 50 images are more than the 50 of npz:x"):
        dataset_of(whole, data, minibatches=2)
    with pytest.raises(DatasetNotFoundError, match=r"looked for x\.npz"):
        dataset_of(whole, None)


def test_a_minibatch_is_full_and_of_the_config_s_dataset(data: Datasets) -> None:
    config = config_for(data)
    dataset = dataset_of(config, data)
    with pytest.raises(ConfigError, match="too few images for minibatch 3"):
        minibatch(config, 0, 3, dataset)
    with pytest.raises(ValueError, match="asks for dataset 'npz:x'"):
        minibatch(config, 0)
    with pytest.raises(ValueError, match="asks for dataset 'gaussian'"):
        minibatch(EvaluationConfig(), 0, dataset=dataset)
