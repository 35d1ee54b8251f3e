"""The ZenNAS space: what its grammar accepts, where it says no, what its networks cost, and how it is searched."""

import collections
import csv
import dataclasses
import itertools
import json
import os
import random
import re
import string
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archscore.spaces import SPACES, EncodingError, Layer, NetworkError, Size, zennas
from archscore.spaces.zennas import (
    CIFAR_BUDGET,
    KINDS,
    MAX_INTEGER,
    SEARCHED_KINDS,
    SPACE,
    START,
    Block,
    Budget,
    Genome,
    NetworkConfig,
    Unit,
    parse,
)

PLAIN, LINKED = NetworkConfig(), NetworkConfig(residual_links=True)

STEM = "SuperConvK3BNRELU(3,8,1,1)"
RESIDUAL = "SuperResK3K3(8,16,2,4,3)"
GENOME = STEM + RESIDUAL + "SuperResK1K5K1(16,16,1,8,2)SuperResIDWE4K7(16,24,2,12,1)SuperConvK1BNRELU(24,32,1,1)"

BLOCK = "one of SuperConvK{1,3,5,7}BNRELU, SuperResKkKk, SuperResK1KkK1, SuperResIDWE{1,2,4,6}Kk, with one k of 3, 5, 7"
END_OR_BLOCK = f"end of text or {BLOCK}"
IMAGE = "in = 3, the channels of an image"
ANY_INTEGER = "an integer from 1 to 999999999"
OUT, STRIDE, BOTTLENECK, SUB_LAYERS = (
    f"{name}, {ANY_INTEGER}" for name in ("out", "stride", "bottleneck", "sub_layers")
)
MEGABYTE = 1_000_000

GOLDEN = [
    case
    for case in json.loads((Path(__file__).parents[2] / "golden" / "scores.json").read_text(encoding="utf-8"))
    if case["space"] == "zennas"
]


# Encodings


def test_parses_blocks_in_order() -> None:
    assert parse(GENOME).blocks == (
        Block("SuperConvK3BNRELU", 3, 8, 1, None, 1),
        Block("SuperResK3K3", 8, 16, 2, 4, 3),
        Block("SuperResK1K5K1", 16, 16, 1, 8, 2),
        Block("SuperResIDWE4K7", 16, 24, 2, 12, 1),
        Block("SuperConvK1BNRELU", 24, 32, 1, None, 1),
    )


def test_every_kind_of_block_is_read() -> None:
    assert len(KINDS) == 4 + 3 + 3 + 12
    for name, kind in KINDS.items():
        block = parse(f"{name}(3,8,1,1)" if kind.family == "conv" else f"{name}(3,8,1,4,1)").blocks[0]
        assert (block.kind, kind.name) == (name, name)
    assert {kind.expansion for kind in KINDS.values() if kind.family != "inverted"} == {1}


@pytest.mark.parametrize(
    "text",
    [
        GENOME,
        f" \t\r\n\v\f{GENOME}\n ",
        GENOME.replace("(", "(b|"),
        GENOME.replace("(", "(_|"),
        GENOME.replace("(", "(3|"),
        GENOME.replace("(", "(0|"),
        GENOME.replace("(", "(007_Block|"),
        GENOME.replace("(", f"({'9' * 20}|"),
        GENOME.replace("(", "(stem|", 1),
    ],
)
def test_names_and_white_space_around_are_dropped(text: str) -> None:
    assert parse(text) == parse(GENOME)
    assert parse(text).format() == GENOME


@pytest.mark.parametrize("number", [1, 9, 10, 123_456_789, MAX_INTEGER])
def test_integers_have_one_to_nine_digits(number: int) -> None:
    text = f"SuperResK3K3(3,{number},{number},{number},{number})"
    assert parse(text).blocks == (Block("SuperResK3K3", 3, number, number, number, number),)
    assert parse(text).format() == text


