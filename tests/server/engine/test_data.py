"""Minibatches."""

import hashlib

import numpy as np
import pytest

from archscore_server.engine import EvaluationConfig
from archscore_server.engine.data import minibatch, minibatch_sha256


def test_gaussian_minibatches_are_what_numpy_draws() -> None:
    config = EvaluationConfig(batch_size=5, resolution=8, num_classes=7)
    for index in (0, 1):
        batch = minibatch(config, 42, index)
        images = np.random.Generator(np.random.PCG64([42, 1_000_000 + index])).standard_normal((5, 3, 8, 8))
        labels = np.random.Generator(np.random.PCG64([42, 2_000_000 + index])).integers(0, 7, 5)
        np.testing.assert_array_equal(batch.images, images.astype(np.float32))
        np.testing.assert_array_equal(batch.labels, labels)


def test_minibatches_are_shared_and_cannot_be_changed() -> None:
    config = EvaluationConfig(batch_size=4, resolution=4)
    batch = minibatch(config, 0)
    assert minibatch(config, 0) is batch
    with pytest.raises(ValueError, match="read-only"):
        batch.images[0] = 0


def test_the_hash_is_that_of_images_and_labels() -> None:
    config = EvaluationConfig(batch_size=4, resolution=4, seed=9)
    batch = minibatch(config, 9)
    expected = hashlib.sha256(batch.images.tobytes() + batch.labels.astype("<i8").tobytes()).hexdigest()
    assert minibatch_sha256(config) == expected
    assert minibatch_sha256(EvaluationConfig(batch_size=4, resolution=4, seed=8)) != expected
