from __future__ import annotations

import os
from pathlib import Path

import pytest

from archscore_server.pool._cores import share, split, usable_cores


@pytest.mark.parametrize(
    ("quota", "bound", "cores"),
    [
        ("max 100000", 8, 8),
        ("250000 100000", 8, 2),
        ("50000 100000", 8, 1),
        ("1600000 100000", 8, 8),
        ("nonsense", 8, 8),
        (None, 8, 8),
    ],
)
def test_cores_are_bound_and_rationed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str | None, bound: int, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(bound)))
    file = tmp_path / "cpu.max"
    if quota:
        file.write_text(quota + "\n")
    assert usable_cores(file) == cores


@pytest.mark.parametrize(
    ("workers", "threads", "expected"),
    [
        (None, None, (8, 1)),
        (2, None, (2, 4)),
        (None, 4, (2, 4)),
        (3, 5, (3, 5)),
        (16, None, (16, 1)),
        (None, 16, (1, 16)),
    ],
)
def test_what_is_not_asked_for_follows(workers: int | None, threads: int | None, expected: tuple[int, int]) -> None:
    assert split(8, workers, threads) == expected


@pytest.mark.parametrize(
    ("gpus", "workers", "threads", "expected"),
    [
        (2, None, None, (2, 4)),
        (2, 4, None, (4, 2)),
        (2, None, 1, (2, 1)),
        (16, None, None, (16, 1)),
        (0, None, None, (8, 1)),
        (0, 2, None, (2, 4)),
    ],
)
def test_gpus_have_a_worker_each(
    gpus: int, workers: int | None, threads: int | None, expected: tuple[int, int]
) -> None:
    assert share(8, gpus, workers, threads) == expected
