"""Counters after a scripted load, as Prometheus reads them."""

import contextlib
import urllib.request

import grpc
import grpc.aio
import pytest
from prometheus_client.parser import text_string_to_metric_families

from archscore.spaces import nasbench201
from archscore.v1 import scoring_pb2
from archscore_server.clients import CALLER, Caller
from archscore_server.metrics import ArchitectureOutcome, Metrics
from support.serving import COMPUTE_SECONDS, TIMEOUT, eventually, many, one, results_of, status_of

CELLS = [nasbench201.from_index(index).format() for index in (6111, 1462, 13714, 81, 1459)]
SERVICE = "archscore.v1.ScoringService"
DISCONNECTED = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"


@contextlib.contextmanager
def caller(who):
    """Has somebody make the current RPC."""
    token = CALLER.set(who)
    yield
    CALLER.reset(token)


def scrape(served):
    """Every sample on the page by name and label values."""
    with urllib.request.urlopen(f"http://127.0.0.1:{served.server.metrics_port}/metrics", timeout=TIMEOUT) as response:
        text = response.read().decode()
    samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            if not sample.name.endswith(("_bucket", "_created")):
                samples[(sample.name, *sorted(sample.labels.values()))] = sample.value
    return samples


async def test_a_scripted_load_is_counted_exactly(served):
    served.pool.poisoned.add(CELLS[1])
    served.pool.non_finite.add(CELLS[2])
    encodings = [*CELLS, CELLS[0], "garbage", "", DISCONNECTED]
    await results_of(served.stub.ScoreArchitectures(many(encodings), timeout=TIMEOUT))
    await served.stub.ScoreArchitecture(one(CELLS[3]), timeout=TIMEOUT)
    await status_of(served.stub.ScoreArchitecture(one("garbage"), timeout=TIMEOUT))
    await status_of(served.stub.ScoreArchitecture(one(CELLS[0], []), timeout=TIMEOUT))
    await served.stub.ListProxies(scoring_pb2.ListProxiesRequest(), timeout=TIMEOUT)

    served.pool.gate.clear()
    call = served.stub.ScoreArchitecture(one("index:4711"), timeout=TIMEOUT)
    await eventually(lambda: served.server._scheduler.in_flight == 1)
    call.cancel()
    cancelled = ("archscore_rpcs_total", "CANCELLED", "archscore.v1.ScoringService/ScoreArchitecture")
    await eventually(lambda: scrape(served).get(cancelled) == 1)
    served.pool.gate.set()
    await eventually(lambda: served.server._scheduler.in_flight == 0)

    samples = scrape(served)
    expected = {
        ("archscore_architectures_total", "nasbench201", "ok"): 5,
        ("archscore_architectures_total", "nasbench201", "non_finite"): 1,
        ("archscore_architectures_total", "failed", "nasbench201"): 1,
        ("archscore_architectures_total", "invalid", "nasbench201"): 3,
        ("archscore_architectures_total", "degenerate", "nasbench201"): 1,
        ("archscore_architectures_total", "cancelled", "nasbench201"): 1,
        ("archscore_rpcs_total", "OK", f"{SERVICE}/ScoreArchitectures"): 1,
        ("archscore_rpcs_total", "OK", f"{SERVICE}/ScoreArchitecture"): 1,
        ("archscore_rpcs_total", "INVALID_ARGUMENT", f"{SERVICE}/ScoreArchitecture"): 2,
        ("archscore_rpcs_total", "CANCELLED", f"{SERVICE}/ScoreArchitecture"): 1,
        ("archscore_rpcs_total", "OK", f"{SERVICE}/ListProxies"): 1,
    }
    names = {name for name, *_ in expected}
    assert {key: value for key, value in samples.items() if key[0] in names and value} == expected
    batches = len(served.pool.batches)
    failed_batches = sum(CELLS[1] in [a.format() for a in batch.architectures] for batch in served.pool.batches)
    computed = COMPUTE_SECONDS * (batches - failed_batches)
    assert samples["archscore_compute_seconds_total", "other"] == pytest.approx(computed)
    retried = samples["archscore_retried_total", "batch_failed"]
    assert retried == len(served.pool.evaluated) - 6


