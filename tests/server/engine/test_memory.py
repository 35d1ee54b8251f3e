"""Memory as predicted against memory as spent: within a fifth, and never below."""

import math
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from _tensors import peak_bytes
from archscore.spaces import Architecture, nasbench201, zennas
from archscore_server.engine import (
    ArchitectureTooLargeError,
    EvaluationConfig,
    Precision,
    _launch,
    codes,
    evaluate,
    kernels,
    passes,
    predicted_bytes,
)
from archscore_server.engine import proxies as registry
from archscore_server.engine.config import NetworkConfig
from archscore_server.engine.memory import LARGEST_CELLS, MIXED_STACK, all_within, fits
from archscore_server.engine.memory import _passes as memory_passes
from archscore_server.engine.networks import Stack, build
from archscore_server.engine.passes import _samples
from archscore_server.engine.statistics import Pass

#: The proxies of each pass: all of it, and for TRAIN its forward alone, too.
PROXIES = {
    pass_.value: [name for name in registry.names() if set(registry.get(name).passes) == {pass_}] for pass_ in Pass
} | {"codes": ["naswot"], "gradients": ["snip"], "everything": registry.names(), "tcet": ["tcet"]}

CELLS = nasbench201.NetworkConfig(channels=8, cells_per_stage=2)
LINKS = zennas.NetworkConfig(residual_links=True)
ARCHITECTURES: dict[str, tuple[Architecture, NetworkConfig]] = {
    "cell": (nasbench201.from_index(6111), CELLS),
    "convolutions": (nasbench201.Cell(("nor_conv_3x3",) * 6), CELLS),
    "silent": (
        nasbench201.Cell(("none", "nor_conv_3x3", "nor_conv_3x3", "skip_connect", "avg_pool_3x3", "nor_conv_1x1")),
        CELLS,
    ),
    "dead end": (
        nasbench201.Cell(("nor_conv_3x3", "none", "nor_conv_1x1", "avg_pool_3x3", "avg_pool_3x3", "none")),
        CELLS,
    ),
    "genome": (zennas.START, zennas.NetworkConfig()),
    "all kinds": (
        zennas.parse(
            "SuperConvK3BNRELU(3,8,1,1)SuperResK1K5K1(8,16,2,8,1)SuperResIDWE2K3(16,16,1,16,1)SuperResK3K3(16,24,2,8,2)"
        ),
        LINKS,
    ),
    "strided 1x1": (
        zennas.parse("SuperConvK1BNRELU(3,2048,2,1)SuperConvK1BNRELU(2048,8,1,1)SuperConvK1BNRELU(8,2048,8,1)"),
        LINKS,
    ),
    "weights": (
        zennas.parse("SuperConvK3BNRELU(3,64,4,1)SuperResK3K3(64,256,2,256,2)SuperConvK1BNRELU(256,1024,1,1)"),
        LINKS,
    ),
}


def spent(architectures: list[Architecture], proxies: list[str], config: EvaluationConfig) -> int:
    needs = {need: None for name in proxies for need in registry.get(name).needs}

    def run() -> None:
        stack = build(architectures, [config.seed] * len(architectures), config, torch.device("cpu"))
        passes.run(stack, list(needs), config)

    return peak_bytes(run)


