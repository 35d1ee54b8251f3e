"""Counters after a scripted load, as Prometheus reads them."""

import contextlib
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from archscore.spaces import nasbench201
from archscore.v1 import scoring_pb2
from archscore_server.clients import CALLER, Caller
from archscore_server.metrics import ArchitectureOutcome, Metrics
from support.serving import COMPUTE_SECONDS, TIMEOUT, eventually, many, one, results_of, status_of

CELLS = [nasbench201.from_index(index).format() for index in (6111, 1462, 13714, 81, 1459)]
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
    batches = len(served.pool.batches)
    failed_batches = sum(CELLS[1] in [a.format() for a in batch.architectures] for batch in served.pool.batches)
    service = "archscore.v1.ScoringService"
    expected = {
        ("archscore_architectures_total", "nasbench201", "ok"): 5,
        ("archscore_architectures_total", "nasbench201", "non_finite"): 1,
        ("archscore_architectures_total", "failed", "nasbench201"): 1,
        ("archscore_architectures_total", "invalid", "nasbench201"): 3,
        ("archscore_architectures_total", "degenerate", "nasbench201"): 1,
        ("archscore_architectures_total", "cancelled", "nasbench201"): 1,
        ("archscore_rpcs_total", "OK", f"{service}/ScoreArchitectures"): 1,
        ("archscore_rpcs_total", "OK", f"{service}/ScoreArchitecture"): 1,
        ("archscore_rpcs_total", "INVALID_ARGUMENT", f"{service}/ScoreArchitecture"): 2,
        ("archscore_rpcs_total", "CANCELLED", f"{service}/ScoreArchitecture"): 1,
        ("archscore_rpcs_total", "OK", f"{service}/ListProxies"): 1,
        ("archscore_rpc_seconds_count", f"{service}/ScoreArchitectures"): 1,
        ("archscore_rpc_seconds_count", f"{service}/ScoreArchitecture"): 4,
        ("archscore_rpc_seconds_count", f"{service}/ListProxies"): 1,
        ("archscore_queued_architectures",): 0,
        ("archscore_merged_total",): 1,
        ("archscore_workers_ready",): 2,
        ("archscore_workers",): 2,
        ("archscore_store_scores_total", "hit"): 1,
        ("archscore_store_scores_total", "miss"): 7,
        ("archscore_store_up",): 1,
    }
    assert {name: samples.get(name) for name in expected} == expected
    counted = {name for name in samples if name[0] in ("archscore_architectures_total", "archscore_rpcs_total")}
    assert counted == {
        name for name in expected if name[0] in ("archscore_architectures_total", "archscore_rpcs_total")
    }
    batch_sizes = [value for name, value in samples.items() if name[0] == "archscore_batch_size_count"]
    assert sum(batch_sizes) == batches
    batched = [value for name, value in samples.items() if name[0] == "archscore_batch_size_sum"]
    assert sum(batched) == len(served.pool.evaluated)
    assert samples[("archscore_compute_seconds_total",)] == pytest.approx(COMPUTE_SECONDS * (batches - failed_batches))
    retried = samples.get(("archscore_retried_total", "batch_failed"), 0)
    assert retried == len(served.pool.evaluated) - 6


async def test_queue_depth_is_seen(served):
    served.pool.gate.clear()
    call = served.stub.ScoreArchitectures(
        many([f"index:{index}" for index in range(1_000, 1_200)], ["naswot"]), timeout=TIMEOUT
    )
    await eventually(lambda: len(served.pool.batches) == 2)
    running = len(served.pool.evaluated)
    in_flight = served.server._scheduler.in_flight
    assert scrape(served)[("archscore_queued_architectures",)] == in_flight - running > 0
    served.pool.gate.set()
    assert len(await results_of(call)) == 200
    assert scrape(served)[("archscore_queued_architectures",)] == 0


def test_callers_have_a_time_series_each_up_to_a_number(monkeypatch):
    monkeypatch.setattr("archscore_server.metrics._MAX_CLIENTS", 3)
    metrics = Metrics()

    def ask(name, authenticated=True):
        with caller(Caller(name, authenticated)):
            metrics.architectures_ended("nasbench201", ArchitectureOutcome.OK, 2)

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
