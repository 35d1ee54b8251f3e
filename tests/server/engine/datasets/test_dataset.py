"""Datasets in memory."""

import hashlib

import numpy as np
import pytest

from archscore_server.engine.datasets import DatasetError, DatasetInfo, _dataset
from archscore_server.engine.datasets._dataset import make_dataset
from support.images import draw

INFO = DatasetInfo("npz:x", 200, 7, 32, "0" * 64)


@pytest.mark.parametrize("count", [1, 7, 1024, 1025, 3000])
def test_mean_and_deviation_are_those_of_all_pixels(count: int) -> None:
    images = draw(count, 8)
    dataset = make_dataset("npz:x", images, np.arange(count) % 3 + 1)
    scaled = images.astype(np.longdouble) / 255
    np.testing.assert_allclose(dataset.mean, scaled.mean(axis=(0, 2, 3)).astype(float), rtol=4e-16)
    np.testing.assert_allclose(dataset.std, scaled.std(axis=(0, 2, 3)).astype(float), rtol=4e-16)


def test_a_nearly_constant_channel_loses_no_digits() -> None:
    images = np.full((2000, 3, 8, 8), 255, np.uint8)
    images[1234, :, 5, 6] = 254
    dataset = make_dataset("npz:x", images, np.arange(2000) % 2)
    share = 1 / (2000 * 64)
    np.testing.assert_allclose(dataset.std, np.sqrt(share * (1 - share)) / 255, rtol=4e-16)


def test_it_says_what_it_is() -> None:
    images, labels = draw(10, 4), np.arange(10) % 4
    info = make_dataset("npz:x", images, labels).info
    content = hashlib.sha256(images.tobytes() + labels.astype("<i8").tobytes()).hexdigest()
    assert info == DatasetInfo("npz:x", 10, 4, 4, content)
    assert make_dataset("npz:x", images, labels, 100).info.num_classes == 100
    other = make_dataset("npz:x", images, labels[::-1].copy()).info
    assert other.content_sha256 != content


def test_arrays_are_read_only() -> None:
    dataset = make_dataset("npz:x", draw(4, 4), np.arange(4))
    for array in (dataset.images, dataset.labels, dataset.mean, dataset.std):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_what_cannot_be_used_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    grey = draw(4, 4)
    grey[:, 1] = 7
    with pytest.raises(DatasetError, match="channel 1 has the same value in every pixel"):
        make_dataset("npz:x", grey, np.arange(4))
    with pytest.raises(DatasetError, match="there are no images"):
        make_dataset("npz:x", draw(0, 4), np.arange(0), 10)
    with pytest.raises(DatasetError, match="there is one class alone"):
        make_dataset("npz:x", draw(4, 4), np.zeros(4, np.int64))
    monkeypatch.setattr(_dataset, "MAX_BYTES", 100)
    with pytest.raises(DatasetError, match="it takes 224 bytes; at most 100 are held"):
        make_dataset("npz:x", draw(4, 4), np.arange(4))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"batch_size": 200}, []),
        ({"batch_size": 100, "minibatches": 2}, []),
        ({"resolution": 16}, [("resolution", "must be 32 or unset with npz:x, is 16")]),
        ({"num_classes": 10}, [("num_classes", "must be 7 or unset with npz:x, is 10")]),
        ({"batch_size": 201}, [("batch_size", "201 images are more than the 200 of npz:x")]),
        (
            {"batch_size": 101, "minibatches": 2},
            [("batch_size", "2 minibatches of 101 images are more than the 200 of npz:x")],
        ),
    ],
)
def test_conflicts_name_the_field(changes: dict[str, int], expected: list[tuple[str, str]]) -> None:
    assert list(INFO.conflicts(**{"resolution": 32, "num_classes": 7, "batch_size": 64} | changes)) == expected
