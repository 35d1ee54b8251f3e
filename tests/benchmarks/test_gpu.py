"""gpu.py, as far as it can be seen without a GPU: everything runs on the CPU in tiny sizes."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import _gpu_sections as sections
import gpu
from _gpu_forms import FORMS
from _gpu_run import QUICK, Budget, Row, Run
from archscore.spaces.nasbench201 import parse
from references import plain_loop, toolkit
from score_nasbench201 import CELLS

CPU = torch.device("cpu")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def a_run(seconds: float = 1000.0, share: float = 1.0, **changes: object) -> Run:
    budget = Budget(seconds)
    budget.open(share)
    return Run(CPU, replace(QUICK, **changes), budget, [parse(cell) for cell in CELLS[:2]])


def test_shares_are_the_whole():
    assert sum(gpu.SHARES.values()) == pytest.approx(1)


def test_what_a_section_leaves_the_next_one_has():
    clock = Clock()
    budget = Budget(100, clock)
    budget.open(0.25)
    clock.now = 5
    assert budget.left == 20
    budget.open(0.25)
    assert budget.left == 45
    assert budget.allows(45)
    assert not budget.allows(46)


def test_the_engine_from_end_to_end(tmp_path, capsys):
    path = tmp_path / "gpu.json"
    only = "ceilings,golden,stacks,pipeline,forms,zen,tf32"
    assert gpu.main(["--device", "cpu", "--quick", "--only", only, "--json", str(path)]) == 0
    report = json.loads(path.read_text())
    rows = {(row["section"], row["what"]): row for row in report["rows"]}
    assert {section for section, _ in rows} == set(only.split(","))
    measured = {what: row["value"] for (_, what), row in rows.items() if row["value"] is not None}
    for batch in QUICK.batch_sizes:
        for size in QUICK.stack_sizes:
            assert measured[f"tcet, batch {batch}, stack {size}"] > 0
            assert measured[f"bundle, batch {batch}, stack {size}"] > 0
    assert measured["scores that match, float32"] == measured["scores that match, float64"] == 34 * QUICK.golden
    assert measured["tcet, stacks read before the next is launched"] > 0
    assert measured["tcet, stacks read behind the next"] > 0
    assert measured["3x3, 4 channels, grouped, channels_last (ours)"] > 0
    assert measured["stacked"] > 0 < measured["looped"]
    assert rows["tf32", "scores and speed"]["note"] == "skipped: the device has no TF32"
    assert rows["ceilings", "launches"]["note"] == "skipped: only on CUDA"
    output = capsys.readouterr().out
    assert all(what in output for _, what in rows)
    assert report["environment"]["device"] == "cpu"


@pytest.mark.parametrize("kernel", [1, 3])
def test_a_layer_has_the_same_derivatives_in_all_forms(kernel):
    torch.manual_seed(0)
    features, weights = torch.randn(3, 2, 4, 6, 6), torch.randn(3, 4, 4, kernel, kernel)
    close = {"rtol": 1e-4, "atol": 1e-4}
    [of_features, of_weights] = FORMS["batched products"](features, weights)()
    one_by_one = FORMS["one by one"](features, weights)()
    torch.testing.assert_close(torch.cat([own for own, _ in one_by_one]), of_features, **close)
    torch.testing.assert_close(torch.stack([own.flatten(1) for _, own in one_by_one]), of_weights, **close)
    for form in ("grouped, channels_last (ours)", "grouped, contiguous"):
        [own_features, own_weights] = FORMS[form](features, weights)()
        torch.testing.assert_close(
            own_features.unflatten(1, (3, 4)).transpose(0, 1).flatten(0, 1), of_features, **close
        )
        torch.testing.assert_close(own_weights.reshape(3, 4, -1), of_weights, **close)


def test_the_opponents_agree_and_one_that_cannot_be_had_is_skipped(tmp_path, monkeypatch):
    def install(directory: Path) -> None:
        raise OSError("no network")

    monkeypatch.setattr(toolkit, "install", install)
    first, *rows = sections.opponents(a_run(), directory=tmp_path)
    assert first.note == "skipped: cannot be had: no network"
    assert [row.what for row in rows] == [
        "tcet, archscore",
        "tcet, plain loop",
        "bundle, archscore",
        "bundle, plain loop",
    ]
    assert all(row.value for row in rows)


def test_an_opponent_that_fails_is_a_line():
    def broken(*_: object) -> None:
        raise ValueError("a tensor is on another device\nand more")

    row = sections._opponent_row(a_run(), "tcet, toolkit", broken, ["tcet"], 1.0)
    assert (row.value, row.note) == (None, "failed: ValueError: a tensor is on another device")


def test_what_there_is_no_time_for_is_said():
    rows = list(sections.stacks(a_run(seconds=0.0)))
    assert {row.note for row in rows} == {"skipped: no time"}
    rows = list(sections.golden(a_run(seconds=0.0)))
    assert [row.note for row in rows] == ["skipped: no time"] * 2


def test_memory_that_runs_out_ends_a_climb(monkeypatch):
    monkeypatch.setattr(sections, "run_stacks", lambda stacks, *_: all(len(cells) <= 2 for cells, _ in stacks))
    rows = {row.what: row for row in sections.stacks(a_run(stack_sizes=(1, 2, 4, 8), batch_sizes=(4,)))}
    assert rows["tcet, batch 4, stack 2"].value
    assert rows["tcet, batch 4, stack 4"].note == "skipped: memory ran out"
    assert "tcet, batch 4, stack 8" not in rows


def test_no_larger_stacks_than_there_is_memory_for(monkeypatch):
    monkeypatch.setattr(sections, "usable_bytes", lambda device: 1)
    row, *_ = sections.stacks(a_run())
    assert row.note.startswith("skipped: the network takes")
    monkeypatch.setattr(sections, "fits", lambda *_, **__: 1)
    _, row, *_ = sections.stacks(a_run())
    assert row.note == "skipped: there is memory for 1, as predicted"


def test_a_score_that_is_off_is_a_fault(monkeypatch):
    monkeypatch.setattr(sections, "_deviations", lambda *_: {"tcet": 0.5, "snip": float("nan"), "zen": 1.5})
    for row in sections.golden(a_run(golden=1)):
        assert row.fault
        assert row.value == 1
        assert "wrong: snip of" in row.note


def test_without_what_the_service_needs_it_is_skipped(monkeypatch):
    monkeypatch.setattr(sections, "_SERVICE", ("grpc", "no_such_module"))
    [row] = sections.service(a_run())
    assert row.note == "skipped: these are not installed: no_such_module"


def test_a_section_that_fails_is_a_fault_and_the_others_go_on(monkeypatch):
    def broken(run: Run) -> Iterator[Row]:
        yield Row("ceilings", "something", 1.0)
        raise RuntimeError("CUDA error")

    kept = []
    monkeypatch.setattr(sections, "ceilings", broken)
    rows = gpu.measure(a_run(share=0.0), ["ceilings", "tf32"], Path("nowhere"), lambda own: kept.append(len(own)))
    assert [(row.section, row.fault) for row in rows] == [("ceilings", False), ("ceilings", True), ("tf32", False)]
    assert kept == [2, 3]


def test_without_a_gpu_it_does_not_pretend(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "torch sees no GPU" in capsys.readouterr().err


@pytest.mark.gpu
def test_the_plain_loop_on_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    setting = {"channels": 8, "cells_per_stage": 1, "batch_size": 16, "resolution": 16, "num_classes": 10, "seed": 0}
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        here, there = (
            plain_loop.score(parse(CELLS[0]), plain_loop.PROXIES, **setting, device=device)
            for device in ("cpu", "cuda")
        )
    np.testing.assert_allclose(list(there.values()), list(here.values()), rtol=1e-2)
