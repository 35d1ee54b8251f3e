"""What is found in a data directory, and that nothing outside of it is."""

import os
from pathlib import Path

import numpy as np
import pytest

from archscore_server.engine.datasets import (
    DatasetError,
    DatasetNotFoundError,
    Datasets,
    _files,
    file_of,
    is_known,
)
from support.images import draw, write, write_cifar10, write_cifar100, write_imagenet16, write_npz

SAMPLES = Path(os.environ.get("ARCHSCORE_TEST_DATA", "/nonexistent")) / "images"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data directory beside which there are other files."""
    directory = tmp_path / "data"
    directory.mkdir()
    return directory


def write_one(root: Path, name: str = "x", count: int = 4) -> None:
    write_npz(root, name, images=draw(count, 4).transpose(0, 2, 3, 1), labels=np.arange(count) % 3)


def refusal(root: Path, name: str) -> str:
    with pytest.raises(DatasetError) as caught:
        Datasets(root).read(name)
    assert not isinstance(caught.value, DatasetNotFoundError)
    return caught.value.reason


def test_it_lists_what_is_there(root: Path) -> None:
    assert Datasets(root).names() == []
    assert Datasets().names() == []
    write_one(root, "b")
    write_one(root, "a.b")
    write_imagenet16(root)
    write(root, "cifar-100-python/train", b"broken")
    write(root, "notes.txt", b"")
    write(root, "labels.npy", b"")
    write(root, ".npz", b"")
    assert Datasets(root).names() == ["cifar100", "imagenet16-120", "npz:a.b", "npz:b"]


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "imagenet16-120", "npz:x"])
def test_what_is_not_there_is_named(root: Path, name: str) -> None:
    for data in (Datasets(root), Datasets()):
        with pytest.raises(DatasetNotFoundError, match="looked for") as caught:
            data.open(name)
        assert caught.value.file == file_of(name)
        assert file_of(name) in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "npz:../secret",
        "npz:/etc/passwd",
        "npz:a/b",
        "npz:a\\b",
        "npz:.",
        "npz:..",
        "npz:.hidden",
        "npz:",
        "npz:x\n",
        "npz:x\0",
        "npz:é",
        "npz:" + "x" * 65,
        "../cifar10",
        "CIFAR10",
        "",
    ],
)
def test_other_names_are_unknown(root: Path, name: str) -> None:
    write_one(root.parent, "secret")
    assert not is_known(name)
    assert refusal(root, name).startswith("it is not in files: known are gaussian, cifar10,")


def test_links_within_the_directory_are_followed(root: Path) -> None:
    write_one(root, "x")
    (root / "y.npz").symlink_to("x.npz")
    (root.parent / "alias").symlink_to(root)
    assert Datasets(root.parent / "alias").read("npz:y").info.images == 4


def test_links_out_of_the_directory_are_not(root: Path) -> None:
    write_one(root.parent, "secret")
    (root / "x.npz").symlink_to("../secret.npz")
    assert refusal(root, "npz:x") == "x.npz: it is a link that leads out of the data directory"
    write_cifar100(root.parent)
    (root / "cifar-100-python").symlink_to("../cifar-100-python")
    assert refusal(root, "cifar100") == "cifar-100-python/train: it is a link that leads out of the data directory"
    (root / "gone.npz").symlink_to("../nowhere.npz")
    assert refusal(root, "npz:gone") == "gone.npz: No such file or directory"
    (root / "round.npz").symlink_to("round.npz")
    assert refusal(root, "npz:round").startswith("round.npz: ")


def test_what_is_no_file_is_not_opened(root: Path) -> None:
    (root / "directory.npz").mkdir()
    assert refusal(root, "npz:directory") == "directory.npz: it is not a file"
    os.mkfifo(root / "pipe.npz")
    assert refusal(root, "npz:pipe") == "pipe.npz: it is not a file"


def test_large_files_are_not_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_one(root)
    size = (root / "x.npz").stat().st_size
    monkeypatch.setattr(_files, "MAX_FILE_BYTES", size - 1)
    assert refusal(root, "npz:x") == f"x.npz: it has {size} bytes; at most {size - 1} are read"


def test_a_dataset_is_read_once(root: Path) -> None:
    write_one(root)
    data = Datasets(root)
    first = data.open("npz:x")
    (root / "x.npz").unlink()
    assert data.open("npz:x") is first
    with pytest.raises(DatasetNotFoundError):
        data.read("npz:x")


def test_memory_is_bounded(root: Path) -> None:
    for name in "abc":
        write_one(root, name)
    size = Datasets(root).read("npz:a").nbytes
    data = Datasets(root, max_bytes=2 * size)
    a, b = data.open("npz:a"), data.open("npz:b")
    assert data.open("npz:a") is a
    data.open("npz:c")
    assert data.open("npz:a") is a
    assert data.open("npz:b") is not b


def test_content_can_be_asked_for(root: Path) -> None:
    write_one(root)
    content = Datasets(root).read("npz:x").info.content_sha256
    data = Datasets(root)
    assert data.open("npz:x", content) is data.open("npz:x")
    write_one(root, count=5)
    with pytest.raises(DatasetError, match="its files have changed"):
        Datasets(root).open("npz:x", content)


def test_reasons_are_short_and_on_one_line(root: Path) -> None:
    write(root, "cifar-100-python/train", b"cos\xc3\xa9\n" + b"system" * 10_000 + b"\n.")
    reason = refusal(root, "cifar100")
    assert reason.isascii()
    assert "\n" not in reason
    assert len(reason) < 320


def test_a_directory_that_cannot_be_read(root: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Datasets(root / "nowhere").names()


def test_all_three_published_ones_together(root: Path) -> None:
    for writer in (write_cifar10, write_cifar100, write_imagenet16):
        writer(root)
    data = Datasets(root)
    assert [data.read(name).info.num_classes for name in data.names()] == [10, 100, 120]


@pytest.mark.skipif(not SAMPLES.is_dir(), reason="needs ARCHSCORE_TEST_DATA")
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_real_images(name: str) -> None:
    dataset = Datasets(SAMPLES).open(f"npz:{name}_sample1024")
    assert dataset.info.images == 1024
    assert dataset.info.num_classes == int(name.removeprefix("cifar"))
    assert dataset.info.resolution == 32
    # What is published for all of CIFAR-10 and CIFAR-100, to the second digit.
    np.testing.assert_allclose(dataset.mean, [0.49, 0.48, 0.45], atol=0.03)
    np.testing.assert_allclose(dataset.std, [0.25, 0.25, 0.26], atol=0.03)
