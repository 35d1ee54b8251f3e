"""Scores that are in the store are answered without a worker, and every result that a worker reports gets there."""

import asyncio

import pytest
from google.rpc import code_pb2

from archscore.spaces import nasbench201
from archscore.v1 import scoring_pb2
from archscore_server.engine import ArchitectureTooLargeError
from support.serving import TIMEOUT, details, eventually, many, one, reason, results_of, serving

CELLS = [cell.format() for cell in map(nasbench201.from_index, range(0, 15_000, 1000)) if cell.connected]
DISCONNECTED = nasbench201.Cell(("none",) * 6).format()


def stored(evaluation):
    return {score.proxy: score.stored for score in evaluation.scores}


async def test_what_was_scored_once_is_not_evaluated_again(served):
    first = (await served.stub.ScoreArchitecture(one(CELLS[0], ["tcet", "ssnr"]), timeout=TIMEOUT)).evaluation
    second = (await served.stub.ScoreArchitecture(one(CELLS[0], ["tcet", "ssnr"]), timeout=TIMEOUT)).evaluation
    assert stored(first) == {"tcet": False, "ssnr": False}
    assert stored(second) == {"tcet": True, "ssnr": True}
    assert [score.value for score in second.scores] == [score.value for score in first.scores]
    assert second.fingerprint == first.fingerprint
    assert len(served.pool.batches) == 1


async def test_only_what_is_missing_is_evaluated(served):
    await served.stub.ScoreArchitecture(one(CELLS[0], ["tcet"]), timeout=TIMEOUT)
    answer = await served.stub.ScoreArchitecture(one(CELLS[0], ["snip", "flops", "tcet"]), timeout=TIMEOUT)
    assert stored(answer.evaluation) == {"snip": False, "flops": False, "tcet": True}
    assert [score.proxy for score in answer.evaluation.scores] == ["snip", "flops", "tcet"]
    assert [batch.proxies for batch in served.pool.batches] == [("tcet",), ("snip",)]


async def test_encodings_of_one_architecture_share_their_scores(served):
    cell = nasbench201.from_index(6111)
    await served.stub.ScoreArchitecture(one(f" {cell.format()}\n"), timeout=TIMEOUT)
    answer = await served.stub.ScoreArchitecture(one("index:6111"), timeout=TIMEOUT)
    assert stored(answer.evaluation) == {"tcet": True}


@pytest.mark.parametrize(
    "config",
    [
        {"seed": 1},
        {"batch_size": 32},
        {"repeats": 2},
        {"precision": "PRECISION_FLOAT64"},
        {"nasbench201": scoring_pb2.NasBench201Config(channels=8)},
    ],
    ids=str,
)
async def test_a_score_of_another_config_is_another_score(served, config):
    await served.stub.ScoreArchitecture(one(CELLS[0]), timeout=TIMEOUT)
    other = scoring_pb2.EvaluationConfig(**config)
    answer = await served.stub.ScoreArchitecture(one(CELLS[0], config=other), timeout=TIMEOUT)
    assert stored(answer.evaluation) == {"tcet": False}


async def test_streams_mix_what_is_stored_with_what_is_not(served):
    await results_of(served.stub.ScoreArchitectures(many(CELLS[::2]), timeout=TIMEOUT))
    encodings = [*CELLS, DISCONNECTED, "nonsense"]
    results = await results_of(served.stub.ScoreArchitectures(many(encodings), timeout=TIMEOUT))
    assert sorted(results) == list(range(len(encodings)))
    for index in range(len(CELLS)):
        assert stored(results[index].evaluation) == {"tcet": index % 2 == 0}
    degenerate = results[len(CELLS)].evaluation.scores[0]
    assert (degenerate.outcome, degenerate.stored) == (scoring_pb2.OUTCOME_DEGENERATE, False)
    assert results[len(CELLS) + 1].error.code == code_pb2.INVALID_ARGUMENT
    assert sorted(served.pool.evaluated) == sorted(CELLS)


async def test_a_score_that_is_not_finite_is_stored_too(served):
    served.pool.non_finite.add(CELLS[0])
    for expected in (False, True):
        answer = await served.stub.ScoreArchitecture(one(CELLS[0]), timeout=TIMEOUT)
        [score] = answer.evaluation.scores
        assert (score.outcome, score.stored) == (scoring_pb2.OUTCOME_NON_FINITE, expected)
        assert not score.HasField("value")


async def test_a_failure_is_not_stored(served):
    served.pool.poisoned.add(CELLS[0])
    for _ in range(2):
        [result] = (await results_of(served.stub.ScoreArchitectures(many(CELLS[:1]), timeout=TIMEOUT))).values()
        assert reason(result.error) == "ARCHITECTURE_FAILED"
    assert len(served.pool.batches) == 2


async def test_a_result_that_nobody_waits_for_any_longer_is_stored(served):
    served.pool.gate.clear()
    call = served.stub.ScoreArchitecture(one(CELLS[0]), timeout=TIMEOUT)
    await eventually(lambda: len(served.pool.batches) == 1)
    call.cancel()
    await eventually(lambda: served.server._scoring._active == 0)
    served.pool.gate.set()
    await eventually(lambda: served.server._scheduler.in_flight == 0)
    answer = await served.stub.ScoreArchitecture(one(CELLS[0]), timeout=TIMEOUT)
    assert stored(answer.evaluation) == {"tcet": True}


async def test_an_architecture_that_a_worker_has_no_memory_for_fails_alone(served):
    served.pool.too_large[CELLS[1]] = ArchitectureTooLargeError(100, 10)
    results = await results_of(served.stub.ScoreArchitectures(many(CELLS[:3]), timeout=TIMEOUT))
    assert results[0].HasField("evaluation")
    assert results[2].HasField("evaluation")
    error = results[1].error
    assert (error.code, reason(error)) == (code_pb2.RESOURCE_EXHAUSTED, "ARCHITECTURE_TOO_LARGE")
    [info] = (detail for detail in details(error).values() if hasattr(detail, "metadata"))
    assert dict(info.metadata) == {"limit": "max_bytes", "value": "100", "most": "10"}


async def test_scores_outlive_the_server(tmp_path):
    file = tmp_path / "scores.sqlite"
    async with serving(store=file) as served:
        first = await served.stub.ScoreArchitecture(one(CELLS[0]), timeout=TIMEOUT)
    async with serving(store=file) as served:
        second = await served.stub.ScoreArchitecture(one(CELLS[0]), timeout=TIMEOUT)
        assert served.pool.batches == []
    assert stored(second.evaluation) == {"tcet": True}
    assert second.evaluation.scores[0].value == first.evaluation.scores[0].value


async def test_without_a_usable_file_everything_is_scored_all_the_same(tmp_path):
    file = tmp_path / "scores.sqlite"
    file.write_bytes(b"no database" * 1000)
    async with serving(store=file) as served:
        answers = await asyncio.gather(*(served.stub.ScoreArchitecture(one(cell), timeout=TIMEOUT) for cell in CELLS))
    assert all(answer.evaluation.scores[0].HasField("value") for answer in answers)
    assert file.read_bytes() == b"no database" * 1000