@pytest.fixture(params=["kernels", "torch"])
def form(request: pytest.FixtureRequest) -> Iterator[None]:
    """By the kernels for CPUs where they are, or by torch's operations."""
    if request.param == "kernels" and not kernels.available():
        pytest.skip("the kernels were not built: no C compiler")
    with kernels.off() if request.param == "torch" else nullcontext():
        yield


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("proxies", PROXIES.values(), ids=PROXIES)
@pytest.mark.parametrize(("architecture", "network"), ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_predicted_is_spent(architecture: Architecture, network: NetworkConfig, proxies: list[str]) -> None:
    holds(architecture, network, proxies, 32, Precision.FLOAT32)


@pytest.mark.parametrize("proxies", PROXIES.values(), ids=PROXIES)
@pytest.mark.parametrize(("architecture", "network"), ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_predicted_is_spent_in_double(architecture: Architecture, network: NetworkConfig, proxies: list[str]) -> None:
    holds(architecture, network, proxies, 5, Precision.FLOAT64)


def holds(
    architecture: Architecture, network: NetworkConfig, proxies: list[str], batch_size: int, precision: Precision
) -> None:
    config = EvaluationConfig(batch_size=batch_size, resolution=16, precision=precision, network=network)
    truth = spent([architecture], proxies, config)
    assert truth <= predicted_bytes(architecture, proxies, config) <= 1.2 * truth


@pytest.mark.parametrize("proxies", [["tcet"], registry.names()], ids=["tcet", "everything"])
def test_a_stack_takes_no_more_than_its_networks(proxies: list[str]) -> None:
    config = EvaluationConfig(batch_size=16, resolution=16, network=CELLS)
    cells: list[Architecture] = [nasbench201.from_index(index) for index in (6111, 1462, 13714, 81)]
    assert spent(cells, proxies, config) <= MIXED_STACK * sum(predicted_bytes(cell, proxies, config) for cell in cells)
    genomes: list[Architecture] = [zennas.START] * 3
    config = EvaluationConfig(batch_size=16, resolution=16, network=LINKS)
    assert spent(genomes, proxies, config) <= 3 * predicted_bytes(zennas.START, proxies, config)


@pytest.mark.parametrize(
    ("device", "precision"),
    [("cuda", Precision.FLOAT32), ("cpu", Precision.FLOAT32), ("cpu", Precision.FLOAT64)],
)
def test_no_cell_takes_more_than_the_largest(device: str, precision: Precision) -> None:
    rng = random.Random(0)
    heavy = ("nor_conv_3x3", "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")
    for proxies in PROXIES.values():
        config = EvaluationConfig(precision=precision, batch_size=rng.choice([2, 64]))
        most = max(predicted_bytes(cell, proxies, config, device=device) for cell in LARGEST_CELLS)
        cells = [nasbench201.Cell(tuple(rng.choices(heavy, k=6))) for _ in range(12)]
        cells += [nasbench201.sample(rng) for _ in range(4)]
        for cell in cells:
            assert not cell.connected or predicted_bytes(cell, proxies, config, device=device) <= most, cell.format()


def test_what_does_not_fit_alone_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_launch, "build", lambda *_, **__: pytest.fail("a network was built"))
    config = EvaluationConfig(network=zennas.NetworkConfig())
    needed = predicted_bytes(zennas.START, ["tcet"], config)
    with pytest.raises(ArchitectureTooLargeError) as caught:
        evaluate([zennas.START], ["tcet"], config, available_bytes=needed - 1)
    assert (caught.value.needed, caught.value.available) == (needed, needed - 1)
    assert f"{needed:,} bytes" in str(caught.value)
    [scored] = evaluate([zennas.START], ["parameters"], config, available_bytes=0)
    assert scored.scores["parameters"].value


@pytest.mark.parametrize(("networks", "sizes"), [(1, [1, 1, 1, 1, 1]), (2, [2, 2, 1]), (100, [4, 1])])
def test_stacks_are_as_large_as_fits(monkeypatch: pytest.MonkeyPatch, networks: int, sizes: list[int]) -> None:
    seen: list[int] = []

    def counted(architectures: Sequence[Architecture], *arguments: Any, **options: Any) -> Stack:
        seen.append(len(architectures))
        return build(architectures, *arguments, **options)

    monkeypatch.setattr(_launch, "build", counted)
    config = EvaluationConfig(batch_size=4, resolution=8, repeats=5, network=zennas.NetworkConfig())
    available = networks * predicted_bytes(zennas.START, ["snip"], config)
    evaluate([zennas.START], ["snip"], config, stack_size=4, available_bytes=available)
    assert seen == sizes
    seen.clear()
    config = EvaluationConfig(batch_size=4, resolution=8, network=CELLS)
    cells = [nasbench201.Cell(("nor_conv_3x3",) * 6)] * 5
    available = math.ceil(networks * MIXED_STACK * predicted_bytes(cells[0], ["snip"], config))
    evaluate(cells, ["snip"], config, stack_size=4, available_bytes=available)
    assert seen == sizes


@pytest.mark.usefixtures("form")
def test_a_small_cell_fits_where_the_largest_does_not() -> None:
    config, single = EvaluationConfig(network=CELLS), kernels.available()
    small = nasbench201.Cell(("none", "none", "none", "skip_connect", "none", "none"))
    needed = predicted_bytes(small, ["snip"], config)
    assert fits(small, ["snip"], config, needed, device="cpu", single=single) == 1
    assert (fits(small, ["snip"], config, sys.maxsize, device="cpu", single=single) > 1) == (not single)
    with pytest.raises(ArchitectureTooLargeError):
        fits(small, ["snip"], config, needed - 1, device="cpu", single=single)


@pytest.mark.skipif(not kernels.available(), reason="the kernels were not built: no C compiler")
@pytest.mark.parametrize("proxies", [["naswot"], ["fisher"], ["tcet"]], ids=lambda own: own[0])
def test_predicted_is_no_less_than_what_any_form_takes(proxies: list[str]) -> None:
    """Where stacks may have several networks, each takes torch's operations, a lone one too."""
    config = EvaluationConfig(batch_size=16, resolution=16, network=CELLS)
    cell: list[Architecture] = [LARGEST_CELLS[0]]
    predicted = predicted_bytes(cell[0], proxies, config, stack_size=2)
    assert predicted >= predicted_bytes(cell[0], proxies, config)
    for size in (1, 2):
        assert peak_bytes(lambda size=size: evaluate(cell, proxies, config, stack_size=size)) <= predicted
    genome = EvaluationConfig(batch_size=16, resolution=16, network=LINKS)
    alone = predicted_bytes(zennas.START, proxies, genome)
    assert predicted_bytes(zennas.START, proxies, genome, stack_size=8) == alone, "it never shares a stack"


def test_whether_all_are_within_a_limit() -> None:
    config = EvaluationConfig(network=CELLS)
    small = nasbench201.Cell(("none", "none", "none", "skip_connect", "none", "none"))
    least, most = (predicted_bytes(cell, ["snip"], config) for cell in (small, LARGEST_CELLS[0]))
    assert all_within([small], ["snip"], config, least)
    assert not all_within([small], ["snip"], config, least - 1)
    assert not all_within([small, LARGEST_CELLS[0]], ["snip"], config, least)
    assert all_within([small, LARGEST_CELLS[0]], ["snip"], config, most)
    genome = predicted_bytes(zennas.START, ["snip"], EvaluationConfig(network=LINKS))
    assert all_within([zennas.START], ["snip"], EvaluationConfig(network=LINKS), genome)
    assert not all_within([zennas.START] * 2, ["snip"], EvaluationConfig(network=LINKS), genome - 1)


def test_predictions_are_of_what_the_engine_does() -> None:
    """What both sides must agree on, of which one is free of torch."""
    assert memory_passes._EXACT_SUM == codes._EXACT_SUM
    assert memory_passes._CODE_PARTS == 2 * codes._CHUNK
    assert memory_passes._KERNEL_IMAGES == _samples._KERNEL_IMAGES


def test_weights_alone_of_the_smallest_networks() -> None:
    for cell in (nasbench201.from_index(6111), nasbench201.Cell(("none",) * 3 + ("skip_connect",) + ("none",) * 2)):
        for channels in (2, 4, 8):
            network = nasbench201.NetworkConfig(channels=channels, cells_per_stage=1)
            holds(cell, network, ["l2_norm"], 2, Precision.FLOAT32)
