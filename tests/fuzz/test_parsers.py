"""Whatever text a parser is given, it reads it or says where and why not; a short run of what `make fuzz` does."""

import random
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from archscore.spaces import EncodingError, nasbench201, zennas
from fuzz import encodings, parsers
from fuzz.properties import CountingText, check, check_work
from fuzz.tally import ViolationError

SPACES = st.sampled_from(encodings.SPACE_NAMES)


def made_by(*makers: Callable[[str, random.Random], str]) -> st.SearchStrategy[tuple[str, str]]:
    """Search spaces and texts that the generator of the long run makes, with randomness that hypothesis can shrink."""
    return st.tuples(SPACES, st.sampled_from(makers), st.randoms(use_true_random=False)).map(
        lambda drawn: (drawn[0], drawn[1](drawn[0], drawn[2]))
    )


@given(made_by(encodings.valid))
@settings(deadline=None, derandomize=True, max_examples=150)
def test_what_the_grammars_accept(drawn: tuple[str, str]) -> None:
    space, text = drawn
    assert check(space, text) != "malformed"


@given(made_by(encodings.mutated, encodings.spliced, encodings.words))
@settings(deadline=None, derandomize=True, max_examples=400)
def test_what_is_almost_right(drawn: tuple[str, str]) -> None:
    check(*drawn)
    check_work(*drawn)


@given(SPACES, st.text(st.characters()))
@example("nasbench201", "index:٣")
@example("zennas", "SuperConvK3BNRELU(3,٨,1,1)")
@example("zennas", "SuperConvK3BNRELU(3,8,1,1)\0")
@example("nasbench201", "\ud800")
@example("zennas", "SuperConvK3BNRELU(3," + "9" * 10_000)
@example("zennas", "SuperConvK3BNRELU(" * 2_000)
@settings(deadline=None, derandomize=True, max_examples=400)
def test_any_text(space: str, text: str) -> None:
    check(space, text)


def test_a_short_run() -> None:
    tally = parsers.run_block(7, 0, 3_000)
    assert not tally.violations, "\n".join(tally.violations)
    assert tally.inputs == 3_000
    assert {outcome.partition(" ")[2] for outcome in tally.outcomes} == {
        *("let in", "malformed", "no network", "too large"),
    }


def test_the_same_seed_and_number_make_the_same_input() -> None:
    assert [encodings.encoding(1, number) for number in range(200)] == [
        encodings.encoding(1, number) for number in range(200)
    ]
    assert encodings.encoding(1, 5) != encodings.encoding(2, 5)


def parser_that(raises: Exception) -> Callable[[str], object]:
    def parse(text: str) -> object:
        raise raises

    return parse


@pytest.mark.parametrize(
    "raises",
    [
        EncodingError(-1, "x"),
        EncodingError(10_000_000, "x"),
        EncodingError(0, "two\nlines"),
        EncodingError(0, "x" * 1_000),
        RecursionError(),
        ValueError("no such luck"),
    ],
)
def test_a_parser_that_fails_otherwise_is_found(raises: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {
        space.name: type(space)(space.name, "", "", space.network, 1, parser_that(raises), space.sample)
        for space in (nasbench201.SPACE, zennas.SPACE)
    }
    monkeypatch.setattr("fuzz.properties.SPACES", broken)
    assert len(parsers.run_block(1, 0, 3).violations) == 3


def test_work_that_grows_faster_than_the_text_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(text: CountingText) -> object:
        return [text[start:] for start in range(len(text))]

    broken = type(zennas.SPACE)("zennas", "", "", None, 1, parse, zennas.SPACE.sample)
    monkeypatch.setattr("fuzz.properties.SPACES", {"zennas": broken})
    with pytest.raises(ViolationError, match="looked at"):
        check_work("zennas", "x" * 1_000)
