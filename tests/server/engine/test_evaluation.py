"""A score is a function of architecture, proxy and config alone."""

import gc
import json
import pickle
import random
import statistics
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from archscore.spaces import Architecture, nasbench201, zennas
from archscore_server.engine import (
    ArchitectureTooLargeError,
    ConfigError,
    DatasetNotFoundError,
    Datasets,
    Evaluation,
    EvaluationConfig,
    Outcome,
    Precision,
    _launch,
    evaluate,
    evaluate_stacks,
    kernels,
    predicted_bytes,
)
from archscore_server.engine import proxies as registry
from archscore_server.engine.minibatches import RECENT
from archscore_server.engine.networks import Stack
from archscore_server.engine.statistics import MINIBATCHES, Pass
from archscore_server.engine.tables import TABLES
from golden_cases import PRECISIONS, tolerance
from support.images import draw, write_npz

NETWORK = nasbench201.NetworkConfig(channels=8, cells_per_stage=1)
DISCONNECTED = nasbench201.parse("|nor_conv_1x1~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|")
#: Node 1 is never fed, and convolutions leave it.
HALF_DEAD = nasbench201.parse("|none~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|none~0|nor_conv_3x3~1|skip_connect~2|")


def random_cells(count: int) -> list[nasbench201.Cell]:
    rng = random.Random(7)
    return [HALF_DEAD, *(nasbench201.sample(rng) for _ in range(count - 1))]


CELLS = random_cells(24)


def config(precision: Precision) -> EvaluationConfig:
    return EvaluationConfig(batch_size=8, resolution=16, network=NETWORK, precision=precision)


@pytest.fixture(scope="module", params=PRECISIONS)
def one_by_one(request: pytest.FixtureRequest) -> tuple[Precision, list[Evaluation]]:
    precision: Precision = request.param
    return precision, [evaluate([cell], registry.names(), config(precision))[0] for cell in CELLS]


def in_one_stack(precision: Precision) -> list[Evaluation]:
    return evaluate(CELLS, registry.names(), config(precision), stack_size=len(CELLS))


def shuffled_in_stacks_of_7(precision: Precision) -> list[Evaluation]:
    order = list(range(len(CELLS)))
    random.Random(1).shuffle(order)
    evaluations = evaluate([CELLS[i] for i in order], registry.names(), config(precision), stack_size=7)
    return [evaluation for _, evaluation in sorted(zip(order, evaluations, strict=True), key=lambda pair: pair[0])]


@pytest.mark.parametrize("how", [in_one_stack, shuffled_in_stacks_of_7])
def test_batch_mates_and_order_do_not_matter(
    one_by_one: tuple[Precision, list[Evaluation]],
    how: Callable[[Precision], list[Evaluation]],
    record_property: Callable[[str, object], None],
) -> None:
    precision, alone = one_by_one
    differences = []
    for cell, expected, evaluation in zip(CELLS, alone, how(precision), strict=True):
        for name, score in evaluation.scores.items():
            assert score.outcome is expected.scores[name].outcome, (cell.format(), name)
            if score.value is not None:
                difference = relative(score.value, expected.scores[name].value)
                limit = 1e-9 if precision is Precision.FLOAT64 else tolerance(name, precision)
                assert difference <= limit, (cell.format(), name)
                differences.append(difference)
    # the summary shows it; the median is far below the tolerance
    record_property("median relative difference", statistics.median(differences))
    assert statistics.median(differences) <= (1e-14 if precision is Precision.FLOAT64 else 1e-6)


def relative(value: float | None, expected: float | None) -> float:
    assert value is not None
    assert expected is not None
    return abs(value - expected) / abs(expected) if value != expected else 0.0


