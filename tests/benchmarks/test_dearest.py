"""What dearest.py finds and makes of its figures."""

import random
from dataclasses import replace

import pytest

import dearest
from archscore.spaces import zennas
from archscore_server.admission import MAX_WORK
from archscore_server.config import Limits
from archscore_server.engine.memory import USABLE_MEMORY

ROOM = dearest.Room.of(0.001, 2**36)
FIGURES = {"predicted_bytes": 2**30, "tensor_bytes": 2**30, "resident_growth_bytes": 2**30}


def test_a_part_of_the_limits() -> None:
    assert ROOM.limits == Limits(max_parameters=500_000, max_flops=100_000_000, max_work=MAX_WORK["cpu"] // 1_000)
    assert ROOM.available == int(2**36 * USABLE_MEMORY * 0.001)


def test_families_reach_every_limit_and_keep_to_it() -> None:
    """The deepest member is let in, and one sub-layer more is not."""
    for family in list(dearest.families())[::97]:
        found = dearest.deepest(family, ROOM.admits, 1_000)
        if found is None:
            assert not ROOM.admits(family(1))
        else:
            assert ROOM.admits(found)
            assert not ROOM.admits(family(found.architecture.blocks[1].sub_layers + 1))


@pytest.mark.parametrize("name", dearest.MEASURES)
def test_the_dearest_genome_uses_up_a_limit(name: str) -> None:
    measure = dearest.MEASURES[name]
    found = dearest.dearest_genome(ROOM, measure, random.Random(0), steps=3)
    assert ROOM.admits(found)
    assert found.architecture == zennas.parse(found.architecture.format())
    used = (found.size.flops / ROOM.limits.max_flops, found.bytes / ROOM.available)
    assert max(used) > 0.9
    start = replace(found, architecture=zennas.START)
    assert measure(found) > measure(start)


def test_mutants_are_genomes() -> None:
    rng = random.Random(0)
    found = zennas.START
    for _ in range(200):
        found = dearest.mutated(found, rng)
    assert zennas.parse(found.format()) == found


def test_the_dearest_cell_is_in_the_largest_network() -> None:
    found = dearest.dearest_cell(ROOM, dearest.MEASURES["work"])
    assert ROOM.admits(found)
    wider = replace(found.config.network, channels=found.config.network.channels + 1)
    assert not ROOM.admits(replace(found, config=replace(found.config, network=wider)))


def test_what_is_over_its_prediction_is_reported() -> None:
    assert dearest.exceeded(FIGURES) == []
    assert dearest.exceeded({**FIGURES, "tensor_bytes": 2**30 + 1}) == ["tensor_bytes 1,073,741,825 over 1,073,741,824"]
    [line] = dearest.exceeded({**FIGURES, "resident_growth_bytes": 2 * 2**30})
    assert line.startswith("resident_growth_bytes 2,147,483,648 over ")
