"""The NAS-Bench-201 space: what its grammar accepts, where it says no, and what its networks cost."""

import collections
import dataclasses
import itertools
import json
import os
import random
import string
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archscore import spaces
from archscore.spaces import SPACES, EncodingError, NetworkError, Size, nasbench201
from archscore.spaces.nasbench201 import EDGES, OPERATIONS, SPACE, Cell, NetworkConfig, parse

ENCODING = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|"
ALL_NONE = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
ANY_OPERATION = "one of none, skip_connect, nor_conv_1x1, nor_conv_3x3, avg_pool_3x3"
ANY_INDEX = "an integer from 0 to 15624, without leading zeros"
START = "'|' or 'index:'"
END = "end of text"
MEGABYTE = 1_000_000

GOLDEN = [
    case
    for case in json.loads((Path(__file__).parents[2] / "golden" / "scores.json").read_text(encoding="utf-8"))
    if case["space"] == "nasbench201"
]


@pytest.fixture(scope="module")
def all_cells() -> list[Cell]:
    return list(nasbench201.cells())


# Encodings


def test_parses_operations_in_string_order() -> None:
    cell = parse("|none~0|+|skip_connect~0|nor_conv_1x1~1|+|nor_conv_3x3~0|avg_pool_3x3~1|none~2|")
    assert cell.operations == ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3", "none")
    assert EDGES == ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))


@pytest.mark.parametrize("text", [ENCODING, "index:6111", f" \t\r\n\v\f{ENCODING}\n ", "\n index:6111\t"])
def test_accepts_both_forms_with_white_space_around(text: str) -> None:
    assert parse(text).format() == ENCODING
    assert parse(text).index == 6111


