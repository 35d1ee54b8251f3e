import json
import logging
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from archscore.spaces import nasbench201, zennas
from archscore_server.engine import EvaluationConfig, Precision
from archscore_server.engine.stack_sizes import (
    FILE_NAME,
    Machine,
    StackSizes,
    Tuned,
    Workload,
    default_directory,
    record,
)

MACHINE = Machine(device_kind="cuda", device_name="a GPU", threads=4, torch_version="2.9.0+cu130", kernels="")
CONFIG = EvaluationConfig()
WORKLOAD = Workload.of(["tcet"], CONFIG)
TUNED = Tuned(64, {32: 900.0, 64: 1000.0})


def test_what_is_recorded_is_found(tmp_path):
    directory = tmp_path / "made" / "of two"
    path = record(directory, MACHINE, WORKLOAD, TUNED)
    other = Workload.of(["zen"], EvaluationConfig(network=zennas.NetworkConfig(), precision=Precision.TF32))
    record(directory, MACHINE, other, Tuned(8, {8: 1.0}))
    record(directory, MACHINE, WORKLOAD, replace(TUNED, stack_size=32))
    found = StackSizes.read(directory)
    assert (found.find(MACHINE, WORKLOAD), found.find(MACHINE, other)) == (32, 8)
    assert sorted(found.of(MACHINE)) == [8, 32]
    assert list(directory.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize(
    "change",
    [
        {"device_name": "another"},
        {"threads": 1},
        {"torch_version": "2.10.0"},
        {"device_kind": "cpu"},
        {"kernels": "v3"},
    ],
    ids=str,
)
def test_another_machine_has_its_own(change):
    found = StackSizes({(MACHINE, WORKLOAD): TUNED})
    assert found.find(replace(MACHINE, **change), WORKLOAD) is None
    assert found.of(replace(MACHINE, **change)) == []


@pytest.mark.parametrize(
    ("proxies", "config"),
    [
        (["tcet", "synflow"], CONFIG),
        (["snip"], CONFIG),
        (["tcet"], replace(CONFIG, batch_size=32)),
        (["tcet"], replace(CONFIG, resolution=16)),
        (["tcet"], replace(CONFIG, num_classes=100)),
        (["tcet"], replace(CONFIG, precision=Precision.FLOAT64)),
        (["tcet"], replace(CONFIG, network=nasbench201.NetworkConfig(channels=8))),
        (["tcet"], replace(CONFIG, network=zennas.NetworkConfig())),
    ],
)
def test_other_work_has_its_own(proxies, config):
    assert Workload.of(proxies, config) != WORKLOAD


@pytest.mark.parametrize(
    ("proxies", "config"),
    [
        (["tcet", "snip"], CONFIG),
        (["flops", "tcet"], CONFIG),
        (["tcet"], replace(CONFIG, seed=7, repeats=3)),
        (["tcet"], replace(CONFIG, dataset="cifar10")),
    ],
)
def test_what_takes_as_long_is_the_same_work(proxies, config):
    assert Workload.of(proxies, config) == WORKLOAD


def broken(**changes: object) -> str:
    entry = {
        "machine": {"device_kind": "cpu", "device_name": "a CPU", "threads": 1, "torch_version": "2", "kernels": "v4"},
        "workload": {
            "space": "nasbench201",
            "passes": ["train"],
            "batch_size": 64,
            "resolution": 32,
            "num_classes": 10,
            "precision": "float32",
            "network": {"channels": 16},
        },
        "stack_size": 4,
        "per_second": {"4": 1.0},
    }
    return json.dumps({"format": "archscore stack sizes", "version": 1, "entries": [{**entry, **changes}]})


def test_the_example_of_broken_files_is_right_but_for_the_changes(tmp_path):
    (tmp_path / FILE_NAME).write_text(broken())
    assert [found.stack_size for found in StackSizes.read(tmp_path).entries.values()] == [4]


UNUSABLE = {
    "empty": "",
    "cut off": broken()[:-20],
    "not UTF-8": b"\xff\xfe",
    "a list": "[]",
    "foreign": '{"lockfileVersion": 3}',
    "newer": broken().replace('"version": 1', '"version": 2'),
    "nested": "[" * 100_000,
    "no entries": '{"format": "archscore stack sizes", "version": 1}',
    "entries of another kind": '{"format": "archscore stack sizes", "version": 1, "entries": [3]}',
    "size 0": broken(stack_size=0),
    "size of a million": broken(stack_size=1_000_000),
    "size true": broken(stack_size=True),
    "size in words": broken(stack_size="4"),
    "no machine": broken(machine={}),
    "machine of lists": broken(
        machine={"device_kind": [], "device_name": "a CPU", "threads": 1, "torch_version": "2", "kernels": "v4"}
    ),
    "rates": broken(per_second={"four": 1}),
}


@pytest.mark.parametrize("content", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_what_cannot_be_used_is_a_warning_and_is_replaced(content, tmp_path, caplog):
    path = tmp_path / FILE_NAME
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert StackSizes.read(tmp_path).entries == {}
    [warning] = caplog.records
    assert warning.levelno == logging.WARNING
    assert str(path) in warning.getMessage()
    record(tmp_path, MACHINE, WORKLOAD, TUNED)
    assert StackSizes.read(tmp_path).find(MACHINE, WORKLOAD) == 64


@pytest.mark.parametrize("directory", [None, Path("/no/such/directory"), Path(__file__)], ids=str)
def test_nothing_is_kept_where_nothing_is(directory, caplog):
    assert StackSizes.read(directory).entries == {}
    assert caplog.records == []


def test_a_write_that_fails_leaves_what_was(tmp_path, monkeypatch):
    record(tmp_path, MACHINE, WORKLOAD, TUNED)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        record(tmp_path, MACHINE, WORKLOAD, replace(TUNED, stack_size=1))
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    assert StackSizes.read(tmp_path).find(MACHINE, WORKLOAD) == 64


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"XDG_CACHE_HOME": "/cache", "HOME": "/home/a"}, Path("/cache/archscore")),
        ({"HOME": "/home/a"}, Path("/home/a/.cache/archscore")),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/home/a"}, Path("/home/a/.cache/archscore")),
        ({"HOME": "relative"}, None),
    ],
)
def test_default_directory(variables, expected, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert default_directory() == expected