@pytest.mark.parametrize(
    ("text", "position", "expected"),
    [
        # where a block starts
        pytest.param("", 0, BLOCK, id="empty"),
        pytest.param(" \n ", 3, BLOCK, id="white space only"),
        pytest.param("\0", 0, BLOCK, id="NUL"),
        pytest.param("\u00a0" + STEM, 0, BLOCK, id="white space that is not ASCII"),
        pytest.param("\ufeff" + STEM, 0, BLOCK, id="byte order mark"),
        pytest.param("(3,8,1,1)", 0, BLOCK, id="no kind"),
        pytest.param("SuperPool(3,8,1,1)", 0, BLOCK, id="unknown kind"),
        pytest.param("  SuperPool(3,8,1,1)", 2, BLOCK, id="offset counts leading white space"),
        pytest.param("superconvk3bnrelu(3,8,1,1)", 0, BLOCK, id="kind in lower case"),
        pytest.param("SuperConvK2BNRELU(3,8,1,1)", 0, BLOCK, id="even kernel"),
        pytest.param("SuperConvK9BNRELU(3,8,1,1)", 0, BLOCK, id="kernel 9"),
        pytest.param("SuperConvK3BN(3,8,1,1)", 0, BLOCK, id="no ReLU"),
        pytest.param("SuperResK1K1(3,8,1,4,1)", 0, BLOCK, id="basic unit of kernel 1"),
        pytest.param("SuperResK3K5(3,8,1,4,1)", 0, BLOCK, id="unequal kernels"),
        pytest.param("SuperResK1K1K1(3,8,1,4,1)", 0, BLOCK, id="bottleneck of kernel 1"),
        pytest.param("SuperResIDWE3K3(3,8,1,4,1)", 0, BLOCK, id="expansion 3"),
        pytest.param("SuperResIDWE4K1(3,8,1,4,1)", 0, BLOCK, id="depthwise kernel 1"),
        pytest.param("SuperConvK\uff13BNRELU(3,8,1,1)", 0, BLOCK, id="digit of full width"),
        pytest.param("\U0001f600", 0, BLOCK, id="outside the basic plane"),
        pytest.param("\ud800", 0, BLOCK, id="lone surrogate"),
        pytest.param("|nor_conv_3x3~0|", 0, BLOCK, id="cell"),
        pytest.param("SuperConvK3BNREL", 0, BLOCK, id="cut inside a kind"),
        pytest.param(STEM + "SuperRes", 26, END_OR_BLOCK, id="cut inside a later kind"),
        pytest.param(STEM + "x", 26, END_OR_BLOCK, id="trailing word"),
        pytest.param(STEM + ")", 26, END_OR_BLOCK, id="closed twice"),
        pytest.param(STEM + " " + RESIDUAL, 26, END_OR_BLOCK, id="white space between blocks"),
        pytest.param(STEM + "," + RESIDUAL, 26, END_OR_BLOCK, id="comma between blocks"),
        pytest.param(STEM + "\0", 26, END_OR_BLOCK, id="trailing NUL"),
        pytest.param(STEM + "\u3000", 26, END_OR_BLOCK, id="trailing white space that is not ASCII"),
        # the opening parenthesis
        pytest.param("SuperConvK3BNRELU", 17, "'('", id="cut after the kind"),
        pytest.param("SuperConvK3BNRELU[3,8,1,1]", 17, "'('", id="brackets"),
        pytest.param("SuperConvK3BNRELU (3,8,1,1)", 17, "'('", id="white space after the kind"),
        pytest.param("SuperConvK3BNRELU6(3,8,1,1)", 17, "'('", id="longer kind"),
        pytest.param("SuperResK3K3K3(3,8,1,4,1)", 12, "'('", id="three kernels"),
        # in, and the name before it
        pytest.param("SuperConvK3BNRELU(", 18, IMAGE, id="cut before in"),
        pytest.param("SuperConvK3BNRELU()", 18, IMAGE, id="no arguments"),
        pytest.param("SuperConvK3BNRELU(,8,1,1)", 18, IMAGE, id="no in"),
        pytest.param("SuperConvK3BNRELU(1,8,1,1)", 18, IMAGE, id="grey image"),
        pytest.param("SuperConvK3BNRELU(30,8,1,1)", 18, IMAGE, id="in 30"),
        pytest.param("SuperConvK3BNRELU(0,8,1,1)", 18, IMAGE, id="in 0"),
        pytest.param("SuperConvK3BNRELU(03,8,1,1)", 18, IMAGE, id="leading zero"),
        pytest.param("SuperConvK3BNRELU(-3,8,1,1)", 18, IMAGE, id="negative in"),
        pytest.param("SuperConvK3BNRELU(\u0663,8,1,1)", 18, IMAGE, id="in with a digit that is not ASCII"),
        pytest.param("SuperConvK3BNRELU(3333333333,8,1,1)", 18, IMAGE, id="in of ten digits"),
        pytest.param("SuperConvK3BNRELU(b1,3,8,1,1)", 18, IMAGE, id="name without bar"),
        pytest.param("SuperConvK3BNRELU(|3,8,1,1)", 18, IMAGE, id="empty name"),
        pytest.param("SuperConvK3BNRELU(b-1|3,8,1,1)", 18, IMAGE, id="hyphen in a name"),
        pytest.param("SuperConvK3BNRELU(b\u00e9|3,8,1,1)", 18, IMAGE, id="name that is not ASCII"),
        pytest.param("SuperConvK3BNRELU(b 1|3,8,1,1)", 18, IMAGE, id="white space in a name"),
        pytest.param("SuperConvK3BNRELU(a,b|3,8,1,1)", 18, IMAGE, id="comma in a name"),
        pytest.param("SuperConvK3BNRELU(name", 18, IMAGE, id="cut inside a name"),
        pytest.param("SuperConvK3BNRELU(name|", 23, IMAGE, id="cut after a name"),
        pytest.param("SuperConvK3BNRELU(a|b|3,8,1,1)", 20, IMAGE, id="two names"),
        pytest.param("SuperConvK3BNRELU(stem|4,8,1,1)", 23, IMAGE, id="wrong in after a name"),
        pytest.param(
            STEM + "SuperResK3K3(16,16,1,8,1)", 39, "in = 8, the out of the block before", id="does not chain"
        ),
        pytest.param(STEM + "SuperResK3K3(3,8,1,8,1)", 39, "in = 8, the out of the block before", id="image again"),
        pytest.param(STEM + "SuperResK3K3(b|9,8,1,8,1)", 41, "in = 8, the out of the block before", id="named"),
        pytest.param(STEM + RESIDUAL + STEM, 68, "in = 16, the out of the block before", id="stem at the end"),
        # the other arguments
        pytest.param("SuperConvK3BNRELU(3", 19, "',' and out", id="cut after in"),
        pytest.param("SuperConvK3BNRELU(3)", 19, "',' and out", id="only in"),
        pytest.param("SuperConvK3BNRELU(3;8;1;1)", 19, "',' and out", id="semicolons"),
        pytest.param("SuperConvK3BNRELU(3 ,8,1,1)", 19, "',' and out", id="white space after in"),
        pytest.param("SuperConvK3BNRELU(3.0,8,1,1)", 19, "',' and out", id="fraction"),
        pytest.param("SuperConvK3BNRELU(3,", 20, OUT, id="cut before out"),
        pytest.param("SuperConvK3BNRELU(3,)", 20, OUT, id="no out"),
        pytest.param("SuperConvK3BNRELU(3, 8,1,1)", 20, OUT, id="white space before out"),
        pytest.param("SuperConvK3BNRELU(3,0,1,1)", 20, OUT, id="out 0"),
        pytest.param("SuperConvK3BNRELU(3,08,1,1)", 20, OUT, id="out with leading zero"),
        pytest.param("SuperConvK3BNRELU(3,-8,1,1)", 20, OUT, id="negative out"),
        pytest.param("SuperConvK3BNRELU(3,+8,1,1)", 20, OUT, id="signed out"),
        pytest.param("SuperConvK3BNRELU(3,1000000000,1,1)", 20, OUT, id="out one too large"),
        pytest.param("SuperConvK3BNRELU(3,\u0668,1,1)", 20, OUT, id="out with a digit that is not ASCII"),
        pytest.param("SuperConvK3BNRELU(3,b|8,1,1)", 20, OUT, id="name before out"),
        pytest.param("SuperConvK3BNRELU(3,8\u0668,1,1)", 21, "',' and stride", id="goes on with another digit"),
        pytest.param("SuperConvK3BNRELU(3,8)", 21, "',' and stride", id="two arguments"),
        pytest.param("SuperConvK3BNRELU(3,1_6,1,1)", 21, "',' and stride", id="underscore"),
        pytest.param("SuperConvK3BNRELU(3,1e3,1,1)", 21, "',' and stride", id="exponent"),
        pytest.param("SuperConvK3BNRELU(3,8,", 22, STRIDE, id="cut before stride"),
        pytest.param("SuperConvK3BNRELU(3,8,0,1)", 22, STRIDE, id="stride 0"),
        pytest.param("SuperConvK3BNRELU(3,8,None,1)", 22, STRIDE, id="stride None"),
        pytest.param("SuperConvK3BNRELU(3,8,1)", 23, "',' and sub_layers", id="three arguments"),
        pytest.param("SuperConvK3BNRELU(3,8,1,", 24, SUB_LAYERS, id="cut before sub_layers"),
        pytest.param("SuperConvK3BNRELU(3,8,1,0)", 24, SUB_LAYERS, id="no sub-layers"),
        pytest.param("SuperConvK3BNRELU(3,8,1,1", 25, "')'", id="cut before the end"),
        pytest.param("SuperConvK3BNRELU(3,8,1,1  ", 25, "')'", id="cut, then white space"),
        pytest.param("SuperConvK3BNRELU(3,8,1,1,1)", 25, "')'", id="bottleneck where there is none"),
        pytest.param("SuperConvK3BNRELU(3,8,1,1,)", 25, "')'", id="trailing comma"),
        pytest.param("SuperResK3K3(3,8,1)", 18, "',' and bottleneck", id="residual with three arguments"),
        pytest.param("SuperResK3K3(3,8,1,", 19, BOTTLENECK, id="cut before bottleneck"),
        pytest.param("SuperResK3K3(3,8,1,0,1)", 19, BOTTLENECK, id="bottleneck 0"),
        pytest.param("SuperResK3K3(3,8,1,4)", 20, "',' and sub_layers", id="residual with four arguments"),
        pytest.param("SuperResK3K3(3,8,1,4,0)", 21, SUB_LAYERS, id="residual without sub-layers"),
        pytest.param("SuperResK3K3(3,8,1,4,1,1)", 22, "')'", id="residual with six arguments"),
        pytest.param("SuperResIDWE6K3(3,8,1,4,1]", 25, "')'", id="closed by a bracket"),
        # large texts
        pytest.param("x" * MEGABYTE, 0, BLOCK, id="1 MB of garbage"),
        pytest.param("S" * MEGABYTE, 0, BLOCK, id="1 MB that starts like a block"),
        pytest.param("(" * MEGABYTE, 0, BLOCK, id="1 MB of parentheses"),
        pytest.param(" " * MEGABYTE, MEGABYTE, BLOCK, id="1 MB of white space"),
        pytest.param("SuperConvK3BNRELU" * (MEGABYTE // 17), 17, "'('", id="1 MB of kinds"),
        pytest.param("SuperConvK3BNRELU(" + "a" * MEGABYTE, 18, IMAGE, id="1 MB of name"),
        pytest.param("SuperConvK3BNRELU(" + "|" * MEGABYTE, 18, IMAGE, id="1 MB of bars"),
        pytest.param("SuperConvK3BNRELU(" + "3" * MEGABYTE, 18, IMAGE, id="1 MB of digits"),
        pytest.param("SuperConvK3BNRELU(3," + "9" * MEGABYTE, 20, OUT, id="1 MB of out"),
        pytest.param("SuperConvK3BNRELU(3," + "0" * MEGABYTE, 20, OUT, id="1 MB of zeros"),
        pytest.param(STEM + "x" * MEGABYTE, 26, END_OR_BLOCK, id="1 MB after a block"),
    ],
)
def test_malformed_text_is_refused_where_it_goes_wrong(text: str, position: int, expected: str) -> None:
    with pytest.raises(EncodingError) as caught:
        parse(text)
    assert (caught.value.position, caught.value.expected) == (position, expected)
    assert str(caught.value) == f"at position {position}: expected {expected}"
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("length", range(len(GENOME)))
def test_truncated_text_is_refused_near_its_end(length: int) -> None:
    if GENOME[:length].endswith(")"):
        assert parse(GENOME[:length]).format() == GENOME[:length]
        return
    with pytest.raises(EncodingError) as caught:
        parse(GENOME[:length])
    assert length - max(map(len, KINDS)) < caught.value.position <= length


GRAMMAR = re.compile(
    r"(SuperConvK[1357]BNRELU|SuperResK([357])K\2|SuperResK1K[357]K1|SuperResIDWE[1246]K[357])"
    r"\((?:[A-Za-z0-9_]+\|)?((?:[1-9][0-9]{0,8},){3,4}[1-9][0-9]{0,8})\)",
    re.ASCII,
)


def read_by_pattern(text: str) -> Genome | None:
    """Reads a genome in another way: as matches of a pattern; None if it is none."""
    text = text.strip(string.whitespace)
    position, channels, blocks = 0, 3, []
    while not blocks or position < len(text):
        match = GRAMMAR.match(text, position)
        if not match:
            return None
        numbers = [int(number) for number in match[3].split(",")]
        if len(numbers) != (4 if "Conv" in match[1] else 5) or numbers[0] != channels:
            return None
        blocks.append(Block(match[1], *numbers[:3], None if len(numbers) == 4 else numbers[3], numbers[-1]))
        position, channels = match.end(), numbers[1]
    return Genome(tuple(blocks))


def parse_or_error(text: str) -> Genome | EncodingError:
    try:
        return parse(text)
    except EncodingError as error:
        return error


def check_parse(text: str) -> None:
    """Any text is either a genome that formats to an equal one, or refused at its first surprise."""
    result = parse_or_error(text)
    if isinstance(result, Genome):
        assert result == read_by_pattern(text)
        assert parse(result.format()) == result
        return
    assert read_by_pattern(text) is None
    assert 0 <= result.position <= len(text)
    # What stands before the surprise is the beginning of an encoding, or a whole one.
    before = parse_or_error(text[: result.position])
    if isinstance(before, Genome):
        assert result.expected == END_OR_BLOCK
    else:
        assert (before.position, before.expected) == (result.position, result.expected)


PIECES = st.sampled_from(
    [*KINDS, "SuperRes", "(", ")", ",", "|", "name|", "3", "8", "08", "999999999", "1234567890", " ", "\n", "\0", "-"]
)
NUMBERS = st.integers(1, 64) | st.just(MAX_INTEGER)


@st.composite
def genomes(draw: st.DrawFn, numbers: st.SearchStrategy[int] = NUMBERS) -> Genome:
    """Genomes of one to five blocks of any kind."""
    blocks, channels = [], 3
    for kind in draw(st.lists(st.sampled_from([*KINDS.values()]), min_size=1, max_size=5)):
        out, stride, middle, sub_layers = draw(numbers), draw(numbers), draw(numbers), draw(numbers)
        blocks.append(Block(kind.name, channels, out, stride, None if kind.family == "conv" else middle, sub_layers))
        channels = out
    return Genome(tuple(blocks))


@settings(deadline=None)
@given(genomes())
def test_every_genome_survives_formatting(genome: Genome) -> None:
    assert parse(genome.format()) == genome
    check_parse(genome.format())


@settings(deadline=None)
@given(st.text() | st.lists(PIECES).map("".join))
def test_any_text_is_a_genome_or_refused(text: str) -> None:
    check_parse(text)


@settings(deadline=None)
@given(genomes().map(Genome.format), st.integers(0, 250), st.integers(0, 20), st.text(max_size=3) | PIECES)
def test_any_edit_of_an_encoding_is_a_genome_or_refused(text: str, start: int, removed: int, inserted: str) -> None:
    start = min(start, len(text))
    check_parse(text[:start] + inserted + text[start + removed :])


class CountingText(str):
    """Text that counts the characters that are looked at, by the methods that a parser has a use for."""

    looked_at = 0

    def __getitem__(self, key: Any) -> str:
        part = super().__getitem__(key)
        self.looked_at += len(part)
        return part

    def startswith(self, prefix: Any, start: Any = 0, end: Any = None) -> bool:
        self.looked_at += len(prefix)
        return super().startswith(prefix, start, end)

    def find(self, sub: str, start: Any = 0, end: Any = None) -> int:
        found = super().find(sub, start, end)
        stop = len(self) if end is None else end
        self.looked_at += (stop if found < 0 else found) - start + len(sub)
        return found


def work(text: str) -> tuple[int, int]:
    """Lines of Python that run to parse a text, and characters of it that are looked at."""
    lines = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    counted = CountingText(text)
    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        parse_or_error(counted)
    finally:
        sys.settrace(previous)
    return lines, counted.looked_at


@pytest.mark.parametrize(
    ("block", "ending"),
    [
        ("SuperResIDWE6K3(8,8,1,8,1)", ""),
        ("SuperResIDWE6K3(8,8,1,8,1)", "SuperResIDWE6K3(name"),
        ("SuperResK3K3(a_long_name_for_such_a_small_block|8,8,1,8,1)", "SuperResK3K3(8,8,1,8,1"),
        ("SuperConvK3BNRELU(8,8,1,1)", "x"),
    ],
)
def test_parsing_takes_time_in_proportion_to_the_text(block: str, ending: str) -> None:
    few, many = 100, 10_000
    few_lines, few_looked_at = work(STEM + block * few + ending)
    lines, looked_at = work(STEM + block * many + ending)
    assert lines <= many / few * few_lines
    assert looked_at <= many / few * few_looked_at
    assert looked_at <= 10 * len(STEM + block * many + ending)


# Genomes as values


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("SuperPool", 3, 8, 1, None, 1), "kind must be one of SuperConvK"),
        (("SuperResK3K5", 3, 8, 1, 8, 1), "kind must be one of SuperConvK"),
        (("x" * MEGABYTE, 3, 8, 1, 8, 1), "kind must be one of SuperConvK"),
        (("SuperConvK3BNRELU", 3, 8, 1, 8, 1), "SuperConv blocks have no bottleneck"),
        (("SuperResK3K3", 3, 8, 1, None, 1), "SuperConv blocks have no bottleneck"),
        *(
            (("SuperResK3K3", *(number if place == bad else 8 for place in range(5))), "must be an integer from 1 to")
            for bad in range(5)
            for number in (0, -1, 10**9, 10**100)
        ),
    ],
)
def test_a_block_is_one_that_can_be_written(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Block(*arguments)
    assert len(str(caught.value)) < 150


def test_a_genome_is_one_that_can_be_written() -> None:
    stem, residual = parse(STEM + RESIDUAL).blocks
    with pytest.raises(ValueError, match="a genome has at least one block"):
        Genome(())
    with pytest.raises(ValueError, match="in_channels of the first block must be 3"):
        Genome((residual,))
    with pytest.raises(ValueError, match="in_channels of a block must be out_channels of the block before it"):
        Genome((stem, residual, residual))


def test_genomes_are_immutable_and_hashable() -> None:
    genome = parse(GENOME)
    assert {genome: "found"}[parse(GENOME.replace("(", "(name|"))] == "found"
    assert genome.connected
    assert genome.sub_layers == 8
    with pytest.raises(dataclasses.FrozenInstanceError):
        genome.blocks = ()  # type: ignore[misc]


# Networks


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['seed']}-{case['residual_links']}")
def test_costs_match_the_reference_scores(case: dict) -> None:
    network, size = NetworkConfig(case["residual_links"]), {key: case[key] for key in ("resolution", "num_classes")}
    genome = parse(case["encoding"])
    description = genome.describe(network, **size)
    assert description.parameters == case["scores"]["parameters"]
    assert description.flops == case["scores"]["flops"]
    assert [layer.weights for layer in description.layers] == [layer["weights"] for layer in case["layers"]]
    assert description.connected
    assert description.canonical == case["encoding"].replace("stem|", "")
    linked = genome.describe(LINKED, **size)
    assert linked.parameters == description.parameters_with_residual_links
    assert linked.flops == description.flops_with_residual_links


