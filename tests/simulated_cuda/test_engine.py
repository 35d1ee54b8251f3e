"""The engine on a GPU: what its programmer can get wrong there, as far as it shows without one."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from archscore.spaces import Architecture, nasbench201, zennas
from archscore_server.engine import (
    ArchitectureTooLargeError,
    Datasets,
    Evaluation,
    EvaluationConfig,
    _launch,
    _pipeline,
    codes,
    evaluate,
    evaluate_stacks,
    kernels,
    minibatches,
    passes,
    predicted_bytes,
    readings,
    tables,
)
from archscore_server.engine import proxies as registry
from archscore_server.engine.config import Precision
from archscore_server.engine.networks import build
from archscore_server.engine.statistics import Pass
from archscore_server.engine.tuning import tune
from archscore_server.engine.work import predicted_work
from archscore_server.pool._torch_engine import TorchEngine
from archscore_server.scorer import EngineScorer
from golden_cases import PRECISIONS, architecture, case_id, cases, engine_config, tolerance
from simulated_cuda.device import CUDA, Device, simulated

CELLS: list[Architecture] = [nasbench201.from_index(index) for index in (6111, 1462, 13714, 81, 9930, 15000, 4242)]
GENOME = zennas.parse(
    "SuperConvK3BNRELU(3,8,1,1)SuperResK1K5K1(8,16,2,8,1)SuperResIDWE2K3(16,16,1,16,1)SuperResK3K3(16,24,2,8,2)"
)
CONFIG = EvaluationConfig(batch_size=8, resolution=16, network=nasbench201.NetworkConfig(channels=4, cells_per_stage=1))
GENOME_CONFIG = EvaluationConfig(batch_size=8, resolution=16, repeats=4, network=zennas.NetworkConfig(True))

#: The cases whose reference scores take least.
GOLDEN = sorted(cases(), key=lambda case: predicted_work(architecture(case), ["tcet"], engine_config(case, "float32")))[
    :8
]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", GOLDEN, ids=case_id)
def test_reference_scores(device: Device, golden_data: Path, case: dict[str, Any], precision: str) -> None:
    config = engine_config(case, precision)
    [found] = evaluate([architecture(case)], registry.names(), config, data=Datasets(golden_data), device=CUDA)
    assert device.launches > 0 or case["outcome"] != "OK"
    for name, score in found.scores.items():
        if name in case["scores"]:
            assert score.value == pytest.approx(case["scores"][name], rel=tolerance(name, precision)), name
        else:
            assert score.value is None, name


def by_torch(
    architectures: Sequence[Architecture], proxies: Sequence[str], config: EvaluationConfig, size: int
) -> list[Evaluation]:
    """The scores by the same operations on the CPU."""
    with kernels.off():
        return evaluate(architectures, proxies, config, stack_size=size)


@pytest.mark.parametrize(
    "proxies", [["tcet"], ["zen"], ["zico", "snip"], registry.names()], ids=["tcet", "zen", "zico", "all"]
)
def test_cells_score_as_on_a_cpu(device: Device, proxies: list[str]) -> None:
    assert close(evaluate(CELLS, proxies, CONFIG, device=CUDA, stack_size=3), by_torch(CELLS, proxies, CONFIG, 3))


@pytest.mark.parametrize("proxies", [["tcet"], registry.names()], ids=["tcet", "all"])
def test_genomes_score_as_on_a_cpu(device: Device, proxies: list[str]) -> None:
    genomes = [GENOME, zennas.START]
    found = evaluate(genomes, proxies, GENOME_CONFIG, device=CUDA, stack_size=3)
    assert close(found, by_torch(genomes, proxies, GENOME_CONFIG, 3))


def close(found: Sequence[Evaluation], expected: Sequence[Evaluation]) -> bool:
    for own, other in zip(found, expected, strict=True):
        for name, score in own.scores.items():
            assert score.outcome is other.scores[name].outcome, name
            assert score.value == pytest.approx(other.scores[name].value, rel=1e-4), name
    return True


@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.FLOAT64])
@pytest.mark.parametrize("space", ["nasbench201", "zennas"])
def test_a_stack_is_queued_without_a_wait_and_read_with_one(device: Device, space: str, precision: Precision) -> None:
    architectures, config = (CELLS[:3], CONFIG) if space == "nasbench201" else ([GENOME] * 3, GENOME_CONFIG)
    config = replace(config, precision=precision, repeats=1)
    launched = _launch.launch(architectures, [0, 1, 2], registry.names(), config, None, CUDA)
    assert launched is not None
    assert device.waits == []
    told: list[Pass] = []
    launched.scores(lambda name, seconds: told.append(name) if seconds > 0 else None)
    assert [wait.what for wait in device.waits if not wait.aside] == ["event"]
    assert set(told) == set(Pass)


def test_matrices_that_are_nearly_singular_are_looked_at_beside_the_next_stack(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = by_torch(CELLS, ["tcet", "naswot"], CONFIG, 3)
    monkeypatch.setattr(codes, "_MARGIN", 1e15)  # now all are
    found = evaluate(CELLS, ["tcet", "naswot"], CONFIG, device=CUDA, stack_size=3)
    assert close(found, expected)
    assert any(wait.aside for wait in device.waits)
    assert {wait.what for wait in device.waits if not wait.aside} == {"event"}


def test_a_stack_is_read_when_the_next_has_been_queued(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    launch, scores = _launch.launch, _launch.Launched.scores

    def launched(*arguments: Any, **options: Any) -> _launch.Launched | None:
        events.append("launch")
        return launch(*arguments, **options)

    def read(own: _launch.Launched, *arguments: Any) -> Any:
        events.append("read")
        return scores(own, *arguments)

    monkeypatch.setattr(_pipeline, "launch", launched)
    monkeypatch.setattr(_launch.Launched, "scores", read)
    for results in evaluate_stacks(CELLS, ["tcet"], CONFIG, device=CUDA, stack_size=3):
        events.append(f"answer {len(results)}")
    assert events == ["launch", "launch", "read", "answer 3", "launch", "read", "answer 3", "read", "answer 1"]


#: The proxies of each pass, and some together.
PROXIES = {
    own.value: [name for name in registry.names() if set(registry.get(name).passes) == {own}] for own in Pass
} | {
    "codes": ["naswot"],
    "tcet": ["tcet"],
    "all": registry.names(),
}


@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.FLOAT64])
@pytest.mark.parametrize("proxies", PROXIES.values(), ids=PROXIES)
@pytest.mark.parametrize("own", [CELLS[0], GENOME], ids=["cell", "genome"])
def test_memory_is_predicted(own: Architecture, proxies: list[str], precision: Precision) -> None:
    """With a stack of the same before it, which has not been read."""
    space = nasbench201.NetworkConfig(channels=8, cells_per_stage=2) if own is CELLS[0] else zennas.NetworkConfig()
    config = EvaluationConfig(batch_size=32, resolution=16, precision=precision, network=space)
    spent, left = spent_and_left(own, proxies, config)
    predicted = predicted_bytes(own, proxies, config, device="cuda")
    assert spent <= predicted <= 1.2 * spent
    assert left <= 0.1 * spent, "what is kept until the stack is read"


def spent_and_left(own: Architecture, proxies: Sequence[str], config: EvaluationConfig) -> tuple[int, int]:
    """The most bytes that two stacks take, one behind the other, and what one leaves until it is read."""
    with (
        simulated() as device,
        patch.object(tables, "TABLES", tables.WeightTables(max_bytes=0)),
        patch.object(minibatches, "RECENT", minibatches.RecentMinibatches(max_bytes=0)),
    ):
        first = _launch.launch([own], [0], proxies, config, None, CUDA)
        gc.collect()
        left = device.memory.alive()
        second = _launch.launch([own], [0], proxies, config, None, CUDA)
        assert first is not None
        assert second is not None
        first.scores()
        second.scores()
        return device.memory.peak, left


@pytest.mark.parametrize("proxies", [["layerwise_naswot"], ["layerwise_naswot", "naswot"]], ids=str)
def test_memory_is_predicted_where_much_waits_to_be_read(proxies: list[str]) -> None:
    config = replace(CONFIG, batch_size=256, resolution=8)
    spent, left = spent_and_left(CELLS[0], proxies, config)
    predicted = predicted_bytes(CELLS[0], proxies, config, device="cuda")
    assert spent <= predicted <= 1.45 * spent
    assert left >= 0.05 * spent, "or this shows nothing"


def test_codes_of_any_length_are_predicted() -> None:
    config = replace(CONFIG, batch_size=32, resolution=52)
    spent, _ = spent_and_left(CELLS[0], ["layerwise_naswot"], config)
    assert spent <= predicted_bytes(CELLS[0], ["layerwise_naswot"], config, device="cuda") <= 1.2 * spent


def test_where_memory_runs_out_stacks_are_halved_and_every_cell_is_scored() -> None:
    expected = by_torch(CELLS, ["tcet"], CONFIG, 4)
    sizes: list[int] = []

    def watched(own: Sequence[Architecture], *arguments: Any, **options: Any) -> Any:
        sizes.append(len(own))
        return build(own, *arguments, **options)

    with (
        simulated(capacity=3 * predicted_bytes(CELLS[5], ["tcet"], CONFIG, device="cuda")),
        patch.object(_launch, "build", watched),
    ):
        found = evaluate(CELLS, ["tcet"], CONFIG, device=CUDA, stack_size=4, available_bytes=2**40)
    assert close(found, expected)
    assert max(sizes) == 4
    assert sizes[-1] < 4


def test_where_memory_runs_out_for_what_is_under_way_the_stack_is_tried_again_as_it_is() -> None:
    config = replace(CONFIG, batch_size=256, resolution=8)
    own = [CELLS[0], CELLS[2], CELLS[4]]
    alone, left = max(spent_and_left(cell, ["layerwise_naswot"], config) for cell in own)
    sizes: list[int] = []

    def watched(own: Sequence[Architecture], *arguments: Any, **options: Any) -> Any:
        sizes.append(len(own))
        return build(own, *arguments, **options)

    with (
        simulated(capacity=alone - left // 2),  # for one, but not while another is to be read
        patch.object(tables, "TABLES", tables.WeightTables(max_bytes=0)),
        patch.object(minibatches, "RECENT", minibatches.RecentMinibatches(max_bytes=0)),
        patch.object(_launch, "build", watched),
    ):
        found = evaluate(own, ["layerwise_naswot"], config, device=CUDA, stack_size=1, available_bytes=2**40)
    assert close(found, by_torch(own, ["layerwise_naswot"], config, 1))
    assert len(sizes) > len(own), "some were tried twice"


@pytest.mark.parametrize("proxies", [["tcet"], ["tcet", "zen"]], ids=str)
@pytest.mark.parametrize("fails", [1, 2, 3])
def test_where_memory_runs_out_while_a_stack_is_read_it_is_halved(
    device: Device,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    proxies: list[str],
    fails: int,
) -> None:
    finish, sizes, calls = passes.Running.finish, [], []

    def short_of_memory(running: passes.Running, *arguments: Any) -> Any:
        calls.append(running)
        if len(calls) <= fails:
            raise torch.OutOfMemoryError("CUDA out of memory (at reading)")
        return finish(running, *arguments)

    def watched(own: Sequence[Architecture], *arguments: Any, **options: Any) -> Any:
        sizes.append(len(own))
        return build(own, *arguments, **options)

    monkeypatch.setattr(passes.Running, "finish", short_of_memory)
    monkeypatch.setattr(_launch, "build", watched)
    answers = [
        index for results in evaluate_stacks(CELLS, proxies, CONFIG, device=CUDA, stack_size=4) for index, _ in results
    ]
    assert sorted(answers) == list(range(len(CELLS)))
    assert max(sizes) == 4
    assert sizes[-1] <= 2
    limits = [int(str(record.args[1])) for record in caplog.records if isinstance(record.args, tuple)]
    assert limits == sorted(limits, reverse=True) != []
    calls.clear()
    sizes.clear()
    found = evaluate(CELLS, proxies, CONFIG, device=CUDA, stack_size=4)
    assert close(found, by_torch(CELLS, proxies, CONFIG, 4))


def test_a_stack_that_leaves_nothing_to_read_is_waited_for_too(device: Device) -> None:
    """Codes shorter than the minibatch are singular, whatever they are."""
    config = replace(CONFIG, batch_size=512, resolution=8)
    launched = _launch.launch(CELLS[:1], [0], ["layerwise_naswot"], config, None, CUDA)
    assert launched is not None
    told: list[Pass] = []
    launched.scores(lambda name, _: told.append(name))
    assert told == [Pass.EVAL]


def test_what_is_too_much_for_pinned_memory_is_read_aside(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readings, "PINNED_BYTES", 1000)
    proxies = ["jacob_cov", "ntk_condition_number", "snip"]
    assert close(evaluate(CELLS, proxies, CONFIG, device=CUDA, stack_size=3), by_torch(CELLS, proxies, CONFIG, 3))
    assert {(wait.what, wait.aside) for wait in device.waits} == {("event", False), ("transfer", True)}


def test_a_failure_at_reading_does_not_lose_the_stack_behind_it(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, calls = passes.Running.finish, []

    def faulty(running: passes.Running, *arguments: Any) -> Any:
        calls.append(running)
        if len(calls) == 1:
            raise ZeroDivisionError
        return finish(running, *arguments)

    monkeypatch.setattr(passes.Running, "finish", faulty)
    results = evaluate_stacks(CELLS, ["tcet"], CONFIG, device=CUDA, stack_size=3)
    assert [index for index, _ in next(results)] == [3, 4, 5]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_network_that_memory_runs_out_for_alone_is_too_large_and_the_others_are_scored() -> None:
    small = nasbench201.Cell(("none", "none", "none", "skip_connect", "none", "none"))
    large = nasbench201.Cell(("nor_conv_3x3",) * 6)
    with simulated(capacity=predicted_bytes(large, ["tcet"], CONFIG, device="cuda") // 2):
        found = dict(
            pair
            for pairs in evaluate_stacks(
                [small, large, small], ["tcet"], CONFIG, device=CUDA, stack_size=2, available_bytes=2**40
            )
            for pair in pairs
        )
    assert isinstance(found[1], ArchitectureTooLargeError)
    assert isinstance(found[0], Evaluation)
    assert found[0] == found[2]


def test_a_failure_does_not_lose_the_stack_before_it(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(own: Sequence[Architecture], *arguments: Any, **options: Any) -> Any:
        if CELLS[3] in own:
            raise ZeroDivisionError
        return build(own, *arguments, **options)

    monkeypatch.setattr(_launch, "build", faulty)
    results = evaluate_stacks(CELLS, ["tcet"], CONFIG, device=CUDA, stack_size=3)
    assert [index for index, _ in next(results)] == [0, 1, 2]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_the_engine_of_a_worker(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_num_interop_threads", lambda _: None)  # once in a process
    with device.switched(CUDA):  # a worker sees one
        the_engine_of_a_worker()


def the_engine_of_a_worker() -> None:
    engine = TorchEngine("cuda", 1, None, stack_size=3)
    assert engine.hello.device_name == "Simulated"
    assert engine.hello.tf32
    found = dict(pair for pairs in engine.evaluate_stacks(CELLS, ["tcet"], CONFIG) for pair in pairs)
    scored = [own for _, own in sorted(found.items()) if isinstance(own, Evaluation)]
    assert close(scored, by_torch(CELLS, ["tcet"], CONFIG, 3))
    assert set(engine.pass_seconds) == {"train", "eval"}
    assert all(seconds > 0 for seconds in engine.pass_seconds.values())
    memory = engine.memory()
    assert memory.allocated is not None
    assert memory.allocated > 0
    engine.check()
    engine.rest()


def test_stack_sizes_are_measured(device: Device) -> None:
    found = tune("nasbench201", ["snip"], CONFIG, CUDA, sizes=(1, 2), rounds=1)
    assert set(found.per_second) == {1, 2}
    assert {wait.what for wait in device.waits} == {"event"}


def test_the_scorer_of_searches(device: Device) -> None:
    scorer = EngineScorer(device=str(CUDA))
    found = list(scorer.score_many([cell.format() for cell in CELLS], ["snip"], space="nasbench201"))
    assert [result.error for result in found] == [None] * len(CELLS)


def test_tf32_is_asked_for_within_an_evaluation_alone(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, bool]] = []

    def watched(*arguments: Any, **options: Any) -> Any:
        seen.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        return build(*arguments, **options)

    monkeypatch.setattr(_launch, "build", watched)
    before = torch.get_float32_matmul_precision()
    for precision in (Precision.FLOAT32, Precision.TF32):
        evaluate(CELLS[:1], ["tcet"], replace(CONFIG, precision=precision), device=CUDA)
        assert torch.get_float32_matmul_precision() == before
    assert seen == [("highest", False), ("high", True)]
