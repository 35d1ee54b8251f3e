"""A dataset in memory: images, labels, and the few numbers that everything else asks for."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archscore_server.engine.datasets._errors import DatasetError

#: Bytes that a dataset may take in memory.
MAX_BYTES = 2**30

#: Images whose channels are summed up at a time: a temporary of some megabytes.
_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class DatasetInfo:
    """What is said about a dataset; fields as in Dataset of the contract.

    Attributes:
        name: the name that configs use.
        images: training images.
        num_classes: classes.
        resolution: side of the square images in pixels.
        content_sha256: SHA-256, in hexadecimal, over the images, uint8 [n, 3, R, R] in file order, then the labels,
            int64 [n], little-endian in C order.
    """

    name: str
    images: int
    num_classes: int
    resolution: int
    content_sha256: str

    @property
    def config_fields(self) -> dict[str, Any]:
        """Fields of an EvaluationConfig for this dataset and no other content of its name."""
        return {
            "dataset": self.name,
            "dataset_sha256": self.content_sha256,
            "resolution": self.resolution,
            "num_classes": self.num_classes,
        }

    def conflicts(
        self, *, resolution: int, num_classes: int, batch_size: int, minibatches: int = 1
    ) -> Iterator[tuple[str, str]]:
        """What in a config does not go with this dataset, as (field, description).

        Args:
            resolution: of the config.
            num_classes: of the config.
            batch_size: of the config.
            minibatches: how many minibatches of that size will be read.
        """
        for field, asked, own in (
            ("resolution", resolution, self.resolution),
            ("num_classes", num_classes, self.num_classes),
        ):
            if asked != own:
                yield field, f"must be {own} or unset with {self.name}, is {asked}"
        if minibatches * batch_size > self.images:
            count = f"{minibatches} minibatches of {batch_size} images" if minibatches > 1 else f"{batch_size} images"
            yield "batch_size", f"{count} are more than the {self.images} of {self.name}"


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """A dataset in memory. Made by `make_dataset`; its arrays are read-only, since it is shared.

    Attributes:
        info: what is said about it.
        images: uint8 [n, 3, R, R], in file order.
        labels: int64 [n], from 0.
        mean: mean of images / 255 over all images, per channel, [3].
        std: population standard deviation of images / 255 over all images, per channel, [3].
    """

    info: DatasetInfo
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Makes the arrays read-only."""
        for array in (self.images, self.labels, self.mean, self.std):
            array.flags.writeable = False

    @property
    def nbytes(self) -> int:
        """Memory of images and labels."""
        return self.images.nbytes + self.labels.nbytes


def make_dataset(
    name: str, images: NDArray[np.uint8], labels: NDArray[np.int64], num_classes: int | None = None
) -> Dataset:
    """Makes a dataset of checked arrays.

    Args:
        name: the name that configs use.
        images: uint8 [n, 3, R, R].
        labels: int64 [n], from 0.
        num_classes: classes; None for one more than the largest label.

    Raises:
        DatasetError: there are no images or too many, there is one class alone, or a channel has one value
            throughout and cannot be normalised.
    """
    if not len(images):
        raise DatasetError(name, "there are no images")
    if images.nbytes + labels.nbytes > MAX_BYTES:
        raise DatasetError(name, f"it takes {images.nbytes + labels.nbytes} bytes; at most {MAX_BYTES} are held")
    num_classes = num_classes or int(labels.max()) + 1
    if num_classes < 2:
        raise DatasetError(name, "there is one class alone")
    images = np.ascontiguousarray(images)
    mean, std = _moments(images)
    if not std.all():
        raise DatasetError(name, f"channel {int(np.argmin(std))} has the same value in every pixel of every image")
    digest = hashlib.sha256(images.data)
    digest.update(labels.astype("<i8", copy=False).data)
    info = DatasetInfo(name, len(images), num_classes, images.shape[-1], digest.hexdigest())
    return Dataset(info, images, labels, mean, std)


def _moments(images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of images / 255 per channel: from exact integer sums, rounded in the end alone."""
    sums, squares = np.zeros(3, np.int64), np.zeros(3, np.int64)
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK].astype(np.uint16)
        sums += chunk.sum(axis=(0, 2, 3), dtype=np.int64)
        squares += (chunk * chunk).sum(axis=(0, 2, 3), dtype=np.int64)
    count = images.size // 3
    pairs = [(int(s1), int(s2)) for s1, s2 in zip(sums, squares, strict=True)]  # Python's, which never overflow
    mean = [s1 / (255 * count) for s1, _ in pairs]
    std = [math.sqrt((count * s2 - s1 * s1) / (255 * count) ** 2) for s1, s2 in pairs]
    return np.array(mean), np.array(std)