def summary(layer: Layer) -> tuple[str, tuple[int, ...], int, int, int, bool]:
    return (layer.name, layer.weight_shape, layer.stride, layer.groups, layer.resolution, layer.bias)


CONVOLUTIONS = [
    ("block0.sub0.unit0.conv0", (8, 3, 5, 5), 2, 1, 16, False),
    ("block0.sub1.unit0.conv0", (8, 8, 5, 5), 1, 1, 16, False),
    ("block1.sub0.unit0.conv0", (4, 8, 3, 3), 2, 1, 8, False),
    ("block1.sub0.unit0.conv1", (8, 4, 3, 3), 1, 1, 8, False),
    ("block1.sub0.unit0.projection", (8, 8, 1, 1), 2, 1, 8, True),
    ("block1.sub1.unit0.conv0", (4, 8, 3, 3), 1, 1, 8, False),
    ("block1.sub1.unit0.conv1", (8, 4, 3, 3), 1, 1, 8, False),
    ("block2.sub0.unit0.conv0", (4, 8, 1, 1), 1, 1, 8, False),
    ("block2.sub0.unit0.conv1", (4, 4, 7, 7), 2, 1, 4, False),
    ("block2.sub0.unit0.conv2", (16, 4, 1, 1), 1, 1, 4, False),
    ("block2.sub0.unit0.projection", (16, 8, 1, 1), 2, 1, 4, True),
    ("block2.sub0.unit1.conv0", (4, 16, 1, 1), 1, 1, 4, False),
    ("block2.sub0.unit1.conv1", (4, 4, 7, 7), 1, 1, 4, False),
    ("block2.sub0.unit1.conv2", (16, 4, 1, 1), 1, 1, 4, False),
    ("block3.sub0.unit0.conv0", (40, 16, 1, 1), 1, 1, 4, False),
    ("block3.sub0.unit0.conv1", (40, 1, 5, 5), 1, 40, 4, False),
    ("block3.sub0.unit0.conv2", (20, 40, 1, 1), 1, 1, 4, False),
    ("block3.sub0.unit0.projection", (20, 16, 1, 1), 1, 1, 4, True),
    ("block3.sub0.unit1.conv0", (24, 20, 1, 1), 1, 1, 4, False),
    ("block3.sub0.unit1.conv1", (24, 1, 5, 5), 1, 24, 4, False),
    ("block3.sub0.unit1.conv2", (12, 24, 1, 1), 1, 1, 4, False),
    ("block3.sub0.unit1.projection", (12, 20, 1, 1), 1, 1, 4, True),
    ("block3.sub1.unit0.conv0", (40, 12, 1, 1), 1, 1, 4, False),
    ("block3.sub1.unit0.conv1", (40, 1, 5, 5), 1, 40, 4, False),
    ("block3.sub1.unit0.conv2", (20, 40, 1, 1), 1, 1, 4, False),
    ("block3.sub1.unit0.projection", (20, 12, 1, 1), 1, 1, 4, True),
    ("block3.sub1.unit1.conv0", (24, 20, 1, 1), 1, 1, 4, False),
    ("block3.sub1.unit1.conv1", (24, 1, 5, 5), 1, 24, 4, False),
    ("block3.sub1.unit1.conv2", (12, 24, 1, 1), 1, 1, 4, False),
    ("block3.sub1.unit1.projection", (12, 20, 1, 1), 1, 1, 4, True),
]
OF_EVERY_FAMILY = parse(
    "SuperConvK5BNRELU(3,8,2,2)SuperResK3K3(8,8,2,4,2)SuperResK1K7K1(8,16,2,4,1)SuperResIDWE2K5(16,12,1,20,2)"
)


