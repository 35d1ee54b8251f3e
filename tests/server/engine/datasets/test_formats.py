"""Files in the formats of the real datasets, whole and broken."""

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archscore_server.engine.datasets import DatasetError, Datasets, _formats
from support.images import (
    batch,
    draw,
    python2_pickle,
    write,
    write_cifar10,
    write_cifar100,
    write_imagenet16,
    write_npz,
)

CIFAR10, CIFAR100, IMAGENET = (
    "cifar-10-batches-py/data_batch_3",
    "cifar-100-python/train",
    "ImageNet16/train_data_batch_7",
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory with all published datasets."""
    write_cifar10(tmp_path)
    write_cifar100(tmp_path)
    write_imagenet16(tmp_path)
    return tmp_path


def refusal(root: Path, name: str) -> str:
    with pytest.raises(DatasetError) as caught:
        Datasets(root).read(name)
    assert str(root) not in str(caught.value)
    return caught.value.reason


def test_cifar10(tmp_path: Path) -> None:
    images, labels = write_cifar10(tmp_path)
    dataset = Datasets(tmp_path).read("cifar10")
    np.testing.assert_array_equal(dataset.images, images)
    np.testing.assert_array_equal(dataset.labels, labels)
    assert (dataset.info.images, dataset.info.num_classes, dataset.info.resolution) == (20, 10, 32)
    assert (dataset.images.dtype, dataset.labels.dtype) == (np.uint8, np.int64)


def test_cifar100_has_fine_labels(tmp_path: Path) -> None:
    images, labels = write_cifar100(tmp_path)
    dataset = Datasets(tmp_path).read("cifar100")
    np.testing.assert_array_equal(dataset.images, images)
    np.testing.assert_array_equal(dataset.labels, labels)
    assert (dataset.info.images, dataset.info.num_classes, dataset.info.resolution) == (12, 100, 32)


def test_imagenet16_120_keeps_the_first_classes(tmp_path: Path) -> None:
    images, labels = write_imagenet16(tmp_path)
    dataset = Datasets(tmp_path).read("imagenet16-120")
    kept = [place for place, label in enumerate(labels) if label <= 120]
    assert 1 <= len(kept) < len(labels)
    np.testing.assert_array_equal(dataset.images, images[kept])
    np.testing.assert_array_equal(dataset.labels, [labels[place] - 1 for place in kept])
    assert (dataset.info.num_classes, dataset.info.resolution) == (120, 16)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("keys", [str, str.encode], ids=["text", "bytes"])
def test_pickles_of_python_3(tmp_path: Path, protocol: int, keys: Callable[[str], Any]) -> None:
    images, labels = draw(3, 32), [0, 50, 99]
    content = {keys(key): value for key, value in batch(images, labels, "fine_labels").items()}
    write(tmp_path, CIFAR100, pickle.dumps(content, protocol))
    dataset = Datasets(tmp_path).read("cifar100")
    np.testing.assert_array_equal(dataset.images, images)
    np.testing.assert_array_equal(dataset.labels, labels)


def test_labels_may_be_an_array(tmp_path: Path) -> None:
    images = draw(3, 32)
    labels = np.array([4, 5, 6], ">i4")
    write(tmp_path, CIFAR100, pickle.dumps({"data": images.reshape(3, -1), "fine_labels": labels}, 2))
    np.testing.assert_array_equal(Datasets(tmp_path).read("cifar100").labels, [4, 5, 6])


def test_arrays_in_column_order(tmp_path: Path) -> None:
    images = draw(3, 32)
    content = batch(images, [1, 2, 3], "fine_labels")
    content["data"] = np.asfortranarray(content["data"])
    write(tmp_path, CIFAR100, pickle.dumps(content, 2))
    np.testing.assert_array_equal(Datasets(tmp_path).read("cifar100").images, images)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint64, ">i4"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz(tmp_path: Path, dtype: Any, save: Callable[..., None], order: Any) -> None:
    images, labels = draw(9, 6), np.arange(9) % 5
    save(
        tmp_path / "my-Set_1.0.npz",
        images=np.array(images.transpose(0, 2, 3, 1), order=order),
        labels=labels.astype(dtype),
        classes=np.array(["a", "b"]),
    )
    dataset = Datasets(tmp_path).read("npz:my-Set_1.0")
    np.testing.assert_array_equal(dataset.images, images)
    np.testing.assert_array_equal(dataset.labels, labels)
    assert (dataset.info.num_classes, dataset.info.resolution) == (5, 6)
    assert dataset.images.flags.c_contiguous


GOOD = batch(draw(3, 32), [0, 1, 2])

PICKLE_FAULTS = {
    "no dictionary": ([1, 2], "the file holds no dictionary"),
    "no data": ({"labels": [1]}, "there is no 'data' in it"),
    "no labels": ({"data": GOOD["data"]}, "there is no 'labels' in it"),
    "data is a list": (GOOD | {"data": [1, 2]}, "'data' must be uint8 [n, 3072], is list"),
    "data is float": (GOOD | {"data": GOOD["data"] / 255}, "'data' must be uint8 [n, 3072], is float64 [3, 3072]"),
    "wrong width": (GOOD | {"data": GOOD["data"][:, :768]}, "'data' must be uint8 [n, 3072], is uint8 [3, 768]"),
    "wrong rank": (GOOD | {"data": draw(3, 32)}, "'data' must be uint8 [n, 3072], is uint8 [3, 3, 32, 32]"),
    "label too large": (GOOD | {"labels": [0, 10, 2]}, "label 10 of image 1 is not from 0 to 9"),
    "label negative": (GOOD | {"labels": [0, 1, -1]}, "label -1 of image 2 is not from 0 to 9"),
    "fewer labels": (GOOD | {"labels": [0, 1]}, "there are 3 images and 2 labels"),
    "more labels": (GOOD | {"labels": [0] * 4}, "there are 3 images and 4 labels"),
    "labels are float": (GOOD | {"labels": [0.0, 1.0, 2.0]}, "'labels' must be integers [n], is float64 [3]"),
    "labels are text": (GOOD | {"labels": ["a", "b", "c"]}, "'labels' must be integers [n], is <U1 [3]"),
    "labels are flags": (GOOD | {"labels": [True, False, True]}, "'labels' must be integers [n], is bool [3]"),
    "labels are huge": (GOOD | {"labels": [2**80, 0, 0]}, "'labels' must be integers [n], is object [3]"),
    "labels are a number": (GOOD | {"labels": 3}, "'labels' must be integers [n], is int64 []"),
    "labels are None": (GOOD | {"labels": None}, "'labels' must be integers [n], is object []"),
}


@pytest.mark.parametrize(("content", "reason"), PICKLE_FAULTS.values(), ids=PICKLE_FAULTS)
def test_odd_pickles_are_refused(root: Path, content: Any, reason: str) -> None:
    write(root, CIFAR10, python2_pickle(content))
    assert refusal(root, "cifar10") in (f"{CIFAR10}: {reason}", f"{CIFAR10}: it cannot be read: {reason}")


@pytest.mark.parametrize("label", [0, 1001])
def test_labels_of_imagenet_are_from_1_to_1000(root: Path, label: int) -> None:
    write(root, IMAGENET, pickle.dumps(batch(draw(2, 16), [5, label])))
    assert refusal(root, "imagenet16-120") == f"{IMAGENET}: label {label} of image 1 is not from 1 to 1000"


@pytest.mark.parametrize(("name", "file"), [("cifar10", CIFAR10), ("cifar100", CIFAR100), ("imagenet16-120", IMAGENET)])
def test_cut_off_pickles_are_refused(root: Path, name: str, file: str) -> None:
    whole = (root / file).read_bytes()
    for length in (0, 1, 2, 30, len(whole) // 2, len(whole) - 1):
        write(root, file, whole[:length])
        assert refusal(root, name).startswith(f"{file}: it cannot be read: "), length


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n", b"not a pickle", b"\x00" * 1000, b"\xff" * 1000, b"("])
def test_garbage_is_refused(root: Path, content: bytes) -> None:
    write(root, CIFAR100, content)
    assert refusal(root, "cifar100").startswith(f"{CIFAR100}: it cannot be read: ")
    write(root, "x.npz", content)
    assert refusal(root, "npz:x") == "x.npz: it cannot be read: File is not a zip file"


def test_a_missing_batch_is_named(root: Path) -> None:
    (root / IMAGENET).unlink()
    assert refusal(root, "imagenet16-120") == f"{IMAGENET}: No such file or directory"


IMAGES, LABELS = draw(3, 4).transpose(0, 2, 3, 1), np.arange(3)

NPZ_FAULTS = {
    "no images": ({"labels": LABELS}, "there is no 'images' in it"),
    "no labels": ({"images": IMAGES}, "there is no 'labels' in it"),
    "channels first": (
        {"images": draw(3, 4), "labels": LABELS},
        "'images' must be uint8 [n, H, H, 3], is uint8 [3, 3, 4, 4]",
    ),
    "not square": (
        {"images": IMAGES[:, :, :2], "labels": LABELS},
        "'images' must be uint8 [n, H, H, 3], is uint8 [3, 4, 2, 3]",
    ),
    "grey": ({"images": IMAGES[..., 0], "labels": LABELS}, "'images' must be uint8 [n, H, H, 3], is uint8 [3, 4, 4]"),
    "float": (
        {"images": IMAGES / 255, "labels": LABELS},
        "'images' must be uint8 [n, H, H, 3], is float64 [3, 4, 4, 3]",
    ),
    "empty": ({"images": IMAGES[:, :0, :0], "labels": LABELS}, "must be uint8 [n, H, H, 3], is uint8 [3, 0, 0, 3]"),
    "no image": ({"images": IMAGES[:0], "labels": LABELS[:0]}, "there are no images"),
    "one class": ({"images": IMAGES, "labels": 0 * LABELS}, "there is one class alone"),
    "negative": ({"images": IMAGES, "labels": LABELS - 1}, "label -1 of image 0 is not from 0 to 9999"),
    "too large": ({"images": IMAGES, "labels": LABELS + 9998}, "label 10000 of image 2 is not from 0 to 9999"),
    "near 2^64": (
        {"images": IMAGES, "labels": np.array([0, 1, 2**64 - 1], np.uint64)},
        "label 18446744073709551615 of image 2 is not from 0 to 9999",
    ),
    "fewer labels": ({"images": IMAGES, "labels": LABELS[:2]}, "there are 3 images and 2 labels"),
    "float labels": ({"images": IMAGES, "labels": LABELS / 2}, "'labels' must be integers [n], is float64 [3]"),
    "labels by class": (
        {"images": IMAGES, "labels": np.eye(3, dtype=int)},
        "'labels' must be integers [n], is int64 [3, 3]",
    ),
    "objects": (
        {"images": IMAGES, "labels": np.array([0, 1, 2], object)},
        "'labels' must be an array of plain numbers",
    ),
    "records": (
        {"images": IMAGES, "labels": np.zeros(3, [("a", "i8")])},
        "'labels' must be an array of plain numbers",
    ),
}


@pytest.mark.parametrize(("arrays", "reason"), NPZ_FAULTS.values(), ids=NPZ_FAULTS)
def test_odd_archives_are_refused(tmp_path: Path, arrays: dict[str, Any], reason: str) -> None:
    write_npz(tmp_path, "x", **arrays)
    assert refusal(tmp_path, "npz:x").endswith(reason)


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    write_npz(tmp_path, "x", images=IMAGES, labels=LABELS)
    whole = (tmp_path / "x.npz").read_bytes()
    for length in range(0, len(whole), 7):
        write(tmp_path, "x.npz", whole[:length])
        assert refusal(tmp_path, "npz:x").startswith("x.npz: it cannot be read: ")
    place = whole.index(IMAGES.tobytes())
    write(tmp_path, "x.npz", whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    assert refusal(tmp_path, "npz:x") == "x.npz: it cannot be read: Bad CRC-32 for file 'images.npy'"


def npy(header: str, content: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode("latin1") + content


@pytest.mark.parametrize(
    "member",
    [
        b"",
        b"no magic",
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 4, 4, 3)}\n", b"abc"),
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 4, 4, 3)}\n", b"a" * 47),
        npy("{'descr': '|O', 'fortran_order': False, 'shape': (3,)}\n", pickle.dumps([1, 2, 3])),
        npy("__import__('os').abort()\n"),
        npy("[" * 5000),
    ],
)
def test_headers_that_lie_are_refused(tmp_path: Path, member: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("images.npy", member)
        archive.writestr("labels.npy", b"")
    assert refusal(tmp_path, "npz:x").startswith("x.npz: ")


def test_archives_that_swell_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_formats, "MAX_BYTES", 2**20)
    np.savez_compressed(tmp_path / "x.npz", images=np.zeros((10**4, 8, 8, 3), np.uint8), labels=np.zeros(10**4, int))
    assert (tmp_path / "x.npz").stat().st_size < 10_000
    assert refusal(tmp_path, "npz:x") == "x.npz: 'images' would take 1920128 bytes; at most 1048576 are read"


def test_archives_that_swell_beyond_what_they_say_are_not_unpacked(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", images=np.zeros((10**4, 8, 8, 3), np.uint8), labels=np.zeros(10**4, int))
    whole = (tmp_path / "x.npz").read_bytes()
    write(tmp_path, "x.npz", whole.replace((1920128).to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    assert refusal(tmp_path, "npz:x").startswith("x.npz: it cannot be read: ")


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(tmp_path: Path, compression: int) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w", compression) as archive:
        archive.writestr("images.npy", b"x")
        archive.writestr("labels.npy", b"x")
    assert refusal(tmp_path, "npz:x") == "x.npz: 'images' is compressed in a way that numpy does not use"
