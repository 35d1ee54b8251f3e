"""The file formats: an open file in, checked images and labels out.

Readers raise FormatError for what they find wrong, and anything at all for a file that is garbage. They give out
images, uint8 [n, 3, R, R], and labels, int64 [n], from 0.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from archscore_server.engine.datasets import _pickles
from archscore_server.engine.datasets._dataset import MAX_BYTES

#: Classes of the published datasets, whether or not a file has images of each.
NUM_CLASSES: Mapping[str, int] = {"cifar10": 10, "cifar100": 100, "imagenet16-120": 120}

#: Classes that a config may have.
_MAX_CLASSES = 10_000

#: Images and labels of one file.
Part = tuple[NDArray[np.uint8], NDArray[np.int64]]
Reader = Callable[[BinaryIO], Part]


class FormatError(Exception):
    """What is wrong with a file, in words."""


def reader_of(name: str) -> Reader:
    """What reads the files of a dataset."""
    return _PUBLISHED.get(name, read_npz)


def read_pickle(stream: BinaryIO, labels_key: str, *, resolution: int, first: int, last: int) -> Part:
    """Reads a batch of CIFAR or ImageNet16.

    Args:
        stream: the file.
        labels_key: where the labels are; the images are in "data", [n, 3 * R * R].
        resolution: side of the images, R.
        first: the least label that there may be.
        last: the largest.
    """
    content = _pickles.load(stream)
    for key in ("data", labels_key):
        if key not in content:
            raise FormatError(f"there is no {key!r} in it")
    data, width = content["data"], 3 * resolution**2
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != width:
        raise FormatError(f"'data' must be uint8 [n, {width}], is {_form(data)}")
    images = data.reshape(-1, 3, resolution, resolution)
    return images, _labels(labels_key, content[labels_key], len(images), first, last)


def read_npz(stream: BinaryIO) -> Part:
    """Reads NAME.npz: images uint8 [n, H, H, 3] and labels integers [n], from 0."""
    with zipfile.ZipFile(stream) as archive:
        members = {member.filename: member for member in archive.infolist()}
        for key in ("images", "labels"):
            if f"{key}.npy" not in members:
                raise FormatError(f"there is no {key!r} in it")
        images = _read_npy(archive, members["images.npy"])
        labels = _read_npy(archive, members["labels.npy"])
    shape = images.shape
    if images.dtype != np.uint8 or images.ndim != 4 or shape[3] != 3 or shape[1] != shape[2] or not shape[1]:
        raise FormatError(f"'images' must be uint8 [n, H, H, 3], is {_form(images)}")
    return images.transpose(0, 3, 1, 2), _labels("labels", labels, len(images), 0, _MAX_CLASSES - 1)


def _read_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> NDArray[Any]:
    """An array of an archive. The header is believed only as far as the archive's own directory bears it out."""
    key = member.filename.removesuffix(".npy")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise FormatError(f"{key!r} is compressed in a way that numpy does not use")
    if member.file_size > MAX_BYTES:
        raise FormatError(f"{key!r} would take {member.file_size} bytes; at most {MAX_BYTES} are read")
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise FormatError(f"{key!r} must be an array of plain numbers")
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read_header(stream)
        if dtype.hasobject or dtype.names:
            raise FormatError(f"{key!r} must be an array of plain numbers")
        # Said how much to read, it unpacks no more, whatever the compressed data would give.
        content = stream.read(member.file_size)
        return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran_order else "C")


def _read_imagenet(stream: BinaryIO) -> Part:
    """A batch of ImageNet16, labelled 1 to 1000; ImageNet16-120 is the first 120 classes."""
    images, labels = read_pickle(stream, "labels", resolution=16, first=1, last=1000)
    kept = labels <= NUM_CLASSES["imagenet16-120"]
    return images[kept], labels[kept] - 1


_PUBLISHED: Mapping[str, Reader] = {
    "cifar10": partial(read_pickle, labels_key="labels", resolution=32, first=0, last=9),
    "cifar100": partial(read_pickle, labels_key="fine_labels", resolution=32, first=0, last=99),
    "imagenet16-120": _read_imagenet,
}


def _labels(key: str, values: Any, count: int, first: int, last: int) -> NDArray[np.int64]:
    """Checked labels: as many as images, integers, in range."""
    labels = np.asarray(values)
    if labels.ndim != 1 or (labels.dtype.kind not in "iu" and len(labels)):
        raise FormatError(f"{key!r} must be integers [n], is {_form(labels)}")
    if len(labels) != count:
        raise FormatError(f"there are {count} images and {len(labels)} labels")
    outside = np.flatnonzero((labels < first) | (labels > last))
    if len(outside):
        where = int(outside[0])
        raise FormatError(f"label {int(labels[where])} of image {where} is not from {first} to {last}")
    return labels.astype(np.int64)


def _form(value: object) -> str:
    """Type and shape of a value, in words."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return type(value).__name__