def test_layers_stand_in_canonical_order() -> None:
    linked = OF_EVERY_FAMILY.describe(LINKED, resolution=32, num_classes=10)
    classifier = ("classifier", (10, 12), 1, 1, 1, True)
    assert [summary(layer) for layer in linked.layers] == [*CONVOLUTIONS, classifier]
    plain = OF_EVERY_FAMILY.describe(PLAIN, resolution=32, num_classes=10)
    without = [entry for entry in CONVOLUTIONS if not entry[0].endswith("projection")]
    assert [summary(layer) for layer in plain.layers] == [*without, classifier]


def test_units_have_a_projection_an_identity_or_no_shortcut() -> None:
    def shortcuts(network: NetworkConfig) -> list[str]:
        return [
            "projection" if unit.projection else "identity" if unit.identity else "none"
            for unit in OF_EVERY_FAMILY.units(network, resolution=32)
        ]

    conv, basic, bottleneck, inverted = ["none"] * 2, ["projection", "identity"], ["projection", "identity"], 4
    assert shortcuts(LINKED) == [*conv, *basic, *bottleneck, *["projection"] * inverted]
    assert shortcuts(PLAIN) == ["none"] * 10
    # Equal widths and no stride: only the very first unit of a block projects.
    for kind, per_sub_layer in (("SuperResK3K3", 1), ("SuperResK1K3K1", 2), ("SuperResIDWE1K3", 2)):
        genome = parse(f"{STEM}{kind}(8,8,1,8,3)")
        units = list(genome.units(LINKED, resolution=32))[1:]
        assert [unit.identity for unit in units] == [False] + [True] * (3 * per_sub_layer - 1)
        assert [unit.projection is None for unit in units] == [unit.identity for unit in units]


