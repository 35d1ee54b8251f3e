"""What is put together from bytes is what protobuf would have written, for whoever parses it."""

import pytest
from google.rpc import status_pb2

from archscore.v1 import scoring_pb2
from archscore_server import serialized


def result(number):
    """Of every kind, without its index."""
    if number % 3 == 0:
        return scoring_pb2.ArchitectureResult(error=status_pb2.Status(code=number, message="x" * number))
    scores = [scoring_pb2.ProxyScore(proxy="tcet", value=number / 7)] * (number % 3)
    return scoring_pb2.ArchitectureResult(evaluation=scoring_pb2.Evaluation(scores=scores))


@pytest.mark.parametrize("count", [0, 1, 200])
def test_response(count):
    expected = scoring_pb2.ScoreArchitecturesResponse()
    written = []
    for number in range(count):
        index = number**3  # also of several bytes
        expected.results.add(index=index).MergeFrom(result(number))
        written.append(serialized.numbered(index, result(number).SerializeToString()))
    assert scoring_pb2.ScoreArchitecturesResponse.FromString(serialized.response(written)) == expected
