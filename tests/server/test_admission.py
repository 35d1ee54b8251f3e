"""Networks that are too large or do not exist: refused one by one, by the exact limit, before anything is built."""

import dataclasses
import time
from dataclasses import replace

import pytest
from google.rpc import code_pb2, error_details_pb2

from archscore.spaces import nasbench201, zennas
from archscore.v1 import scoring_pb2
from archscore_server.admission import MAX_WORK, admit, max_bytes, max_work
from archscore_server.config import Limits
from archscore_server.engine import EvaluationConfig, Precision, predicted_bytes
from archscore_server.engine.proxies import names
from archscore_server.engine.work import predicted_work
from archscore_server.pool import DeviceInfo, PoolInfo
from support.serving import TIMEOUT, architecture, details, reason, results_of, serving, status_of, violations

GENOME = zennas.START.format()
LIMITS = Limits()
CONFIG = EvaluationConfig(network=zennas.NetworkConfig())
SIZE = zennas.START.size(CONFIG.network, resolution=32, num_classes=10)

#: The widest and the deepest of the genomes that were published with Zen-NAS.
PUBLISHED = [
    "SuperConvK3BNRELU(3,64,2,1)SuperResK3K3(64,128,2,64,1)SuperResK1K7K1(128,432,2,128,5)"
    "SuperResK1K7K1(432,640,2,192,4)SuperResK1K7K1(640,1008,1,160,5)SuperResK1K7K1(1008,976,1,160,4)"
    "SuperResK1K5K1(976,2304,2,384,5)SuperResK1K5K1(2304,2496,1,384,5)SuperConvK1BNRELU(2496,3072,1,1)",
    "SuperConvK3BNRELU(3,16,2,1)SuperResIDWE2K7(16,48,2,72,1)SuperResIDWE2K7(48,72,2,64,3)"
    "SuperResIDWE2K7(72,152,2,144,3)SuperResIDWE2K7(152,360,2,352,4)SuperResIDWE4K7(360,288,1,264,3)"
    "SuperConvK1BNRELU(288,2048,1,1)",
]

#: Encodings, the limit that each is over, and by what.
TOO_LARGE = {
    "ten thousand blocks": (GENOME + "SuperConvK1BNRELU(128,128,1,1)" * 10_000, "max_encoding_length"),
    "a million characters": (" " * 1_000_000, "max_encoding_length"),
    "a billion sub-layers": ("SuperResK3K3(3,8,1,8,999999999)", "max_parameters"),
    "a billion channels": ("SuperConvK7BNRELU(3,999999999,1,1)", "max_parameters"),
    "widths past uint32": ("SuperResIDWE6K3(3,8,1,999999999,1)", "max_parameters"),
    "large everything": ("SuperResIDWE6K7(3,999999999,1,999999999,999999999)", "max_parameters"),
    "many sub-layers": ("SuperConvK1BNRELU(3,8,1,2000)", "max_layers"),
    "many operations": ("SuperConvK3BNRELU(3,1024,1,12)", "max_flops"),
}


@pytest.mark.parametrize("space", ["nasbench201", "zennas"])
def test_examples_are_admitted(space: str) -> None:
    own = {"nasbench201": nasbench201.SPACE, "zennas": zennas.SPACE}[space]
    config = dataclasses.replace(CONFIG, network=own.network)
    assert admit(own, own.example, "encoding", config, LIMITS) == own.parse(own.example)


