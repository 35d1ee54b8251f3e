"""Answers out of the store that are kept as they were written: nobody can tell, but for the time that they take."""

import pytest

from archscore.spaces import nasbench201
from archscore.v1 import scoring_pb2
from archscore_server import answers
from support.serving import fake_value, many, one, results_of, serving

CELLS = ["index:6111", "index:81", "index:1462"]
TIMEOUT = 10.0


@pytest.fixture
async def served():
    async with serving() as running:
        yield running


async def ask(served, proxies=("tcet", "ssnr"), **fields):
    results = await results_of(served.stub.ScoreArchitectures(many(CELLS, proxies, **fields), timeout=TIMEOUT))
    return [results[index].evaluation for index in range(len(CELLS))]


def keeping(monkeypatch):
    """The encodings whose answers are written anew from here on, and so may be kept."""
    encodings = []
    keep = answers.Answers.keep

    def listen(self, kept, encoding, *rest):
        encodings.append(encoding)
        keep(self, kept, encoding, *rest)

    monkeypatch.setattr(answers.Answers, "keep", listen)
    return encodings


async def test_an_answer_is_the_same_however_often_it_is_given(served):
    first = await ask(served)
    second, third, fourth = [await ask(served) for _ in range(3)]
    assert not any(score.stored for evaluation in first for score in evaluation.scores)
    assert all(score.stored for evaluation in second for score in evaluation.scores)
    assert second == third == fourth
    for evaluation in first:
        for score in evaluation.scores:
            score.stored = True
    assert first == second
    assert len(served.pool.evaluated) == len(CELLS)


async def test_one_is_answered_like_many(served):
    await ask(served)
    [evaluation, *_] = await ask(served)
    for _ in range(2):
        response = await served.stub.ScoreArchitecture(one(CELLS[0], ("tcet", "ssnr")), timeout=TIMEOUT)
        assert response.evaluation == evaluation


async def test_what_is_asked_otherwise_is_another_answer(served):
    for _ in range(3):
        await ask(served)
    swapped = await ask(served, proxies=("ssnr", "tcet"))
    assert [score.proxy for score in swapped[0].scores] == ["ssnr", "tcet"]
    other = await ask(served, config=scoring_pb2.EvaluationConfig(seed=7))
    assert other[0].fingerprint.config.seed == 7
    assert not other[0].scores[0].stored
    some = await ask(served, proxies=("tcet",))
    assert [score.value for score in some[0].scores] == [fake_value(nasbench201.parse(CELLS[0]).format(), "tcet")]


async def test_all_is_counted(served):
    def counted():
        return (
            served.metric("archscore_architectures_total", space="nasbench201", outcome="ok"),
            served.metric("archscore_store_scores_total", result="hit"),
        )

    await ask(served)
    before = counted()
    for _ in range(4):
        await ask(served)
    assert counted() == (before[0] + 4 * len(CELLS), before[1] + 4 * len(CELLS) * 2)


async def test_partly_stored_is_not_kept(served):
    await ask(served, proxies=("tcet",))
    partly = await ask(served)
    assert [score.stored for score in partly[0].scores] == [True, False]
    fully = await ask(served)
    assert [score.stored for score in fully[0].scores] == [True, True]


async def test_proxies_that_need_no_device_are_answered_with_the_others(served):
    for _ in range(3):
        evaluations = await ask(served, proxies=("tcet", "parameters"))
    assert [(score.proxy, score.stored) for score in evaluations[0].scores] == [("tcet", True), ("parameters", False)]


async def test_an_answer_is_kept_once(served, monkeypatch):
    kept = keeping(monkeypatch)
    await ask(served)
    assert kept == [], "what was just computed is not out of the store"
    for _ in range(3):
        await ask(served)
    assert kept == CELLS


async def test_long_answers_are_not_kept(served, monkeypatch):
    monkeypatch.setattr(answers, "_MAX_BYTES", 10)
    kept = keeping(monkeypatch)
    await ask(served)
    for _ in range(2):
        assert all(score.stored for evaluation in await ask(served) for score in evaluation.scores)
    assert kept == 2 * CELLS
