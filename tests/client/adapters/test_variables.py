"""Search spaces as variables: every combination of their values is an architecture."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from archscore import UsageError
from archscore.adapters._variables import Channels, Choice, Count, variables_of
from archscore.spaces import nasbench201, zennas


def drawn(space: str, rng: random.Random) -> dict[str, str | int]:
    """A value for each variable."""

    def value(variable: Choice | Count | Channels) -> str | int:
        match variable:
            case Choice(options):
                return rng.choice(options)
            case Count(low, high):
                return rng.randint(low, high)
            case Channels(low, high):
                return variable.rounded(math.exp(rng.uniform(math.log(low), math.log(high))))

    return {name: value(variable) for name, variable in variables_of(space).by_name.items()}


def test_a_cell_is_its_operations_in_order() -> None:
    values = dict(zip(variables_of("nasbench201").by_name, (*nasbench201.OPERATIONS, "none"), strict=True))
    assert list(values) == ["edge01", "edge02", "edge12", "edge03", "edge13", "edge23"]
    cell = variables_of("nasbench201").build(values.__getitem__)
    assert cell == nasbench201.Cell(tuple(values.values()))


def test_a_genome_is_what_its_variables_say() -> None:
    values = {"stem.out": 8, "tail.out": 128}
    for stage, (out, bottleneck) in enumerate([(16, 8), (32, 16), (64, 32), (64, 32)], start=1):
        values |= {
            f"stage{stage}.block1.sub_layers": 1,
            f"stage{stage}.block1.kind": "SuperResK3K3",
            f"stage{stage}.block1.out": out,
            f"stage{stage}.block1.bottleneck": bottleneck,
            f"stage{stage}.block2.sub_layers": 0,
        }
    # Nothing more is asked for: the rest means nothing without a second block.
    assert variables_of("zennas").build(values.__getitem__) == zennas.START


@pytest.mark.parametrize("space", ["nasbench201", "zennas"])
def test_all_values_make_architectures(space: str) -> None:
    rng = random.Random(3)
    module = {"nasbench201": nasbench201, "zennas": zennas}[space]
    for _ in range(100):
        architecture = variables_of(space).build(drawn(space, rng).__getitem__)
        assert module.parse(architecture.format()) == architecture


def test_genomes_have_strides_and_widths_of_the_space() -> None:
    rng = random.Random(4)
    blocks, fitting = Counter(), 0
    for _ in range(200):
        genome = variables_of("zennas").build(drawn("zennas", rng).__getitem__)
        genome.size(zennas.NetworkConfig(), resolution=32, num_classes=10)
        assert [block.stride for block in genome.blocks if block.stride > 1] == [2, 2, 2]
        assert all(block.out_channels % 8 == 0 for block in genome.blocks)
        blocks[len(genome.blocks)] += 1
        fitting += zennas.CIFAR_BUDGET.fits(genome)
    assert min(blocks) >= 6
    assert max(blocks) == 10
    assert 10 < fitting < 100, "most do not, as docs/adapters.md says, and those that do are found"


def test_an_unknown_space() -> None:
    with pytest.raises(UsageError, match=r"'darts'.*nasbench201, zennas"):
        variables_of("darts")