async def test_scores_are_counted_by_what_became_of_each(served):
    """A score of an architecture that is not OK may itself be."""
    served.pool.non_finite.add(CELLS[1])
    encodings = [CELLS[0], CELLS[1], DISCONNECTED, "garbage"]
    for _ in range(3):  # computed, out of the store, and as answered before
        await results_of(served.stub.ScoreArchitectures(many(encodings, ["tcet", "parameters"]), timeout=TIMEOUT))
    samples = scrape(served)
    assert {key[1:]: value for key, value in samples.items() if key[0] == "archscore_scores_total"} == {
        ("nasbench201", "ok", "tcet"): 3,
        ("nasbench201", "non_finite", "tcet"): 3,
        ("degenerate", "nasbench201", "tcet"): 3,
        ("invalid", "nasbench201", "tcet"): 3,
        ("nasbench201", "ok", "parameters"): 9,
        ("invalid", "nasbench201", "parameters"): 3,
    }


async def test_time_series_do_not_grow_with_what_clients_send(served):
    async def ask(word):
        channel, stub = served.channel, served.stub
        metadata = [("archscore-client-id", word)]
        await stub.ScoreArchitecture(one(CELLS[0]), timeout=TIMEOUT, metadata=metadata)
        await stub.ScoreArchitectures(many([word]), timeout=TIMEOUT, metadata=metadata).read()
        for request in (one(CELLS[0], [word]), one(word), one(CELLS[0], ["tcet", word] * 100)):
            await status_of(stub.ScoreArchitecture(request, timeout=TIMEOUT, metadata=metadata))
        elsewhere = scoring_pb2.Architecture(space=word, encoding=CELLS[0])
        await status_of(stub.ScoreArchitecture(scoring_pb2.ScoreArchitectureRequest(architecture=elsewhere)))
        for method in (f"/{SERVICE}/{word}", f"/{word}/ScoreArchitecture", f"/{word}"):
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.unary_unary(method)(b"", timeout=TIMEOUT, metadata=metadata)

    await ask("first")
    before = set(scrape(served))
    for number in range(50):
        await ask(f"odd{number}")
    assert set(scrape(served)) == before
    assert not [key for key in before if any("first" in str(part) for part in key)]


async def test_queue_depth_is_seen(served):
    served.pool.gate.clear()
    call = served.stub.ScoreArchitectures(
        many([f"index:{index}" for index in range(1_000, 1_200)], ["naswot"]), timeout=TIMEOUT
    )
    await eventually(lambda: len(served.pool.batches) == 2)
    running = len(served.pool.evaluated)
    in_flight = served.server._scheduler.in_flight
    assert scrape(served)["archscore_queued_architectures", "default"] == in_flight - running > 0
    served.pool.gate.set()
    assert len(await results_of(call)) == 200
    assert scrape(served)["archscore_queued_architectures", "default"] == 0


def test_callers_have_a_time_series_each_up_to_a_number(monkeypatch):
    monkeypatch.setattr("archscore_server.metrics._metrics._MAX_CLIENTS", 3)
    metrics = Metrics()

    def ask(name, authenticated=True):
        with caller(Caller(name, authenticated)):
            metrics.architectures_ended("nasbench201", ["tcet"], ArchitectureOutcome.OK, 2)

    for number in (1, 2, 1, 3, 4, 5, 3):
        ask(f"token:{number}")
    for number in range(10):
        ask(f"id:{number}", authenticated=False)
    counts = {
        sample.labels["client"]: sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == "archscore_client_architectures_total"
    }
    assert counts == {"token:1": 4, "token:2": 2, "token:3": 4, "other": 4, "anonymous": 20}


def test_a_token_file_that_cannot_be_used_is_told():
    metrics = Metrics()
    assert metrics.registry.get_sample_value("archscore_tokens_stale") == 0
    metrics.tokens_usable(False)
    assert metrics.registry.get_sample_value("archscore_tokens_stale") == 1
    metrics.tokens_usable(True)
    assert metrics.registry.get_sample_value("archscore_tokens_stale") == 0