SCRIPT = """
import json, sys, torch
torch.set_num_threads(int(sys.argv[1]))
from archscore.spaces import nasbench201
from archscore_server.engine import EvaluationConfig, Precision, evaluate, proxies
network = nasbench201.NetworkConfig(8, 1)
config = EvaluationConfig(batch_size=8, resolution=16, precision=Precision(sys.argv[2]), network=network)
cells = [nasbench201.parse(line) for line in sys.stdin.read().split()]
print(json.dumps([{n: s.value for n, s in e.scores.items()} for e in evaluate(cells, proxies.names(), config)]))
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_process_and_threads_do_not_matter(one_by_one: tuple[Precision, list[Evaluation]], threads: int) -> None:
    precision, alone = one_by_one
    encodings = "\n".join(cell.format() for cell in CELLS)
    answer = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(threads), precision],
        input=encodings,
        capture_output=True,
        text=True,
        check=True,
    )
    for expected, values in zip(alone, json.loads(answer.stdout), strict=True):
        for name, value in values.items():
            if value is None:
                assert expected.scores[name].value is None
            else:
                limit = 1e-9 if precision is Precision.FLOAT64 else tolerance(name, precision)
                assert relative(value, expected.scores[name].value) <= limit, name


def test_which_other_proxies_are_asked_does_not_matter() -> None:
    together = evaluate([HALF_DEAD], registry.names(), config(Precision.FLOAT64))[0]
    for name in registry.names():
        [alone] = evaluate([HALF_DEAD], [name], config(Precision.FLOAT64))
        assert alone.scores[name] == together.scores[name], name


def test_scores_come_in_the_order_asked() -> None:
    asked = ["tcet", "flops", "snip", "naswot"]
    for cell in (HALF_DEAD, DISCONNECTED):
        assert list(evaluate([cell], asked, config(Precision.FLOAT32))[0].scores) == asked


def test_a_disconnected_cell_is_degenerate_but_has_its_size() -> None:
    [evaluation] = evaluate([DISCONNECTED], registry.names(), config(Precision.FLOAT32))
    sized = {name for name, score in evaluation.scores.items() if score.outcome is Outcome.OK}
    assert sized == {"parameters", "flops"}
    degenerate = {score for name, score in evaluation.scores.items() if name not in sized}
    assert {score.outcome for score in degenerate} == {Outcome.DEGENERATE}
    assert {score.value for score in degenerate} == {None}


def test_stacks_are_answered_as_they_finish_and_each_architecture_once() -> None:
    cells = [HALF_DEAD, DISCONNECTED, *CELLS[1:6]]
    stacks = list(evaluate_stacks(cells, ["snip"], config(Precision.FLOAT32), stack_size=2))
    assert stacks[0][0][0] == 1, "what needs no device comes first"
    assert all(len(stack) <= 2 for stack in stacks[1:])
    assert sorted(index for stack in stacks for index, _ in stack) == list(range(len(cells)))


def test_repeats_are_the_mean_over_seeds() -> None:
    singles = [
        evaluate([HALF_DEAD], ["snip"], EvaluationConfig(batch_size=8, network=NETWORK, seed=seed))[0]
        for seed in (3, 4, 5)
    ]
    values = [single.scores["snip"].value for single in singles]
    assert None not in values
    [repeated] = evaluate([HALF_DEAD], ["snip"], EvaluationConfig(batch_size=8, network=NETWORK, seed=3, repeats=3))
    score = repeated.scores["snip"]
    assert score.value == pytest.approx(statistics.mean(filter(None, values)))
    assert score.standard_error == pytest.approx(statistics.stdev(filter(None, values)) / 3**0.5)
    assert singles[0].scores["snip"].standard_error is None


def test_a_singular_naswot_is_non_finite() -> None:
    # 64 images of one pixel quadruple cannot have 64 independent codes in so narrow a network
    narrow = EvaluationConfig(batch_size=256, resolution=4, network=nasbench201.NetworkConfig(1, 1))
    skips = nasbench201.parse("|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|")
    [evaluation] = evaluate([skips], ["naswot", "layerwise_naswot"], narrow)
    assert evaluation.scores["naswot"].outcome is Outcome.NON_FINITE
    assert evaluation.scores["naswot"].value is None
    assert evaluation.scores["layerwise_naswot"].value == 0


def test_an_unknown_proxy_names_the_known_ones() -> None:
    with pytest.raises(KeyError, match=r"unknown proxy 'tset'.*tcet"):
        evaluate([HALF_DEAD], ["tset"])


@pytest.fixture
def data(tmp_path: Path) -> Datasets:
    """Twenty images of 8x8 pixels in 5 classes."""
    write_npz(tmp_path, "x", images=draw(20, 8).transpose(0, 2, 3, 1), labels=np.arange(20) % 5)
    return Datasets(tmp_path)


def test_a_dataset_s_own_fields_are_enough(data: Datasets) -> None:
    fields = data.open("npz:x").info.config_fields
    own = EvaluationConfig(**fields, batch_size=8, network=NETWORK, repeats=2)
    [evaluation] = evaluate([HALF_DEAD], ["snip", "parameters"], own, data=data)
    assert evaluation.scores["snip"].outcome is Outcome.OK
    other = EvaluationConfig(**fields | {"dataset": "gaussian"}, batch_size=8, network=NETWORK, repeats=2)
    [random] = evaluate([HALF_DEAD], ["snip", "parameters"], other)
    assert random.scores["parameters"] == evaluation.scores["parameters"]
    assert random.scores["snip"].value != evaluation.scores["snip"].value


@pytest.mark.parametrize(("field", "value"), [("resolution", 12), ("num_classes", 10), ("batch_size", 21)])
def test_a_config_that_does_not_go_with_its_dataset_is_refused(data: Datasets, field: str, value: int) -> None:
    fields: dict[str, Any] = {**data.open("npz:x").info.config_fields, "batch_size": 8, field: value}
    with pytest.raises(ConfigError, match="npz:x") as caught:
        evaluate([HALF_DEAD], ["snip"], EvaluationConfig(**fields, network=NETWORK), data=data)
    assert caught.value.field == field


def test_a_pass_that_reads_two_minibatches_needs_twice_the_images(
    data: Datasets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MINIBATCHES, Pass.EVAL, 2)
    assert registry.get("layerwise_naswot").minibatches == 2
    assert registry.get("snip").minibatches == registry.get("parameters").minibatches == 1
    own = EvaluationConfig(**data.open("npz:x").info.config_fields, batch_size=11, network=NETWORK)
    assert evaluate([HALF_DEAD], ["snip"], own, data=data)
    with pytest.raises(ConfigError, match="2 minibatches of 11 images are more than the 20 of npz:x"):
        evaluate([HALF_DEAD], ["snip", "layerwise_naswot"], own, data=data)


def test_a_dataset_that_is_not_there_is_refused() -> None:
    with pytest.raises(DatasetNotFoundError, match="cifar-10-batches-py/data_batch_1"):
        evaluate([HALF_DEAD], ["snip"], EvaluationConfig(dataset="cifar10"))


CONNECTED = [cell for cell in CELLS if cell.connected]

Fault = Callable[[Sequence[Architecture]], Exception | None]


@pytest.fixture
def fault(monkeypatch: pytest.MonkeyPatch) -> Callable[[Fault], list[int]]:
    """Lets stacks fail: calls what it is given with the architectures of each, and raises what that returns.

    Answers with the sizes of the stacks that were tried, in order.
    """
    build = _launch.build

    def install(fault: Fault) -> list[int]:
        tried: list[int] = []

        def faulty(architectures: Sequence[Architecture], *arguments: Any, **options: Any) -> Stack:
            tried.append(len(architectures))
            error = fault(architectures)
            if error:
                raise error
            return build(architectures, *arguments, **options)

        monkeypatch.setattr(_launch, "build", faulty)
        return tried

    return install


OUT_OF_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: not enough memory: you tried to allocate 8"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate"
    ),
    RuntimeError("could not create a primitive"),
]


def assert_equal(evaluations: Sequence[Evaluation], expected: Sequence[Evaluation]) -> None:
    for own, other in zip(evaluations, expected, strict=True):
        for name, score in own.scores.items():
            assert score.outcome is other.scores[name].outcome
            if score.value is not None:
                assert relative(score.value, other.scores[name].value) <= 1e-9, name


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: str(error)[-24:])
def test_a_stack_that_runs_out_of_memory_shrinks_and_scores_stay(
    fault: Callable[[Fault], list[int]], error: Exception
) -> None:
    cells, proxies = CONNECTED[:11], ["tcet", "snip", "synflow"]
    expected = evaluate(cells, proxies, config(Precision.FLOAT64))
    tried = fault(lambda stack: error if len(stack) > 2 else None)
    assert_equal(evaluate(cells, proxies, config(Precision.FLOAT64), stack_size=8), expected)
    assert tried == [8, 4, 2, 2, 2, 2, 2, 1], "later stacks keep the smaller size"


@pytest.mark.skipif(not kernels.available(), reason="the kernels were not built: no C compiler")
@pytest.mark.parametrize("space", ["cells", "repeats"])
def test_the_form_of_a_network_does_not_depend_on_how_many_come_together(space: str) -> None:
    """One that is left over is computed as those in a stack are, not by what serves single networks."""
    if space == "cells":
        architectures: list[Architecture] = list(CONNECTED[:3])
        own = config(Precision.FLOAT32)
    else:
        architectures = [zennas.START]
        own = EvaluationConfig(batch_size=4, resolution=16, repeats=3, network=zennas.NetworkConfig())
    together = evaluate(architectures, ["snip", "tcet"], own, stack_size=2)
    alone = evaluate(architectures, ["snip", "tcet"], own, stack_size=1)
    with kernels.off():
        assert evaluate(architectures, ["snip", "tcet"], own, stack_size=2) == together
    assert alone != together, "or nothing is shown"


@pytest.mark.skipif(not kernels.available(), reason="the kernels were not built: no C compiler")
def test_genomes_without_repeats_never_share_a_stack() -> None:
    own = EvaluationConfig(batch_size=4, resolution=16, network=zennas.NetworkConfig())
    alone, large = (evaluate([zennas.START] * 2, ["snip", "tcet"], own, stack_size=size) for size in (1, 8))
    assert alone == large
    with kernels.off():
        assert evaluate([zennas.START], ["snip", "tcet"], own, stack_size=8) != large[:1]


def test_where_memory_runs_out_nothing_is_kept(fault: Callable[[Fault], list[int]]) -> None:
    cpu, kept = torch.device("cpu"), []

    def first(_stack: Sequence[Architecture]) -> Exception | None:
        kept.append(TABLES.nbytes(cpu) + RECENT.nbytes(cpu))
        return MemoryError() if len(kept) == 1 else None

    evaluate(CONNECTED[:2], ["snip"], config(Precision.FLOAT32))
    fault(first)
    evaluate(CONNECTED[:2], ["snip"], config(Precision.FLOAT32), stack_size=2)
    assert kept[0] > kept[1] == 0
    assert kept[2] > 0, "what the stack before has drawn"


def test_repeats_of_one_architecture_shrink_too(fault: Callable[[Fault], list[int]]) -> None:
    own = EvaluationConfig(batch_size=2, resolution=8, repeats=5, network=zennas.NetworkConfig())
    expected = evaluate([zennas.START], ["snip"], own, stack_size=5)
    tried = fault(lambda stack: MemoryError() if len(stack) > 3 else None)
    [score] = [one.scores["snip"] for one in evaluate([zennas.START], ["snip"], own, stack_size=5)]
    assert score.value == pytest.approx(expected[0].scores["snip"].value, rel=1e-5)
    assert tried == [5, 3, 2]


@pytest.mark.parametrize("repeats", [1, 3])
def test_a_network_that_runs_out_alone_does_not_stop_the_others(
    fault: Callable[[Fault], list[int]], repeats: int
) -> None:
    own = EvaluationConfig(batch_size=4, network=NETWORK, repeats=repeats, precision=Precision.FLOAT64)
    cells, culprit = CONNECTED[:5], CONNECTED[2]
    expected = evaluate(cells, ["snip"], own)
    tried = fault(lambda stack: MemoryError() if culprit in stack else None)
    results = dict(pair for stack in evaluate_stacks(cells, ["snip"], own, stack_size=4) for pair in stack)
    error = results.pop(2)
    assert isinstance(error, ArchitectureTooLargeError)
    assert error.needed > error.available > 0
    assert sorted(results) == [0, 1, 3, 4]
    assert_equal([results[place] for place in (0, 1, 3, 4)], [expected[place] for place in (0, 1, 3, 4)])
    assert tried[:5] == [4, 2, 2, 1, 1]
    with pytest.raises(ArchitectureTooLargeError):
        evaluate(cells, ["snip"], own)


def test_one_seed_that_runs_out_alone_is_enough(fault: Callable[[Fault], list[int]]) -> None:
    own = EvaluationConfig(batch_size=2, resolution=8, repeats=5, network=zennas.NetworkConfig())
    tried = fault(lambda stack: MemoryError())
    [[(_, error)]] = evaluate_stacks([zennas.START], ["snip"], own, stack_size=5)
    assert isinstance(error, ArchitectureTooLargeError)
    assert tried == [5, 3, 2, 1]


def test_a_network_that_is_known_not_to_fit_does_not_stop_the_others() -> None:
    own = config(Precision.FLOAT64)
    small = nasbench201.parse("|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|")
    largest = nasbench201.Cell(("nor_conv_3x3",) * 6)
    available = predicted_bytes(largest, ["snip"], own) - 1
    stacks = evaluate_stacks([small, largest, DISCONNECTED], ["snip"], own, available_bytes=available)
    results = dict(pair for stack in stacks for pair in stack)
    error = results.pop(1)
    assert isinstance(error, ArchitectureTooLargeError)
    assert (error.needed, error.available) == (available + 1, available)
    [first, second] = evaluate([small, DISCONNECTED], ["snip"], own)
    assert results == {0: first, 2: second}


def test_other_errors_are_raised(fault: Callable[[Fault], list[int]]) -> None:
    tried = fault(lambda stack: RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        evaluate(CONNECTED[:4], ["snip"], config(Precision.FLOAT32), stack_size=4)
    assert tried == [4]


def test_what_a_failed_attempt_held_is_free_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tensor:
        """Stands for what a stack allocates."""

    build = _launch.build
    held: list[weakref.ref[Tensor]] = []

    def faulty(architectures: Sequence[Architecture], *arguments: Any, **options: Any) -> Stack:
        assert all(reference() is None for reference in held)
        tensor = Tensor()
        if len(architectures) > 1:
            tensor.graph = [tensor]  # type: ignore[attr-defined]
            held.append(weakref.ref(tensor))
            raise MemoryError
        return build(architectures, *arguments, **options)

    monkeypatch.setattr(_launch, "build", faulty)
    gc.disable()
    try:
        next(evaluate_stacks(CONNECTED[:4], ["snip"], config(Precision.FLOAT32), stack_size=4))
    finally:
        gc.enable()
    assert len(held) == 2


def test_that_a_network_is_too_large_can_be_sent_to_another_process() -> None:
    error = pickle.loads(pickle.dumps(ArchitectureTooLargeError(20, 10)))
    assert (type(error), error.needed, error.available) == (ArchitectureTooLargeError, 20, 10)
    assert str(error) == str(ArchitectureTooLargeError(20, 10))


WITHOUT_THE_REST = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"grpc", "google", "click", "prometheus_client", "grpc_status", "grpc_health"}:
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Refuse())
from archscore.spaces import nasbench201
from archscore_server.engine import EvaluationConfig, evaluate
network = nasbench201.NetworkConfig(4, 1)
print(evaluate([nasbench201.parse("index:6111")], ["tcet"], EvaluationConfig(batch_size=8, network=network)))
"""


def test_the_engine_needs_torch_and_numpy_alone() -> None:
    answer = subprocess.run([sys.executable, "-c", WITHOUT_THE_REST], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert "Outcome.OK" in answer.stdout


def test_configs_results_and_the_registry_do_not_load_torch() -> None:
    script = "import sys; from archscore_server.engine import proxies, static, data; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.gpu
@pytest.mark.parametrize("proxies", [["tcet"], registry.names()], ids=["tcet", "all"])
def test_a_gpu_is_given_a_stack_without_being_waited_for(proxies: list[str]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    device, own = torch.device("cuda"), config(Precision.FLOAT32)
    evaluate(CONNECTED[:4], proxies, own, device=device)  # loads libraries
    torch.cuda.set_sync_debug_mode("error")
    try:
        launched = _launch.launch(CONNECTED[4:8], [0] * 4, proxies, own, None, device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert launched is not None
    assert set(launched.scores()) == {name for name in proxies if not registry.get(name).static}
