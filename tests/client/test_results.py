"""Results are values."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from archscore import Evaluation, NoValueError, Outcome, Result, Score
from archscore.v1 import scoring_pb2

MESSAGE = scoring_pb2.Evaluation(
    scores=[
        scoring_pb2.ProxyScore(proxy="tcet", outcome="OUTCOME_OK", value=0.0, stored=True),
        scoring_pb2.ProxyScore(proxy="ssnr", outcome="OUTCOME_OK", value=2.5, standard_error=0.5),
        scoring_pb2.ProxyScore(proxy="zen", outcome="OUTCOME_NON_FINITE"),
        scoring_pb2.ProxyScore(proxy="next", outcome=99),
    ],
    fingerprint=scoring_pb2.Fingerprint(device_kind="cpu"),
)


def same():
    message = scoring_pb2.Evaluation()
    message.CopyFrom(MESSAGE)
    return Evaluation(message)


def test_scores():
    evaluation = Evaluation(MESSAGE)
    assert list(evaluation.scores.items()) == [
        ("tcet", Score(Outcome.OK, 0.0, None, stored=True)),
        ("ssnr", Score(Outcome.OK, 2.5, 0.5, stored=False)),
        ("zen", Score(Outcome.NON_FINITE, None, None, stored=False)),
        ("next", Score(Outcome.UNKNOWN, None, None, stored=False)),
    ]
    assert evaluation.scores is evaluation.scores
    assert evaluation.message == MESSAGE
    assert evaluation.fingerprint.device_kind == "cpu"


def test_values():
    evaluation = Evaluation(MESSAGE)
    assert (evaluation["tcet"], evaluation["ssnr"]) == (0.0, 2.5)
    with pytest.raises(NoValueError, match="zen has no value: non_finite"):
        evaluation["zen"]
    with pytest.raises(KeyError, match="snip"):
        evaluation["snip"]


def test_evaluations_are_frozen_values():
    evaluation, other = same(), same()
    other.message.scores[0].value = 1.0
    assert evaluation == same() != other
    assert evaluation.scores == same().scores
    assert evaluation == same(), "whether the scores were looked at or not"
    for field in ("message", "scores"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(evaluation, field, None)
    assert repr(evaluation).startswith("Evaluation(scores={'tcet': Score(outcome=<Outcome.OK: 'ok'>, value=0.0, ")


@pytest.mark.parametrize("again", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_results_can_be_copied_and_sent_elsewhere(again):
    result = Result(7, "x", Evaluation(MESSAGE), None)
    assert again(result) == result
    assert result["ssnr"] == again(result)["ssnr"] == 2.5
    assert result.to_message() == scoring_pb2.ArchitectureResult(index=7, evaluation=MESSAGE)