@pytest.mark.parametrize("encoding", PUBLISHED)
def test_published_genomes_are_admitted(encoding: str) -> None:
    config = EvaluationConfig(network=zennas.NetworkConfig(residual_links=True), resolution=224, num_classes=1000)
    assert admit(zennas.SPACE, encoding, "encoding", config, LIMITS) == zennas.parse(encoding)


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ("max_encoding_length", len(GENOME)),
        ("max_parameters", SIZE.parameters),
        ("max_flops", SIZE.flops),
        ("max_layers", SIZE.layers),
    ],
)
def test_limits_are_what_is_let_in_at_most(limit: str, value: int) -> None:
    at = dataclasses.replace(LIMITS, **{limit: value})
    assert admit(zennas.SPACE, GENOME, "encoding", CONFIG, at) == zennas.START
    status = admit(zennas.SPACE, GENOME, "encoding", CONFIG, dataclasses.replace(LIMITS, **{limit: value - 1}))
    assert status.code == code_pb2.RESOURCE_EXHAUSTED
    assert reason(status) == "ARCHITECTURE_TOO_LARGE"
    info = details(status)[error_details_pb2.ErrorInfo]
    assert info.metadata == {"limit": limit, "value": str(value), "most": str(value - 1)}
    assert f"{value:,}" in status.message
    assert f"{value - 1:,} at most" in status.message


@pytest.mark.parametrize(("encoding", "limit"), TOO_LARGE.values(), ids=TOO_LARGE)
async def test_too_large_fails_its_item_only(served, encoding, limit):
    request = scoring_pb2.ScoreArchitecturesRequest(
        architectures=[architecture(one, "zennas") for one in (GENOME, encoding, GENOME)], proxies=["parameters"]
    )
    started = time.monotonic()
    results = await results_of(served.stub.ScoreArchitectures(request, timeout=TIMEOUT))
    assert time.monotonic() - started < 0.5
    assert [results[index].HasField("evaluation") for index in range(3)] == [True, False, True]
    error = results[1].error
    assert error.code == code_pb2.RESOURCE_EXHAUSTED
    assert details(error)[error_details_pb2.ErrorInfo].metadata["limit"] == limit
    assert error.ByteSize() < 500
    assert served.metric("archscore_architectures_total", space="zennas", outcome="too_large") == 1
    assert served.pool.batches == []


@pytest.mark.parametrize(("encoding", "limit"), TOO_LARGE.values(), ids=TOO_LARGE)
async def test_too_large_fails_a_call_for_one(served, encoding, limit):
    bad = architecture(encoding, "zennas")
    for call in (
        served.stub.ScoreArchitecture(
            scoring_pb2.ScoreArchitectureRequest(architecture=bad, proxies=["zen"]), timeout=TIMEOUT
        ),
        served.stub.DescribeArchitecture(scoring_pb2.DescribeArchitectureRequest(architecture=bad), timeout=TIMEOUT),
    ):
        status = await status_of(call)
        assert reason(status) == "ARCHITECTURE_TOO_LARGE"
        assert details(status)[error_details_pb2.ErrorInfo].metadata["limit"] == limit


async def test_a_stride_that_does_not_divide_fails_its_item_only(served):
    shrinking = "SuperConvK3BNRELU(3,8,2,1)SuperConvK3BNRELU(8,8,32,1)"
    request = scoring_pb2.ScoreArchitecturesRequest(
        architectures=[architecture(one, "zennas") for one in (GENOME, shrinking)], proxies=["flops"]
    )
    results = await results_of(served.stub.ScoreArchitectures(request, timeout=TIMEOUT))
    assert results[0].HasField("evaluation")
    assert results[1].error.code == code_pb2.INVALID_ARGUMENT
    assert violations(results[1].error) == {
        "architectures[1].encoding": "resolution must be a multiple of the product of all strides: at 32, block 2 of 2 "
        "has stride 32 and an input of 16x16"
    }
    describe = scoring_pb2.DescribeArchitectureRequest(architecture=architecture(shrinking, "zennas"))
    status = await status_of(served.stub.DescribeArchitecture(describe, timeout=TIMEOUT))
    assert list(violations(status)) == ["architecture.encoding"]


async def test_limits_of_the_server_hold_in_every_space():
    async with serving(limits=Limits(max_layers=10)) as served:
        request = scoring_pb2.ScoreArchitectureRequest(architecture=architecture("index:6111"), proxies=["parameters"])
        status = await status_of(served.stub.ScoreArchitecture(request, timeout=TIMEOUT))
        assert reason(status) == "ARCHITECTURE_TOO_LARGE"
        request.config.nasbench201.cells_per_stage = 1
        request.architecture.encoding = nasbench201.Cell(("none",) * 6).format()
        await served.stub.ScoreArchitecture(request, timeout=TIMEOUT)