@pytest.mark.parametrize(
    ("text", "position", "expected"),
    [
        pytest.param("", 0, START, id="empty"),
        pytest.param(" \n ", 3, START, id="white space only"),
        pytest.param("\0", 0, START, id="NUL"),
        pytest.param("\u00a0" + ALL_NONE, 0, START, id="white space that is not ASCII"),
        pytest.param("\ufeff" + ALL_NONE, 0, START, id="byte order mark"),
        pytest.param("none~0|", 0, START, id="no first bar"),
        pytest.param("Index:1", 0, START, id="index in capitals"),
        pytest.param("index", 0, START, id="index without colon"),
        pytest.param("SuperConvK3BNRELU(3,8,1,1)", 0, START, id="genome"),
        pytest.param("|", 1, ANY_OPERATION, id="only a bar"),
        pytest.param("||", 1, ANY_OPERATION, id="no operation"),
        pytest.param("|conv_3x3~0|", 1, ANY_OPERATION, id="unknown operation"),
        pytest.param("  |conv_3x3~0|", 3, ANY_OPERATION, id="offset counts leading white space"),
        pytest.param("|None~0|", 1, ANY_OPERATION, id="operation in capitals"),
        pytest.param("|nor_conv_3x", 1, ANY_OPERATION, id="cut inside an operation"),
        pytest.param("| none~0|", 1, ANY_OPERATION, id="white space inside"),
        pytest.param("|n\u00f6ne~0|", 1, ANY_OPERATION, id="letter that is not ASCII"),
        pytest.param("|\U0001f600~0|", 1, ANY_OPERATION, id="outside the basic plane"),
        pytest.param("|\ud800~0|", 1, ANY_OPERATION, id="lone surrogate"),
        pytest.param("|none", 5, "'~0'", id="cut after the operation"),
        pytest.param("|none~", 5, "'~0'", id="cut inside the edge"),
        pytest.param("|none~1|", 5, "'~0'", id="wrong edge"),
        pytest.param("|none~\u0660|", 5, "'~0'", id="digit that is not ASCII"),
        pytest.param("|none|", 5, "'~0'", id="no edge"),
        pytest.param("|nonesuch~0|", 5, "'~0'", id="longer word"),
        pytest.param("|none\0~0|", 5, "'~0'", id="NUL inside"),
        pytest.param("|none~0", 7, "'|'", id="cut before the bar"),
        pytest.param("|none~0  ", 7, "'|'", id="cut, then white space"),
        pytest.param("|none~00|", 7, "'|'", id="two digits"),
        pytest.param("|none~0+|none~0|", 7, "'|'", id="missing bar that closes a group"),
        pytest.param("|none~0|", 8, "'+'", id="one group"),
        pytest.param("|none~0|none~1|", 8, "'+'", id="no plus"),
        pytest.param("|none~0| +|", 8, "'+'", id="white space between groups"),
        pytest.param("|none~0|+none~0|", 9, "'|'", id="missing bar that opens a group"),
        pytest.param("|none~0|+|none~1|", 14, "'~0'", id="group starts with the wrong edge"),
        pytest.param("|none~0|+|none~0|+|", 17, ANY_OPERATION, id="second group too short"),
        pytest.param("|none~0|+|none~0|none~0|", 21, "'~1'", id="edge twice"),
        pytest.param("|none~0|+|none~0|none~1|none~2|", 24, "'+'", id="second group too long"),
        pytest.param(ALL_NONE[:-1], 46, "'|'", id="no last bar"),
        pytest.param(ALL_NONE + "+", 47, END, id="fourth group"),
        pytest.param(ALL_NONE + " x", 47, END, id="trailing word"),
        pytest.param(ALL_NONE + "\0", 47, END, id="trailing NUL"),
        pytest.param(ALL_NONE + ALL_NONE, 47, END, id="two cells"),
        pytest.param(ALL_NONE + "\u3000", 47, END, id="trailing white space that is not ASCII"),
        pytest.param("index:", 6, ANY_INDEX, id="no index"),
        pytest.param(" index: 5", 7, ANY_INDEX, id="white space before the index"),
        pytest.param("index:x", 6, ANY_INDEX, id="index not a number"),
        pytest.param("index:-1", 6, ANY_INDEX, id="negative index"),
        pytest.param("index:+1", 6, ANY_INDEX, id="signed index"),
        pytest.param("index:01", 6, ANY_INDEX, id="leading zero"),
        pytest.param("index:00", 6, ANY_INDEX, id="zero twice"),
        pytest.param("index:\u0661", 6, ANY_INDEX, id="index digit that is not ASCII"),
        pytest.param("index:15625", 6, ANY_INDEX, id="index one too large"),
        pytest.param("index:156240", 6, ANY_INDEX, id="index with six digits"),
        pytest.param("index:1_000", 7, END, id="underscore in the index"),
        pytest.param("index:12\u0661", 8, END, id="index continues with a digit that is not ASCII"),
        pytest.param("index:15624.0", 11, END, id="index with a fraction"),
        pytest.param("index:12|", 8, END, id="text after the index"),
        pytest.param("x" * MEGABYTE, 0, START, id="1 MB of garbage"),
        pytest.param("|" * MEGABYTE, 1, ANY_OPERATION, id="1 MB of bars"),
        pytest.param(" " * MEGABYTE, MEGABYTE, START, id="1 MB of white space"),
        pytest.param(" " * MEGABYTE + "x", MEGABYTE, START, id="1 MB of white space and garbage"),
        pytest.param("|none~0|" * (MEGABYTE // 8), 8, "'+'", id="1 MB of groups"),
        pytest.param(ALL_NONE + "+" * MEGABYTE, 47, END, id="1 MB after a cell"),
        pytest.param("index:" + "9" * MEGABYTE, 6, ANY_INDEX, id="1 MB of digits"),
        pytest.param("index:" + "0" * MEGABYTE, 6, ANY_INDEX, id="1 MB of zeros"),
    ],
)
def test_malformed_text_is_refused_where_it_goes_wrong(text: str, position: int, expected: str) -> None:
    with pytest.raises(EncodingError) as caught:
        parse(text)
    assert (caught.value.position, caught.value.expected) == (position, expected)
    assert str(caught.value) == f"at position {position}: expected {expected}"
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("length", range(len(ENCODING)))
def test_truncated_text_is_refused_near_its_end(length: int) -> None:
    with pytest.raises(EncodingError) as caught:
        parse(ENCODING[:length])
    assert length - max(map(len, OPERATIONS)) < caught.value.position <= length


def test_every_cell_survives_formatting(all_cells: list[Cell]) -> None:
    texts = {cell.format() for cell in all_cells}
    assert len(texts) == 15_625
    assert all(parse(cell.format()) == cell for cell in all_cells)


def parse_or_error(text: str) -> Cell | EncodingError:
    try:
        return parse(text)
    except EncodingError as error:
        return error


def check_parse(text: str) -> None:
    """Any text is either a cell that formats to an equal one, or refused at its first surprise."""
    result = parse_or_error(text)
    if isinstance(result, Cell):
        assert parse(result.format()) == result
        assert text.strip(string.whitespace) in (result.format(), f"index:{result.index}")
        return
    assert 0 <= result.position <= len(text)
    # What stands before the surprise is the beginning of an encoding, or a whole one.
    before = parse_or_error(text[: result.position])
    if isinstance(before, Cell):
        assert result.expected == END
    else:
        assert (before.position, before.expected) == (result.position, result.expected)


PIECES = st.sampled_from([*OPERATIONS, "~0", "~1", "~2", "|", "+", "index:", "0", "15624", " ", "\n", "\0"])
ENCODINGS = st.integers(0, 15_624).flatmap(
    lambda index: st.sampled_from([nasbench201.from_index(index).format(), f"index:{index}"])
)


@settings(deadline=None)
@given(st.text() | st.lists(PIECES).map("".join))
def test_any_text_is_a_cell_or_refused(text: str) -> None:
    check_parse(text)


@settings(deadline=None)
@given(ENCODINGS, st.integers(0, 100), st.integers(0, 20), st.text(max_size=3) | PIECES)
def test_any_edit_of_an_encoding_is_a_cell_or_refused(text: str, start: int, removed: int, inserted: str) -> None:
    start = min(start, len(text))
    check_parse(text[:start] + inserted + text[start + removed :])


def test_agrees_with_the_benchmarks_own_reader(all_cells: list[Cell]) -> None:
    api = pytest.importorskip("nas_201_api").NASBench201API
    for cell in all_cells:
        groups = api.str2lists(cell.format())
        read = [
            (source, target, operation) for target, group in enumerate(groups, start=1) for operation, source in group
        ]
        assert read == [(*edge, operation) for edge, operation in zip(EDGES, cell.operations, strict=True)]


# Cells as values


@pytest.mark.parametrize(
    "operations",
    [(), ("none",) * 5, ("none",) * 7, (*("none",) * 5, "max_pool_3x3"), (*("none",) * 5, "x" * MEGABYTE)],
    ids=["empty", "five", "seven", "unknown", "1 MB"],
)
def test_a_cell_is_six_known_operations(operations: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="a cell has 6 operations, each one of none, ") as caught:
        Cell(operations)
    assert len(str(caught.value)) < 120


def test_cells_are_immutable_and_hashable() -> None:
    cell = parse(ENCODING)
    assert {cell: "found"}[parse("index:6111")] == "found"
    with pytest.raises(dataclasses.FrozenInstanceError):
        cell.operations = ("none",) * 6  # type: ignore[misc]


def reaches(operations: tuple[str, ...], node: int = 0) -> bool:
    """Whether a path leads from a node to node 3, by walking every path."""
    return node == 3 or any(
        source == node and operation != "none" and reaches(operations, target)
        for (source, target), operation in zip(EDGES, operations, strict=True)
    )


def test_connected_cells_are_those_with_a_path(all_cells: list[Cell]) -> None:
    assert all(cell.connected == reaches(cell.operations) for cell in all_cells)
    assert sum(not cell.connected for cell in all_cells) == 341


# The official order


def test_index_is_the_place_in_the_official_order(all_cells: list[Cell]) -> None:
    official = list(itertools.product(OPERATIONS, repeat=6))
    state = random.getstate()
    try:
        random.seed(88)
        random.shuffle(official)
    finally:
        random.setstate(state)
    assert [cell.operations for cell in all_cells] == official
    assert [cell.index for cell in all_cells] == list(range(15_625))


@pytest.mark.parametrize("index", [0, 1, 6111, 15_624])
def test_an_index_names_the_same_cell_in_text(index: int) -> None:
    assert parse(f"index:{index}") == nasbench201.from_index(index)


@pytest.mark.parametrize("index", [-1, 15_625, 10**100])
def test_no_cell_has_an_index_out_of_range(index: int) -> None:
    with pytest.raises(ValueError, match="index must be an integer from 0 to 15624"):
        nasbench201.from_index(index)


# Sampling and mutation


def test_sampling_is_uniform_on_every_edge() -> None:
    rng = random.Random(0)
    drawn = [nasbench201.sample(rng).operations for _ in range(5_000)]
    for edge in range(len(EDGES)):
        counts = collections.Counter(operations[edge] for operations in drawn)
        assert counts.keys() == set(OPERATIONS)
        assert all(900 < count < 1_100 for count in counts.values())


def test_mutation_is_uniform_over_the_neighbours() -> None:
    cell, rng = parse(ENCODING), random.Random(0)
    counts = collections.Counter(cell.mutate(rng) for _ in range(4_800))
    assert len(counts) == len(EDGES) * (len(OPERATIONS) - 1)
    assert all(150 < count < 250 for count in counts.values())
    for neighbour in counts:
        assert sum(a != b for a, b in zip(cell.operations, neighbour.operations, strict=True)) == 1


def test_the_seed_determines_what_is_drawn() -> None:
    def walk(seed: int) -> list[Cell]:
        rng = random.Random(seed)
        path = [nasbench201.sample(rng)]
        for _ in range(20):
            path.append(path[-1].mutate(rng))
        return path

    assert walk(1) == walk(1)
    assert walk(1) != walk(2)


# Networks


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['encoding']}-{case['num_classes']}")
def test_costs_match_the_reference_scores(case: dict) -> None:
    network = NetworkConfig(channels=case["channels"], cells_per_stage=case["cells_per_stage"])
    cell = parse(case["encoding"])
    description = cell.describe(network, resolution=case["resolution"], num_classes=case["num_classes"])
    assert description.parameters == description.parameters_with_residual_links == case["scores"]["parameters"]
    assert description.flops == description.flops_with_residual_links == case["scores"]["flops"]
    assert description.connected == (case["outcome"] != "DEGENERATE")
    assert description.canonical == case["encoding"]
    if case.get("layers"):
        assert [layer.weights for layer in description.layers] == [layer["weights"] for layer in case["layers"]]


def test_parameters_of_every_cell_in_the_default_network(all_cells: list[Cell]) -> None:
    for cell in all_cells:
        description = cell.describe(NetworkConfig(), resolution=32, num_classes=10)
        ones, threes = cell.operations.count("nor_conv_1x1"), cell.operations.count("nor_conv_3x3")
        assert description.parameters == 73_306 + 28_000 * ones + 243_040 * threes
        assert len(description.layers) == 8 + 15 * (ones + threes)
    assert parse(ENCODING).describe(NetworkConfig(), resolution=32, num_classes=10).parameters == 1_073_466


def test_flops_are_those_of_the_layers(all_cells: list[Cell]) -> None:
    for cell in all_cells[::125]:
        description = cell.describe(NetworkConfig(12, 2), resolution=20, num_classes=7)
        assert description.flops == sum(layer.flops for layer in description.layers)
        size = cell.size(NetworkConfig(12, 2), resolution=20, num_classes=7)
        assert size == Size(description.parameters, description.flops, len(description.layers))
        names = [layer.name for layer in description.layers]
        assert len(set(names)) == len(names)


def test_layers_stand_in_canonical_order() -> None:
    cell = parse("|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|none~2|")
    description = cell.describe(NetworkConfig(channels=4, cells_per_stage=2), resolution=16, num_classes=10)
    assert [(layer.name, layer.weight_shape, layer.stride, layer.resolution) for layer in description.layers] == [
        ("stem", (4, 3, 3, 3), 1, 16),
        ("stage0.cell0.edge0", (4, 4, 3, 3), 1, 16),
        ("stage0.cell0.edge4", (4, 4, 1, 1), 1, 16),
        ("stage0.cell1.edge0", (4, 4, 3, 3), 1, 16),
        ("stage0.cell1.edge4", (4, 4, 1, 1), 1, 16),
        ("reduction0.conv1", (8, 4, 3, 3), 2, 8),
        ("reduction0.conv2", (8, 8, 3, 3), 1, 8),
        ("reduction0.shortcut", (8, 4, 1, 1), 1, 8),
        ("stage1.cell0.edge0", (8, 8, 3, 3), 1, 8),
        ("stage1.cell0.edge4", (8, 8, 1, 1), 1, 8),
        ("stage1.cell1.edge0", (8, 8, 3, 3), 1, 8),
        ("stage1.cell1.edge4", (8, 8, 1, 1), 1, 8),
        ("reduction1.conv1", (16, 8, 3, 3), 2, 4),
        ("reduction1.conv2", (16, 16, 3, 3), 1, 4),
        ("reduction1.shortcut", (16, 8, 1, 1), 1, 4),
        ("stage2.cell0.edge0", (16, 16, 3, 3), 1, 4),
        ("stage2.cell0.edge4", (16, 16, 1, 1), 1, 4),
        ("stage2.cell1.edge0", (16, 16, 3, 3), 1, 4),
        ("stage2.cell1.edge4", (16, 16, 1, 1), 1, 4),
        ("classifier", (10, 16), 1, 1),
    ]
    assert [layer.name for layer in description.layers if layer.bias] == ["classifier"]
    assert {layer.groups for layer in description.layers} == {1}


@pytest.mark.parametrize("resolution", [-4, 0, 1, 2, 30, 33])
def test_resolution_is_a_multiple_of_four(resolution: int) -> None:
    with pytest.raises(NetworkError, match="resolution must be a positive multiple of 4"):
        parse(ENCODING).describe(NetworkConfig(), resolution=resolution, num_classes=10)


def test_a_classifier_has_classes() -> None:
    with pytest.raises(NetworkError, match="num_classes must be at least 1"):
        parse(ENCODING).describe(NetworkConfig(), resolution=32, num_classes=0)


@pytest.mark.parametrize(("channels", "cells_per_stage"), [(0, 5), (-1, 5), (16, 0)])
def test_a_network_has_channels_and_cells(channels: int, cells_per_stage: int) -> None:
    with pytest.raises(ValueError, match="channels and cells_per_stage must be at least 1"):
        NetworkConfig(channels, cells_per_stage)


# The space


def test_the_space_is_listed_under_its_name() -> None:
    assert SPACES["nasbench201"] is SPACE
    assert all(name == space.name for name, space in SPACES.items())


def test_the_space_offers_what_it_says() -> None:
    assert SPACE.parse(SPACE.example).format() == SPACE.example
    assert SPACE.parse(SPACE.example).connected
    assert SPACE.network == NetworkConfig(channels=16, cells_per_stage=5)
    assert SPACE.resolution_multiple == 4
    assert SPACE.sample(random.Random(3)) == nasbench201.sample(random.Random(3))


IN_A_FRESH_INTERPRETER = """
import random, sys
random.seed(5)
state, before = random.getstate(), set(sys.modules)
from archscore.spaces import nasbench201
assert next(nasbench201.cells()).index == 0
assert random.getstate() == state, "the global random state was touched"
top_level = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(top_level - sys.stdlib_module_names))
"""


def test_importing_spaces_loads_no_other_package_and_leaves_random_alone() -> None:
    root = Path(spaces.__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", IN_A_FRESH_INTERPRETER],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stdout.split(), result.stderr) == (0, ["archscore"], "")
