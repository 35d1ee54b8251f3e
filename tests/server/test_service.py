"""The six RPCs, through gRPC."""

import asyncio
import hashlib

import grpc
import numpy as np
import pytest
from google.rpc import code_pb2

from archscore._version import __version__
from archscore.spaces import SPACES, nasbench201
from archscore.v1 import scoring_pb2
from archscore_server.config import Limits
from archscore_server.engine import Precision
from archscore_server.engine import proxies as registry
from support.serving import TIMEOUT, architecture, fake_value, many, one, reason, results_of, serving, status_of

CELLS = [nasbench201.from_index(index).format() for index in (6111, 1462, 13714, 81, 1459)]
DISCONNECTED = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"


async def test_scores_one(served):
    response = await served.stub.ScoreArchitecture(one(CELLS[0], ["tcet", "naswot", "ssnr"]), timeout=TIMEOUT)
    scores = response.evaluation.scores
    assert [score.proxy for score in scores] == ["tcet", "naswot", "ssnr"]
    assert [score.outcome for score in scores] == [scoring_pb2.OUTCOME_OK] * 3
    assert [score.value for score in scores] == [fake_value(CELLS[0], score.proxy) for score in scores]
    assert not any(score.HasField("standard_error") or score.stored for score in scores)
    [batch] = served.pool.batches
    assert batch.proxies == ("naswot", "ssnr", "tcet")


async def test_fingerprint_has_every_default(served):
    response = await served.stub.ScoreArchitecture(one(CELLS[0], ["tcet", "snip"]), timeout=TIMEOUT)
    fingerprint = response.evaluation.fingerprint
    assert fingerprint.config == scoring_pb2.EvaluationConfig(
        dataset="gaussian",
        batch_size=64,
        resolution=32,
        num_classes=10,
        seed=0,
        repeats=1,
        init=scoring_pb2.INIT_KAIMING_NORMAL,
        precision=scoring_pb2.PRECISION_FLOAT32,
        nasbench201=scoring_pb2.NasBench201Config(channels=16, cells_per_stage=5),
    )
    assert fingerprint.config.HasField("seed")
    assert fingerprint.proxy_versions == {"tcet": 1, "snip": 1}
    assert fingerprint.torch_version == "9.9.9+puppet"
    assert fingerprint.archscore_version == __version__
    assert fingerprint.device_kind == "cpu"


async def test_tf32_is_refused_where_a_device_has_none(served):
    config = scoring_pb2.EvaluationConfig(precision=scoring_pb2.PRECISION_TF32)
    alone = await status_of(served.stub.ScoreArchitecture(one(CELLS[0], config=config), timeout=TIMEOUT))
    together = await status_of(results_of(served.stub.ScoreArchitectures(many(CELLS, config=config), timeout=TIMEOUT)))
    for status in (alone, together):
        assert status.code == code_pb2.FAILED_PRECONDITION
        assert (reason(status), "PRECISION_TF32" in status.message) == ("PRECISION_UNAVAILABLE", True)
    assert served.pool.batches == []


async def test_tf32_is_an_evaluation_of_its_own(served):
    served.pool.tf32 = True
    config = scoring_pb2.EvaluationConfig(precision=scoring_pb2.PRECISION_TF32)
    await served.stub.ScoreArchitecture(one(CELLS[0]), timeout=TIMEOUT)
    answer = await served.stub.ScoreArchitecture(one(CELLS[0], config=config), timeout=TIMEOUT)
    assert answer.evaluation.fingerprint.config.precision == scoring_pb2.PRECISION_TF32
    assert not answer.evaluation.scores[0].stored
    assert [batch.config.precision for batch in served.pool.batches] == [Precision.FLOAT32, Precision.TF32]


async def test_fingerprint_hashes_the_minibatch(served):
    config = scoring_pb2.EvaluationConfig(batch_size=3, resolution=8, num_classes=7, seed=5, repeats=2)
    response = await served.stub.ScoreArchitecture(one(CELLS[0], config=config), timeout=TIMEOUT)
    images = np.random.Generator(np.random.PCG64([5, 1_000_000])).standard_normal((3, 3, 8, 8)).astype("<f4")
    labels = np.random.Generator(np.random.PCG64([5, 2_000_000])).integers(0, 7, 3).astype("<i8")
    expected = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    assert response.evaluation.fingerprint.minibatch_sha256 == expected