async def test_work_is_predicted_from_architecture_proxies_and_config():
    work = predicted_work(zennas.START, ["snip"], EvaluationConfig(network=zennas.NetworkConfig()))
    async with serving(limits=Limits(max_work=work - 1)) as served:
        request = scoring_pb2.ScoreArchitectureRequest(architecture=architecture(GENOME, "zennas"), proxies=["snip"])
        status = await status_of(served.stub.ScoreArchitecture(request, timeout=TIMEOUT))
        assert reason(status) == "ARCHITECTURE_TOO_LARGE"
        info = details(status)[error_details_pb2.ErrorInfo]
        assert info.metadata == {"limit": "max_work", "value": str(work), "most": str(work - 1)}
        assert served.pool.batches == []
        request.config.batch_size = 32
        await served.stub.ScoreArchitecture(request, timeout=TIMEOUT)
        # What needs no device, or is stored, is no work.
        del request.proxies[:]
        request.proxies.append("flops")
        request.ClearField("config")
        await served.stub.ScoreArchitecture(request, timeout=TIMEOUT)


@pytest.mark.parametrize(("kind", "repeats", "more"), [("cpu", 16, 32), ("cuda", Limits().max_repeats, None)])
async def test_every_cell_passes_in_its_default_network(kind, repeats, more):
    """All proxies, over many seeds, on the largest cell there is."""
    pool = PoolInfo("2", "1", (DeviceInfo(kind, "puppet", 1, 1, 2**40),))
    config = EvaluationConfig(repeats=repeats)
    largest = nasbench201.Cell(("nor_conv_3x3",) * 6)
    most = max_work(Limits(), pool)
    assert predicted_work(largest, names(), config) <= most
    assert predicted_work(largest, names(), replace(config, precision=Precision.FLOAT64)) > most
    assert more is None or predicted_work(largest, names(), replace(config, repeats=more)) > most


async def test_what_is_set_holds_on_every_device():
    for kind in MAX_WORK:
        pool = PoolInfo("2", "1", (DeviceInfo(kind, "puppet", 1, 1, 2**40),))
        assert max_work(Limits(max_work=7), pool) == 7


async def test_memory_is_predicted_from_architecture_proxies_and_config():
    config = EvaluationConfig(network=zennas.NetworkConfig())
    needed = predicted_bytes(zennas.START, ["snip"], config)
    request = scoring_pb2.ScoreArchitectureRequest(architecture=architecture(GENOME, "zennas"), proxies=["snip"])
    async with serving(limits=Limits(max_bytes=needed - 1)) as served:
        status = await status_of(served.stub.ScoreArchitecture(request, timeout=TIMEOUT))
        assert reason(status) == "ARCHITECTURE_TOO_LARGE"
        info = details(status)[error_details_pb2.ErrorInfo]
        assert info.metadata == {"limit": "max_bytes", "value": str(needed), "most": str(needed - 1)}
        assert served.pool.batches == []
        server = await served.stub.GetServerInfo(scoring_pb2.GetServerInfoRequest(), timeout=TIMEOUT)
        assert server.limits.max_bytes == needed - 1
        request.config.batch_size = 32
        await served.stub.ScoreArchitecture(request, timeout=TIMEOUT)
        request.config.batch_size = 64
        request.proxies[:] = ["parameters"]
        await served.stub.ScoreArchitecture(request, timeout=TIMEOUT)


def test_workers_share_the_memory_of_their_device() -> None:
    devices = (DeviceInfo("cpu", "cpu", 4, 1, 10_000), DeviceInfo("cpu", "cpu", 1, 1, 4_000))
    assert max_bytes(Limits(), PoolInfo("2", "1", devices)) == 2_000
    assert max_bytes(Limits(max_bytes=7), PoolInfo("2", "1", devices)) == 7
