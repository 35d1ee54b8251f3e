"""A study of a few cells whose scores and accuracies are invented."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from archscore.study._cells import random_cells
from archscore.study._file import ScoreFile
from archscore.study._rows import ProxyInfo, Row, Setting

COUNT = 60
COLUMNS = ("cifar10_test", "cifar100_test", "imagenet16_120_test", "cifar10_valid")

#: `ssnr` ranks right, `te_score` the other way round, `snip` hardly at all; all needed for TE-NAS are there.
PROXIES: Mapping[str, ProxyInfo] = {
    "linear_regions": ProxyInfo(1, True, ("train",)),
    "ntk_condition_number": ProxyInfo(1, False, ("ntk",)),
    "parameters": ProxyInfo(1, True, ()),
    "snip": ProxyInfo(1, True, ("train",)),
    "ssnr": ProxyInfo(1, True, ("train",)),
}
RUN = {"archscore": "1.2.3", "torch": "9.9", "device": "cpu (abacus)", "seconds": "of CPU time", "started": "today"}


def accuracy(place: int, column: int) -> float:
    return 50 + place / 2 - column


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    """A file of scores: the further a cell comes in the order, the better its network, but for the first two, which are
    disconnected."""
    path = tmp_path / "scores.parquet"
    noise = np.random.default_rng(0).random((COUNT, 3))
    setting = Setting(0, {"batchSize": 64, "dataset": "gaussian"}, PROXIES)
    with ScoreFile.open_for(path, setting, RUN) as file:
        for place, cell in enumerate(random_cells(COUNT, seed=0)):
            values: dict[str, float | str] = {
                "linear_regions": float(noise[place, 0]),
                "ntk_condition_number": float(-place + 20 * noise[place, 1]),
                "parameters": float(place % 7),
                "snip": float(noise[place, 2]),
                "ssnr": float(place),
            }
            if place < 2:
                values |= dict.fromkeys(("linear_regions", "ntk_condition_number", "snip", "ssnr"), "degenerate")
            elif place == 2:
                values["ntk_condition_number"] = "non_finite"
            seconds = {} if place < 2 else {"train": 0.5, "ntk": 1.5}
            file.add(Row(cell.index, values, seconds))
    return path


@pytest.fixture
def accuracies(tmp_path: Path) -> Path:
    """A table of the accuracies of the same cells, and of one more."""
    path = tmp_path / "accuracy.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["architecture", *COLUMNS])
        for place, cell in enumerate(random_cells(COUNT + 1, seed=0)):
            writer.writerow([cell.format(), *(accuracy(place, column) for column in range(len(COLUMNS)))])
    return path