async def test_config_and_priority_reach_the_pool(served):
    config = scoring_pb2.EvaluationConfig(
        batch_size=2,
        resolution=4,
        num_classes=2,
        seed=2**32 - 3,
        repeats=3,
        init=scoring_pb2.INIT_PYTORCH,
        precision=scoring_pb2.PRECISION_FLOAT64,
        nasbench201=scoring_pb2.NasBench201Config(channels=4, cells_per_stage=1),
    )
    response = await served.stub.ScoreArchitecture(
        one(CELLS[0], config=config, priority=scoring_pb2.PRIORITY_INTERACTIVE), timeout=TIMEOUT
    )
    [batch] = served.pool.batches
    assert batch.config.network == nasbench201.NetworkConfig(channels=4, cells_per_stage=1)
    assert (batch.config.seed, batch.config.repeats, batch.config.init.value) == (2**32 - 3, 3, "pytorch")
    assert response.evaluation.scores[0].standard_error == 0.5
    config.dataset = "gaussian"
    assert response.evaluation.fingerprint.config == config


async def test_scores_many_each_index_once(served):
    encodings = [*CELLS, "garbage", CELLS[0], DISCONNECTED, "index:6111", " \t" + CELLS[1] + "\n", *CELLS * 3]
    results = await results_of(served.stub.ScoreArchitectures(many(encodings), timeout=TIMEOUT))
    assert sorted(results) == list(range(len(encodings)))
    for index, encoding in enumerate(encodings):
        if encoding == "garbage":
            assert results[index].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
            continue
        [score] = results[index].evaluation.scores
        if encoding == DISCONNECTED:
            assert score.outcome == scoring_pb2.OUTCOME_DEGENERATE
            assert not score.HasField("value")
        else:
            assert score.value == fake_value(nasbench201.parse(encoding).format(), "tcet")
            assert results[index].evaluation.fingerprint.config.batch_size == 64
    assert sorted(served.pool.evaluated) == sorted(CELLS)


async def test_results_come_as_they_finish(served):
    served.pool.gate.clear()
    call = served.stub.ScoreArchitectures(many([CELLS[0], "garbage", DISCONNECTED]), timeout=TIMEOUT)
    first = await call.read()
    assert {result.index for result in first.results} == {1, 2}
    served.pool.gate.set()
    assert [result.index for result in (await call.read()).results] == [0]
    assert await call.read() is grpc.aio.EOF


async def test_what_is_ready_shares_messages(served):
    call = served.stub.ScoreArchitectures(many([DISCONNECTED] * 600), timeout=TIMEOUT)
    sizes = [len(response.results) async for response in call]
    assert sizes == [256, 256, 88]


@pytest.mark.parametrize("encoding", [DISCONNECTED, CELLS[0]])
async def test_sizes_need_no_worker(served, encoding):
    served.pool.gate.clear()
    response = await served.stub.ScoreArchitecture(one(encoding, ["parameters", "flops"]), timeout=TIMEOUT)
    expected = nasbench201.parse(encoding).describe(nasbench201.NetworkConfig(), resolution=32, num_classes=10)
    assert [score.value for score in response.evaluation.scores] == [expected.parameters, expected.flops]
    assert served.pool.batches == []


async def test_degenerate_still_has_sizes(served):
    response = await served.stub.ScoreArchitecture(one(DISCONNECTED, ["tcet", "parameters"]), timeout=TIMEOUT)
    outcomes = [score.outcome for score in response.evaluation.scores]
    assert outcomes == [scoring_pb2.OUTCOME_DEGENERATE, scoring_pb2.OUTCOME_OK]


async def test_non_finite_has_no_value(served):
    served.pool.non_finite.add(CELLS[0])
    response = await served.stub.ScoreArchitecture(one(CELLS[0]), timeout=TIMEOUT)
    [score] = response.evaluation.scores
    assert score.outcome == scoring_pb2.OUTCOME_NON_FINITE
    assert not score.HasField("value")


async def test_the_longest_request_leaves_others_their_turn(served):
    served.pool.gate.clear()
    long = asyncio.create_task(
        results_of(served.stub.ScoreArchitectures(many([DISCONNECTED] * 10_000, ["tcet", "parameters"]), timeout=60))
    )
    await asyncio.sleep(0.05)
    assert not long.done()
    await asyncio.wait_for(served.stub.ListSearchSpaces(scoring_pb2.ListSearchSpacesRequest()), 0.5)
    assert len(await long) == 10_000


