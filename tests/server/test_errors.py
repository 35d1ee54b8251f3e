"""Statuses stay small and on one line, whatever was sent."""

import pytest
from google.rpc import code_pb2, error_details_pb2
from hypothesis import given
from hypothesis import strategies as st

from archscore_server import errors
from archscore_server.errors import RequestError, Violations, quote
from support.serving import details, retry_seconds, violations


@given(st.text())
def test_quoted_input_is_short_ascii_on_one_line(text):
    quoted = quote(text)
    assert quoted.isascii()
    assert quoted.isprintable()
    assert len(quoted) < 700


@given(st.lists(st.tuples(st.text(st.characters(codec="ascii"), max_size=80), st.text(max_size=600).map(quote))))
def test_statuses_fit_a_trailer(found):
    status = errors.invalid_argument(found)
    assert status.ByteSize() < 5_500
    assert len(status.message) < 600


def test_all_violations_up_to_twenty():
    found = Violations()
    for number in range(30):
        found.add(f"proxies[{number}]", "wrong")
    assert found.full
    with pytest.raises(RequestError) as caught:
        found.raise_if_any()
    assert violations(caught.value.status) == {f"proxies[{number}]": "wrong" for number in range(20)}
    assert caught.value.status.message.endswith("(and 27 more)")


def test_nothing_is_raised_where_nothing_is_wrong():
    Violations().raise_if_any()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.queue_full(1.25), code_pb2.RESOURCE_EXHAUSTED),
        (errors.starting(), code_pb2.UNAVAILABLE),
        (errors.draining(), code_pb2.UNAVAILABLE),
    ],
)
def test_what_may_be_tried_again_says_when(error, code):
    assert error.status.code == code
    assert error.trailers == (("grpc-retry-pushback-ms", str(round(retry_seconds(error.status) * 1000))),)


def test_metadata_of_reasons():
    info = details(errors.dataset_not_found("npz:a", "a.npz").status)[error_details_pb2.ErrorInfo]
    assert (info.domain, info.reason, info.metadata) == (
        "archscore",
        "DATASET_NOT_FOUND",
        {"dataset": "npz:a", "file": "a.npz"},
    )