@settings(deadline=None)
@given(
    genomes(st.integers(1, 3)),
    st.booleans(),
    st.integers(1, 2),
    st.integers(1, 12),
)
def test_units_fit_together(genome: Genome, residual_links: bool, scale: int, num_classes: int) -> None:
    resolution = scale
    for block in genome.blocks:
        resolution *= block.stride
    network = NetworkConfig(residual_links)
    channels, side, layers = 3, resolution, []
    for unit in genome.units(network, resolution=resolution):
        entering = channels, side
        for layer in unit.path:
            assert not layer.bias
            assert (layer.in_channels, layer.resolution * layer.stride) == (channels, side)
            assert layer.groups in (1, layer.in_channels)
            channels, side = layer.out_channels, layer.resolution
        if unit.projection:
            shortcut = unit.projection
            assert (shortcut.in_channels, shortcut.resolution * shortcut.stride) == entering
            assert (shortcut.out_channels, shortcut.resolution) == (channels, side)
            assert (shortcut.kernel, shortcut.groups, shortcut.bias) == (1, 1, True)
            assert not unit.identity
        if unit.identity:
            assert entering == (channels, side)
        layers += unit.layers
    assert (channels, side) == (genome.blocks[-1].out_channels, scale)

    classifier = genome.classifier(num_classes)
    description = genome.describe(network, resolution=resolution, num_classes=num_classes)
    assert list(description.layers) == [*layers, classifier]
    assert len({layer.name for layer in description.layers}) == len(description.layers)
    # The closed form counts what the list holds.
    size = genome.size(network, resolution=resolution, num_classes=num_classes)
    batch_norms = sum(2 * layer.out_channels for layer in layers)
    biases = sum(layer.out_channels for layer in description.layers if layer.bias)
    assert size == Size(
        parameters=sum(layer.weights for layer in description.layers) + batch_norms + biases,
        flops=sum(layer.flops for layer in description.layers),
        layers=len(description.layers),
    )
    assert (description.parameters, description.flops) == (size.parameters, size.flops)


