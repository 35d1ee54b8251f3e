"""Stacks that are built before they are asked for: what a GPU has, tried on the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from archscore.spaces import Architecture, nasbench201, zennas
from archscore_server.engine import (
    EvaluationConfig,
    _ahead,
    evaluate,
    evaluate_stacks,
    evaluation,
    minibatches,
    passes,
    proxies,
    tables,
)
from archscore_server.engine._ahead import Ahead
from archscore_server.engine.minibatches import RECENT, RecentMinibatches
from archscore_server.engine.networks import Stack
from archscore_server.engine.networks.nasbench201 import NasBench201Stack
from archscore_server.engine.tables import TABLES, WeightTables

CPU = torch.device("cpu")
CONFIG = EvaluationConfig(
    batch_size=4, resolution=8, network=nasbench201.NetworkConfig(channels=4, cells_per_stage=1), repeats=2
)
CELLS: list[Architecture] = [nasbench201.from_index(index) for index in (6111, 1462, 13714, 81, 9930)]
NOTHING: tuple[list[Architecture], list[int]] = ([], [])


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, ...]]]:
    """Has stacks built ahead on the CPU, too; the networks of each that is built, as indices of cells."""
    build, found = _ahead.build, []

    def watched(architectures: Sequence[Architecture], *arguments: Any, **options: Any) -> Any:
        found.append(tuple(CELLS.index(own) for own in architectures if own in CELLS))
        return build(architectures, *arguments, **options)

    def always(*arguments: Any, **options: Any) -> Ahead:
        return Ahead(*arguments, **{**options, "ahead": True})

    monkeypatch.setattr(_ahead, "build", watched)
    monkeypatch.setattr(evaluation, "Ahead", always)
    TABLES.clear(CPU)
    RECENT.clear(CPU)
    yield found
    TABLES.clear(CPU)
    RECENT.clear(CPU)


def test_the_next_stack_is_there_when_the_host_first_waits(built: list[tuple[int, ...]]) -> None:
    ahead = Ahead(CONFIG, None, CPU, needs=["snip", "gradient_ratio"], single=False, ahead=True)
    stack = ahead.build(CELLS[:2], [0, 0], then=(CELLS[2:4], [1, 1]))
    assert built == [(0, 1)]
    kept = TABLES.nbytes(CPU), RECENT.nbytes(CPU)
    stack.read(torch.zeros(1))
    assert built == [(0, 1), (2, 3)]
    assert TABLES.nbytes(CPU) > kept[0]
    assert RECENT.nbytes(CPU) > kept[1]
    stack.read(torch.zeros(1))
    assert built == [(0, 1), (2, 3)], "once"
    following = ahead.build(CELLS[2:4], [1, 1], then=NOTHING)
    assert built == [(0, 1), (2, 3)]
    assert following.seeds == (1, 1)
    following.read(torch.zeros(1))
    assert built == [(0, 1), (2, 3)], "nothing comes next"


@pytest.mark.parametrize("other", [(CELLS[2:3], [1]), (CELLS[2:4], [1, 2]), (CELLS[3:1:-1], [1, 1])])
def test_a_stack_that_is_not_what_was_expected_is_built(
    built: list[tuple[int, ...]], other: tuple[list[Architecture], list[int]]
) -> None:
    ahead = Ahead(CONFIG, None, CPU, needs=["snip"], single=False, ahead=True)
    ahead.build(CELLS[:2], [0, 0], then=(CELLS[2:4], [1, 1])).before_waiting()
    stack = ahead.build(*other, then=NOTHING)
    assert len(built) == 3
    assert stack.seeds == tuple(other[1])


def test_on_a_cpu_nothing_is_built_ahead(monkeypatch: pytest.MonkeyPatch, built: list[tuple[int, ...]]) -> None:
    monkeypatch.setattr(evaluation, "Ahead", Ahead)
    monkeypatch.setattr(Ahead, "_build_ahead", lambda *_: pytest.fail("built ahead"))
    evaluate(CELLS, ["tcet"], CONFIG, stack_size=2)
    assert len(built) == 5


@pytest.mark.parametrize(
    "wanted", [["tcet"], ["naswot"], ["zen"], ["zico"], proxies.names()], ids=["tcet", "naswot", "zen", "zico", "all"]
)
def test_scores_are_the_same_and_no_stack_is_built_twice(built: list[tuple[int, ...]], wanted: list[str]) -> None:
    scores = evaluate(CELLS, wanted, CONFIG, stack_size=2)
    assert built == [(0, 1), (0, 1), (2, 3), (2, 3), (4, 4)], "the last with both seeds"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "Ahead", Ahead)
        assert evaluate(CELLS, wanted, CONFIG, stack_size=2) == scores


@pytest.mark.parametrize("wanted", [["tcet"], ["l2_norm", "tcet"], ["zen"], ["l2_norm", "synflow"]], ids=str)
def test_the_device_has_work_when_the_next_stack_is_built(
    monkeypatch: pytest.MonkeyPatch, built: list[tuple[int, ...]], wanted: list[str]
) -> None:
    events: list[str] = []
    forward, build_ahead = NasBench201Stack.forward, Ahead._build_ahead
    monkeypatch.setattr(
        NasBench201Stack, "forward", lambda *own, **options: events.append("run") or forward(*own, **options)
    )
    monkeypatch.setattr(Ahead, "_build_ahead", lambda *own: events.append("build ahead") or build_ahead(*own))
    evaluate(CELLS[:2], wanted, CONFIG, stack_size=2)
    assert events.count("build ahead") == 1
    assert events[0] == "run"
    assert built == [(0, 1), (0, 1)]


def test_weights_and_minibatches_are_those_that_the_passes_take(built: list[tuple[int, ...]]) -> None:
    """Nothing is drawn later, and nothing else was: of Zen, normal weights and two Gaussian minibatches."""
    images = 4 * (3 * 8 * 8 * 4 + 8)
    for needs, drawn in ((["zen"], 2), (["gradient_ratio"], 2), (["snip"], 1), (["synflow", "weight_norm"], 0)):
        TABLES.clear(CPU)
        RECENT.clear(CPU)
        ahead = Ahead(CONFIG, None, CPU, needs=needs, single=False, ahead=True)
        ahead.build(CELLS[:1], [0], then=(CELLS[2:4], [1, 1])).before_waiting()
        stack = ahead.build(CELLS[2:4], [1, 1], then=NOTHING)
        kept = TABLES.nbytes(CPU), RECENT.nbytes(CPU)
        assert kept[0] > 0
        assert kept[1] == drawn * images, needs
        passes.run(stack, needs, CONFIG)
        assert (TABLES.nbytes(CPU), RECENT.nbytes(CPU)) == kept, needs
    assert len(built) == 8


def test_what_would_not_stay_is_not_drawn_ahead(monkeypatch: pytest.MonkeyPatch, built: list[tuple[int, ...]]) -> None:
    monkeypatch.setattr(tables, "TABLES", WeightTables(max_bytes=100))
    monkeypatch.setattr(minibatches, "RECENT", RecentMinibatches(max_bytes=100))
    monkeypatch.setattr(tables.TABLES, "grow", lambda *_: pytest.fail("drawn"))
    monkeypatch.setattr(minibatches.RECENT, "get", lambda *_: pytest.fail("drawn"))
    ahead = Ahead(CONFIG, None, CPU, needs=["snip"], single=False, ahead=True)
    ahead.build(CELLS[:1], [0], then=(CELLS[2:4], [1, 1])).before_waiting()
    assert built == [(0,), (2, 3)]


def test_where_memory_runs_out_ahead_the_present_stack_goes_on(
    monkeypatch: pytest.MonkeyPatch, built: list[tuple[int, ...]]
) -> None:
    expected = evaluate(CELLS, ["snip"], CONFIG, stack_size=2)
    prepare, tried = passes.prepare, []

    def short(stack: Stack, *arguments: Any) -> None:
        prepare(stack, *arguments)
        tried.append(TABLES.nbytes(CPU))
        raise MemoryError("CUDA out of memory")

    monkeypatch.setattr(passes, "prepare", short)
    built.clear()
    assert evaluate(CELLS, ["snip"], CONFIG, stack_size=2) == expected
    assert len(tried) == 1, "it is not tried again"
    assert tried[0] > 0
    assert built == [(0, 1), (0, 1), (0, 1), (2, 3), (2, 3), (4, 4)], "the second twice"


def test_a_stack_that_runs_out_of_memory_is_halved_with_stacks_ahead(
    monkeypatch: pytest.MonkeyPatch, built: list[tuple[int, ...]]
) -> None:
    expected = evaluate(CELLS, ["snip"], CONFIG, stack_size=1)
    forward = NasBench201Stack.forward

    def short(stack: NasBench201Stack, *arguments: Any, **options: Any) -> Any:
        if stack.networks > 1:
            raise MemoryError
        return forward(stack, *arguments, **options)

    monkeypatch.setattr(NasBench201Stack, "forward", short)
    found = evaluate(CELLS, ["snip"], CONFIG, stack_size=4)
    for own, other in zip(found, expected, strict=True):
        assert own.scores["snip"].value == pytest.approx(other.scores["snip"].value, rel=1e-4)
    assert len(built) > len(CELLS)


def test_the_next_genome_is_built_ahead(monkeypatch: pytest.MonkeyPatch, built: list[tuple[int, ...]]) -> None:
    config = EvaluationConfig(batch_size=2, resolution=8, network=zennas.NetworkConfig())
    started: list[Architecture] = []
    take = Ahead._take

    def watched(ahead: Ahead, architectures: Sequence[Architecture], seeds: Sequence[int]) -> Any:
        stack = take(ahead, architectures, seeds)
        started.append(architectures[0])
        assert (stack is None) == (len(started) == 1)
        return stack

    monkeypatch.setattr(Ahead, "_take", watched)
    genomes: list[Architecture] = [zennas.START, zennas.parse("SuperConvK3BNRELU(3,8,1,1)"), zennas.START]
    evaluate(genomes, ["snip"], config)
    assert started == genomes
    assert len(built) == 3


def test_what_fails_ahead_fails_when_it_is_due(monkeypatch: pytest.MonkeyPatch, built: list[tuple[int, ...]]) -> None:
    build = _ahead.build

    def faulty(architectures: Sequence[Architecture], *arguments: Any, **options: Any) -> Any:
        stack = build(architectures, *arguments, **options)
        if CELLS[2] in architectures:
            raise RuntimeError("no such convolution")
        return stack

    monkeypatch.setattr(_ahead, "build", faulty)
    stacks = evaluate_stacks(CELLS, ["snip"], replace(CONFIG, repeats=1), stack_size=2)
    assert [index for index, _ in next(stacks)] == [0, 1]
    with pytest.raises(RuntimeError, match="no such convolution"):
        next(stacks)
    assert built == [(0, 1), (2, 3), (2, 3)]