async def test_describes(served):
    config = scoring_pb2.EvaluationConfig(
        nasbench201=scoring_pb2.NasBench201Config(channels=4, cells_per_stage=1), resolution=16, num_classes=100
    )
    response = await served.stub.DescribeArchitecture(
        scoring_pb2.DescribeArchitectureRequest(architecture=architecture("index:6111"), config=config), timeout=TIMEOUT
    )
    cell = nasbench201.from_index(6111)
    expected = cell.describe(nasbench201.NetworkConfig(4, 1), resolution=16, num_classes=100)
    assert response.canonical_encoding == cell.format()
    assert response.connected is True
    assert (response.parameters, response.flops) == (expected.parameters, expected.flops)
    assert response.parameters_with_residual_links == expected.parameters_with_residual_links
    assert response.flops_with_residual_links == expected.flops_with_residual_links
    assert [layer.name for layer in response.layers] == [layer.name for layer in expected.layers]
    assert [layer.flops for layer in response.layers] == [layer.flops for layer in expected.layers]
    assert [layer.weights for layer in response.layers] == [layer.weights for layer in expected.layers]
    assert response.config.batch_size == 64
    assert response.config.resolution == 16
    assert served.pool.batches == []


async def test_lists_the_registry(served):
    response = await served.stub.ListProxies(scoring_pb2.ListProxiesRequest(), timeout=TIMEOUT)
    assert [proxy.name for proxy in response.proxies] == registry.names()
    assert response.next_page_token == ""
    for proxy in response.proxies:
        registered = registry.get(proxy.name)
        assert (proxy.version, proxy.description, proxy.paper) == (
            registered.version,
            registered.description,
            registered.paper,
        )
        assert proxy.direction != scoring_pb2.DIRECTION_UNSPECIFIED
        assert list(proxy.passes) == [str(needed) for needed in registered.passes]


async def test_pages_of_proxies(served):
    names, token = [], ""
    for _ in range(100):
        response = await served.stub.ListProxies(
            scoring_pb2.ListProxiesRequest(page_size=4, page_token=token), timeout=TIMEOUT
        )
        names += [proxy.name for proxy in response.proxies]
        token = response.next_page_token
        if not token:
            break
        assert len(response.proxies) == 4
    assert names == registry.names()


async def test_lists_search_spaces(served):
    response = await served.stub.ListSearchSpaces(scoring_pb2.ListSearchSpacesRequest(), timeout=TIMEOUT)
    assert [space.name for space in response.search_spaces] == sorted(SPACES)
    for space in response.search_spaces:
        assert SPACES[space.name].parse(space.example)
        assert space.default_config.batch_size == 64
        assert space.resolution_multiple == SPACES[space.name].resolution_multiple


async def test_says_what_runs(served):
    info = await served.stub.GetServerInfo(scoring_pb2.GetServerInfoRequest(), timeout=TIMEOUT)
    assert (info.archscore_version, info.torch_version, info.numpy_version) == (__version__, "9.9.9+puppet", "8.8.8")
    assert [(device.kind, device.name, device.workers) for device in info.devices] == [("cpu", "puppet", 2)]
    assert [dataset.name for dataset in info.datasets] == ["gaussian"]
    assert info.limits == scoring_pb2.Limits(
        max_architectures_per_request=10_000,
        max_batch_size=512,
        max_resolution=128,
        max_num_classes=10_000,
        max_repeats=64,
        max_channels=64,
        max_cells_per_stage=10,
        max_message_bytes=4 * 2**20,
        max_queued_architectures=100_000,
        max_encoding_length=10_000,
        max_parameters=500_000_000,
        max_flops=100_000_000_000,
        max_layers=1_000,
        max_in_flight_per_client=50_000,
        max_work=10_000_000_000_000,
        max_bytes=0,  # the puppet does not know how much memory it has
    )


async def test_messages_over_the_limit_are_grpcs_own_error():
    async with serving(limits=Limits(max_message_bytes=10_000)) as served:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.stub.ScoreArchitecture(one("x" * 20_000), timeout=TIMEOUT)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "grpc-status-details-bin" not in dict(caught.value.trailing_metadata() or ())
        await served.stub.ScoreArchitecture(one(CELLS[0]), timeout=TIMEOUT)


async def test_a_failing_architecture_fails_alone(served):
    served.pool.poisoned.add(CELLS[1])
    results = await results_of(served.stub.ScoreArchitectures(many(CELLS), timeout=TIMEOUT))
    assert [index for index in sorted(results) if results[index].HasField("error")] == [1]
    assert results[1].error.code == grpc.StatusCode.INTERNAL.value[0]
    status = await status_of(served.stub.ScoreArchitecture(one(CELLS[1]), timeout=TIMEOUT))
    assert status == results[1].error
    assert "secret" not in str(status)