@pytest.mark.parametrize(
    ("expansion", "bottleneck", "expanded"),
    [
        *((1, 1, 8), (1, 11, 8), (1, 12, 16), (1, 13, 16), (1, 20, 16), (1, 28, 32), (2, 10, 16), (4, 3, 16)),
        *((4, 7, 32), (6, 1, 8), (6, 3, 16), (6, 6, 32), (6, 10, 64), (6, MAX_INTEGER, 5_999_999_992)),
    ],
)
def test_expansions_are_multiples_of_eight(expansion: int, bottleneck: int, expanded: int) -> None:
    genome = parse(f"SuperResIDWE{expansion}K3(3,8,1,{bottleneck},1)")
    first, second = genome.units(PLAIN, resolution=1)
    assert [layer.out_channels for layer in first.path] == [expanded, expanded, bottleneck]
    assert [layer.out_channels for layer in second.path] == [8 * expansion, 8 * expansion, 8]


def test_units_are_made_one_at_a_time() -> None:
    genome = parse(f"SuperConvK3BNRELU(3,8,1,{MAX_INTEGER})")
    units = genome.units(PLAIN, resolution=32)
    assert [unit.path[0].name for unit in itertools.islice(units, 2)] == [f"block0.sub{s}.unit0.conv0" for s in (0, 1)]
    assert isinstance(next(units), Unit)


