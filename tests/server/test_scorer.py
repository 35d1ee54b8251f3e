"""The engine as a scorer: where it differs from a client, in faults of the engine itself."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from archscore import ArchitectureError, ArchscoreError, DatasetNotFoundError
from archscore.spaces import nasbench201
from archscore_server import scorer as module
from archscore_server.engine import ArchitectureTooLargeError, DatasetError, evaluate_stacks
from archscore_server.scorer import EngineScorer

TINY = {"batch_size": 4, "resolution": 8, "nasbench201": {"channels": 2, "cells_per_stage": 1}}
CELLS = [nasbench201.from_index(index) for index in (6111, 81, 5)]


def score(scorer, cells=CELLS, config=TINY):
    return list(scorer.score_many(cells, ["naswot"], config=config))


def test_an_architecture_that_breaks_the_engine_fails_alone(monkeypatch):
    def breaking(architectures, *arguments, **options):
        if CELLS[1] in architectures:
            raise RuntimeError("no such luck")
        return evaluate_stacks(architectures, *arguments, **options)

    monkeypatch.setattr(module, "evaluate_stacks", breaking)
    fine, failed, also_fine = score(EngineScorer())
    assert fine.error is also_fine.error is None
    assert isinstance(failed.error, ArchitectureError)
    assert failed.error.reason == "ARCHITECTURE_FAILED"
    assert "no such luck" in str(failed.error)


def test_an_engine_that_breaks_half_way_answers_nobody_twice(monkeypatch):
    def breaking(architectures, *arguments, **options):
        yield next(evaluate_stacks(architectures, *arguments, **options))
        if len(architectures) > 1:
            raise RuntimeError("no such luck")

    monkeypatch.setattr(module, "evaluate_stacks", breaking)
    results = score(EngineScorer())
    assert [(result.index, result.error) for result in results] == [(0, None), (1, None), (2, None)]


def test_an_architecture_that_does_not_fit_fails_alone(monkeypatch):
    def small(architectures, *arguments, **options):
        for stack in evaluate_stacks(architectures, *arguments, **options):
            yield [(place, ArchitectureTooLargeError(2, 1) if place == 1 else found) for place, found in stack]

    monkeypatch.setattr(module, "evaluate_stacks", small)
    fine, large, also_fine = score(EngineScorer())
    assert fine.error is also_fine.error is None
    assert large.error.reason == "ARCHITECTURE_TOO_LARGE"


def test_real_images(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "mine.npz", images=rng.integers(0, 256, (8, 8, 8, 3), np.uint8), labels=np.arange(8) % 2)
    config = {"dataset": "npz:mine", "batch_size": 4, "nasbench201": TINY["nasbench201"]}
    results = score(EngineScorer(data_dir=tmp_path), config=config)
    assert [result.error for result in results] == [None] * 3
    assert results[0].evaluation.fingerprint.config.resolution == 8
    with pytest.raises(DatasetNotFoundError, match="mine"):
        score(EngineScorer(), config=config)


def test_a_dataset_that_breaks_ends_the_call(monkeypatch):
    def broken(*arguments, **options):
        raise DatasetError("npz:mine", "it was truncated")

    monkeypatch.setattr(module, "evaluate_stacks", broken)
    with pytest.raises(ArchscoreError, match="it was truncated"):
        score(EngineScorer())


async def test_it_can_be_made_and_used_inside_an_event_loop():
    assert asyncio.get_running_loop()
    assert len(score(EngineScorer(), CELLS[:1])) == 1
