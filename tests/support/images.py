"""Small datasets in the formats of the real ones."""

from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]


class _Python2Pickler(pickle._Pickler):  # type: ignore[name-defined,misc]
    """Writes text and bytes as Python 2 wrote its strings."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_string(self, text: str | bytes) -> None:
        data = text.encode() if isinstance(text, str) else text
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(text)

    dispatch[bytes] = dispatch[str] = save_string


def python2_pickle(content: Any) -> bytes:
    """What cPickle.dumps(content, 2) gave in Python 2, with the numpy of its days."""
    stream = io.BytesIO()
    _Python2Pickler(stream, 2).dump(content)
    return stream.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def rng(a: int, b: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([a, b]))


def draw(count: int, resolution: int, seed: int = 0) -> Images:
    """Images, uint8 [n, 3, R, R]."""
    return rng(seed, 9).integers(0, 256, (count, 3, resolution, resolution), np.uint8)


def batch(images: Images, labels: list[int], key: str = "labels") -> dict[str, Any]:
    """The content of a batch file."""
    return {"batch_label": "a batch", key: labels, "data": images.reshape(len(images), -1), "filenames": ["a.png"]}


def write_cifar10(root: Path, per_file: int = 4) -> tuple[Images, list[int]]:
    """Five files as Python 2 pickles; returns what is in them."""
    images, labels = draw(5 * per_file, 32), [i % 10 for i in range(5 * per_file)]
    for number in range(5):
        part = slice(number * per_file, (number + 1) * per_file)
        write(root, f"cifar-10-batches-py/data_batch_{number + 1}", python2_pickle(batch(images[part], labels[part])))
    return images, labels


def write_cifar100(root: Path, count: int = 12) -> tuple[Images, list[int]]:
    """One file as a Python 2 pickle; returns what is in it, with the fine labels."""
    images, labels = draw(count, 32, 1), [99 - 7 * i for i in range(count)]
    content = batch(images, labels, "fine_labels") | {"coarse_labels": [0] * count}
    write(root, "cifar-100-python/train", python2_pickle(content))
    return images, labels


def write_imagenet16(root: Path, per_file: int = 6) -> tuple[Images, list[int]]:
    """Ten files as Python 3 pickles with labels from all of ImageNet; returns what is in them."""
    images, labels = draw(10 * per_file, 16, 2), [(17 * i) % 1000 + 1 for i in range(10 * per_file)]
    for number in range(10):
        part = slice(number * per_file, (number + 1) * per_file)
        content = batch(images[part], labels[part]) | {"mean": images.reshape(len(images), -1).mean(axis=0)}
        write(root, f"ImageNet16/train_data_batch_{number + 1}", pickle.dumps(content, 3))
    return images, labels


def write_npz(root: Path, name: str, **arrays: Any) -> None:
    """NAME.npz with these arrays."""
    np.savez(root / f"{name}.npz", **arrays)


def write_golden(root: Path) -> None:
    """The dataset of the reference scores."""
    images = rng(1, 0).integers(0, 256, (200, 32, 32, 3)).astype(np.uint8)
    write_npz(root, "golden", images=images, labels=rng(1, 1).integers(0, 7, 200))


def write(root: Path, file: str, content: bytes) -> None:
    """A file, with the directories above it."""
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