def test_sizes_of_huge_genomes_take_no_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0

    class CountedLayer(Layer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            nonlocal made
            made += 1
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(zennas, "Layer", CountedLayer)
    blocks = f"SuperResIDWE6K7(8,8,1,{MAX_INTEGER},{MAX_INTEGER})" * 10_000
    size = parse(STEM + blocks).size(LINKED, resolution=32, num_classes=10)
    assert size.layers == 2 + 10_000 * (6 * MAX_INTEGER + 2 * MAX_INTEGER)
    assert made == 2 + 10_000 * (8 + 8)
    widest = parse(f"SuperConvK7BNRELU(3,{MAX_INTEGER},1,1)" + f"SuperConvK7BNRELU({MAX_INTEGER},{MAX_INTEGER},1,1)")
    assert widest.size(PLAIN, resolution=1, num_classes=1).flops == 49 * MAX_INTEGER * (3 + MAX_INTEGER) + MAX_INTEGER


@pytest.mark.parametrize("resolution", [8, 64, 232])
def test_a_resolution_is_a_multiple_of_all_strides(resolution: int) -> None:
    layers = START.describe(PLAIN, resolution=resolution, num_classes=10).layers
    assert [layer.resolution for layer in layers[-2:]] == [resolution // 8, 1]


@pytest.mark.parametrize("resolution", [1, 2, 4, 7, 12, 33, 36])
def test_other_resolutions_are_refused(resolution: int) -> None:
    message = (
        rf"^resolution must be a multiple of the product of all strides: at {resolution}, block \d of 6 has stride 2 "
        r"and an input of (\d+)x\1$"
    )
    for call in (
        lambda: START.size(PLAIN, resolution=resolution, num_classes=10),
        lambda: START.describe(PLAIN, resolution=resolution, num_classes=10),
        lambda: START.units(PLAIN, resolution=resolution),
    ):
        with pytest.raises(NetworkError, match=message):
            call()


def test_refusals_of_a_resolution_are_short() -> None:
    genome = parse(f"SuperConvK3BNRELU(3,8,{MAX_INTEGER},1)" + f"SuperConvK3BNRELU(8,8,{MAX_INTEGER},1)" * 9_999)
    with pytest.raises(
        NetworkError, match="at 32, block 1 of 10000 has stride 999999999 and an input of 32x32"
    ) as caught:
        genome.size(PLAIN, resolution=32, num_classes=10)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("resolution", [0, -8])
def test_an_image_has_pixels(resolution: int) -> None:
    with pytest.raises(NetworkError, match="resolution must be at least 1"):
        START.describe(PLAIN, resolution=resolution, num_classes=10)


@pytest.mark.parametrize("num_classes", [0, -1])
def test_a_classifier_has_classes(num_classes: int) -> None:
    with pytest.raises(NetworkError, match="num_classes must be at least 1"):
        START.describe(PLAIN, resolution=32, num_classes=num_classes)


# Genomes from papers and from searches


def rows(name: str) -> list[dict[str, str]]:
    directory = os.environ.get("ARCHSCORE_TEST_DATA")
    if not directory:
        pytest.skip("ARCHSCORE_TEST_DATA is not set: it names the directory of the published genomes")
    with (Path(directory) / "genomes" / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_published_genomes_are_read() -> None:
    published = rows("published_genomes.csv")
    assert len(published) == 35
    for row in published:
        assert parse(row["genome"]).format() == row["genome"].strip()


def test_published_genomes_have_the_stated_parameters() -> None:
    checked = 0
    for row in rows("published_genomes.csv"):
        if row["params_stated"] and row["use_se"] == "0":
            size = parse(row["genome"]).size(
                LINKED, resolution=int(row["resolution"]), num_classes=int(row["num_classes"])
            )
            stated = row["params_stated"].removesuffix("M")
            last_digit = 10.0 ** -len(stated.partition(".")[2])
            assert abs(size.parameters / 1e6 - float(stated)) <= last_digit, row["name"]
            checked += 1
    assert checked == 12


def test_genomes_of_searches_are_read_but_for_the_one_that_does_not_fit_together() -> None:
    corpus = rows("corpus.csv")
    assert len(corpus) == 401
    refused = []
    for row in corpus:
        result = parse_or_error(row["genome"])
        if isinstance(result, Genome):
            assert len(result.blocks) == int(row["blocks"])
            assert result.format() == row["genome"].strip()
        else:
            refused.append((row, result))
    ((broken, error),) = refused
    assert broken["channels_continuous"] == "False"
    assert error.expected == "in = 512, the out of the block before"
    assert broken["genome"][error.position :] == "256,2048,1,1)"


# Sampling, mutation and budgets


def test_the_seed_determines_what_is_drawn() -> None:
    def walk(seed: int) -> list[Genome]:
        rng = random.Random(seed)
        path = [zennas.sample(rng)]
        for _ in range(20):
            path.append(path[-1].mutate(rng))
        return path

    assert walk(1) == walk(1)
    assert walk(1) != walk(2)


def test_samples_are_of_the_search_on_cifar() -> None:
    rng = random.Random(0)
    drawn = {zennas.sample(rng) for _ in range(50)}
    assert len(drawn) == 50
    for genome in drawn:
        check_searched(genome)
        assert CIFAR_BUDGET.fits(genome)


def check_searched(genome: Genome) -> None:
    """The genome is one that the search on CIFAR can come to."""
    assert parse(genome.format()) == genome
    stem, *middle, tail = genome.blocks
    assert (stem.kind, stem.stride, stem.sub_layers) == ("SuperConvK3BNRELU", 1, 1)
    assert (tail.kind, tail.stride, tail.sub_layers) == ("SuperConvK1BNRELU", 1, 1)
    assert sorted(block.stride for block in middle)[-4:] == [1, 2, 2, 2]
    for block in middle:
        assert block.kind in SEARCHED_KINDS
        assert 1 <= block.sub_layers <= 5
    for channels in (tail.out_channels, *(c for b in middle for c in (b.in_channels, b.out_channels, b.bottleneck))):
        assert channels is not None
        assert channels % 8 == 0
        assert 8 <= channels <= 2048


def test_mutants_stay_in_the_search_on_cifar() -> None:
    rng = random.Random(3)
    genome = START
    for _ in range(2_000):
        mutant = genome.mutate(rng)
        assert mutant != genome
        check_searched(mutant)
        # Depth is not bounded by mutation: start again before it becomes slow.
        genome = mutant if len(mutant.blocks) < 40 else START


def scaled(channels: int) -> set[int]:
    factors = (2.5, 2, 1.5, 1.25, 1, 1 / 1.25, 1 / 1.5, 1 / 2, 1 / 2.5)
    return {min(2048, max(8, round(round(channels * factor, 9) / 8) * 8)) for factor in factors}


def test_one_block_changes_in_every_way_that_it_may() -> None:
    genome = parse("SuperConvK3BNRELU(3,32,1,1)SuperResK3K3(32,40,2,48,3)SuperConvK1BNRELU(40,128,1,1)")
    rng = random.Random(0)
    seen = collections.defaultdict(set)
    for _ in range(6_000):
        stem, middle, tail = genome.mutate(rng).blocks
        changed = (
            stem.out_channels != 32,
            tail.out_channels != 128,
            middle != genome.blocks[1] and stem.out_channels == 32,
        )
        assert sum(changed) == 1
        seen["stem"].add(stem.out_channels)
        seen["tail"].add(tail.out_channels)
        seen["kind"].add(middle.kind)
        seen["out"].add(middle.out_channels)
        seen["bottleneck"].add(middle.bottleneck)
        seen["sub_layers"].add(middle.sub_layers)
        assert dataclasses.replace(stem, out_channels=32) == genome.blocks[0]
        assert dataclasses.replace(tail, in_channels=40, out_channels=128) == genome.blocks[2]
    assert seen == {
        "stem": scaled(32),
        "tail": scaled(128),
        "kind": {f"SuperResK{k}K{k}" for k in (3, 5, 7)} | {f"SuperResK1K{k}K1" for k in (3, 5, 7)},
        "out": scaled(40),
        "bottleneck": scaled(48),
        "sub_layers": {1, 2, 3, 4, 5},
    }


def test_channels_stay_between_8_and_2048() -> None:
    genome = parse("SuperConvK3BNRELU(3,8,1,1)SuperResK3K3(8,2048,1,8,1)SuperConvK1BNRELU(2048,999999999,1,1)")
    rng = random.Random(0)
    for _ in range(300):
        stem, middle, tail = genome.mutate(rng).blocks
        assert stem.out_channels in (8, 16)
        assert middle.out_channels in scaled(2048)
        assert middle.bottleneck in (8, 16)
        assert tail.out_channels in (2048, MAX_INTEGER)


@pytest.mark.parametrize(("sub_layers", "halves"), [(6, (3, 3)), (7, (3, 4))])
def test_deep_blocks_are_split_in_two(sub_layers: int, halves: tuple[int, int]) -> None:
    genome = parse("SuperResK3K3(3,8,2,8,5)")
    rng = random.Random(0)
    split = [mutant for mutant in (genome.mutate(rng) for _ in range(300)) if mutant.sub_layers == sub_layers]
    assert split
    for mutant in split:
        first, second = mutant.blocks
        assert (first.sub_layers, second.sub_layers) == halves
        assert (first.in_channels, first.stride) == (3, 2)
        assert second == dataclasses.replace(
            first, in_channels=first.out_channels, stride=1, sub_layers=second.sub_layers
        )


@settings(deadline=None)
@given(genomes(), st.integers(0, 2**32))
def test_every_genome_has_mutants(genome: Genome, seed: int) -> None:
    mutant = genome.mutate(random.Random(seed))
    assert mutant != genome
    assert parse(mutant.format()) == mutant
    assert 0 <= len(mutant.blocks) - len(genome.blocks) <= 1


def test_budgets_count_with_residual_links() -> None:
    description = START.describe(PLAIN, resolution=32, num_classes=10)
    parameters, flops = description.parameters_with_residual_links, description.flops_with_residual_links
    assert parameters > description.parameters
    assert flops > description.flops
    for budget, least in (("max_parameters", parameters), ("max_flops", flops), ("max_sub_layers", 6)):
        assert Budget(**{budget: least}).fits(START)
        assert not Budget(**{budget: least - 1}).fits(START)
    assert Budget().fits(START)
    assert Budget(parameters, flops, 6).fits(START)
    assert not Budget(parameters, flops, 6).fits(START, num_classes=11)
    assert not Budget(parameters, flops, 6).fits(START, resolution=40)
    assert Budget(1_000_000, None, 18) == CIFAR_BUDGET
    with pytest.raises(NetworkError):
        Budget().fits(START, resolution=4)


# The space


def test_the_space_is_listed_under_its_name() -> None:
    assert SPACES["zennas"] is SPACE


def test_the_space_offers_what_it_says() -> None:
    assert SPACE.parse(SPACE.example) == START
    assert SPACE.parse(SPACE.example).format() == SPACE.example
    assert SPACE.network == NetworkConfig(residual_links=False)
    assert SPACE.resolution_multiple == 1
    assert SPACE.sample(random.Random(3)) == zennas.sample(random.Random(3))
