from collections.abc import Callable, Iterator

import pytest
import torch

from archscore.spaces import nasbench201, zennas
from archscore_server.engine import (
    ArchitectureTooLargeError,
    ConfigError,
    EvaluationConfig,
    Precision,
    networks,
    tuning,
)
from archscore_server.engine.networks import Stack
from archscore_server.engine.tuning import SIZES, climb, tune

TINY = EvaluationConfig(batch_size=2, resolution=8, network=nasbench201.NetworkConfig(channels=4, cells_per_stage=1))


class Rates:
    """Networks a second by size, as measured one after the other: the last is measured for ever."""

    def __init__(self, rates: dict[int, list[float | None]]) -> None:
        self._left: dict[int, Iterator[float | None]] = {size: iter(own) for size, own in rates.items()}
        self._last: dict[int, float | None] = {}
        self.measured: list[int] = []

    def __call__(self, size: int) -> float | None:
        self.measured.append(size)
        self._last[size] = next(self._left[size], self._last.get(size))
        return self._last[size]


def test_the_fastest_is_taken_and_all_are_tried_on_the_way_up():
    rates = Rates({1: [10], 2: [19], 4: [35], 8: [60], 16: [55], 32: [52]})
    found = climb(rates, (1, 2, 4, 8, 16, 32), 3, limit="that is all")
    assert found.result.stack_size == 8
    assert rates.measured[:6] == [1, 2, 4, 8, 16, 32]
    assert all(len(own) == 3 for own in found.per_second.values())
    assert found.ended == "that is all"


def test_where_one_is_best_no_large_stacks_are_tried():
    rates = Rates({1: [10], 2: [6]})
    found = climb(rates, SIZES, 3)
    assert found.result.stack_size == 1
    assert max(rates.measured) == 2
    assert found.ended == "stacks of 2 are clearly slower"


def test_one_slow_measurement_does_not_end_the_climb():
    rates = Rates({1: [10], 2: [5, 15], 4: [20]})
    assert climb(rates, (1, 2, 4), 3).result.stack_size == 4


def test_sizes_take_turns():
    rates = Rates({1: [10], 2: [11], 4: [12]})
    climb(rates, (1, 2, 4), 4)
    rounds = [rates.measured[start : start + 3] for start in range(0, 12, 3)]
    assert all(sorted(own) == [1, 2, 4] for own in rounds)


def test_the_median_decides():
    rates = Rates({1: [10, 10, 10], 2: [30, 9, 9]})
    assert climb(rates, (1, 2), 3).result.stack_size == 1


def test_of_those_that_are_as_good_the_smallest_is_taken():
    assert climb(Rates({1: [10], 2: [99], 4: [100], 8: [100.5]}), (1, 2, 4, 8), 1).result.stack_size == 2


@pytest.mark.parametrize("rates", [{1: [10], 2: [20], 4: [None]}, {1: [10], 2: [20, 20, 20], 4: [None, 99]}])
def test_where_memory_runs_out_the_climb_ends(rates):
    heard: list[tuple[int, float | None]] = []
    found = climb(Rates(rates), SIZES, 3, on_measured=lambda *measured: heard.append(measured))
    assert found.result.stack_size == 2
    assert found.ended == "4 networks ran out of memory"
    assert heard[2] == (4, None)


def test_memory_that_runs_out_later_is_no_measurement():
    assert climb(Rates({1: [10], 2: [20, None]}), (1, 2), 3).per_second[2] == [20]


def test_not_even_one():
    with pytest.raises(MemoryError):
        climb(Rates({1: [None]}), SIZES, 3)


def test_on_this_machine():
    heard: list[int] = []
    found = tune(
        "nasbench201", ["snip"], TINY, "cpu", sizes=(1, 2), rounds=1, on_measured=lambda size, _: heard.append(size)
    )
    assert set(heard) == set(found.per_second) == {1, 2}
    assert all(rate > 0 for rates in found.per_second.values() for rate in rates)
    assert found.result.stack_size in (1, 2)


def test_genomes_stack_with_themselves(monkeypatch):
    stacks: list[tuple[int, list[int]]] = []

    def run_stacks(asked, *rest):
        stacks.extend((len(set(architectures)), list(seeds)) for architectures, seeds in asked)
        return True

    monkeypatch.setattr(tuning, "run_stacks", run_stacks)
    tune("zennas", ["zen"], EvaluationConfig(network=zennas.NetworkConfig()), "cpu", sizes=(4,), rounds=1)
    assert stacks == [(1, [0, 1, 2, 3]), (1, [0, 1, 2, 3]), (1, [4, 5, 6, 7])]


def test_all_sizes_are_timed_on_the_same_mix_of_cells_and_clocked_from_start_to_end(monkeypatch):
    now = [0.0]
    cells: dict[int, set[nasbench201.Cell]] = {}

    def run_stacks(stacks, *rest):
        for architectures, seeds in stacks:
            assert set(seeds) == {0}
            cells.setdefault(len(architectures), set()).update(architectures)
            now[0] += 0.5  # a stack takes that, whatever its size
        return True

    monkeypatch.setattr(tuning, "run_stacks", run_stacks)
    monkeypatch.setattr(tuning.time, "perf_counter", lambda: now[0])
    found = tune("nasbench201", ["tcet"], TINY, "cpu", sizes=(1, 8, 16), rounds=2)
    assert found.per_second == {1: [2.0] * 2, 8: [16.0] * 2, 16: [32.0] * 2}
    assert found.result.stack_size == 16
    assert cells[8] == cells[16]
    assert len(cells[8]) == 8


def out_of_memory(above: int) -> Callable[..., Stack]:
    def build(architectures, *rest, **options):
        if len(architectures) > above:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return networks.build(architectures, *rest, **options)

    return build


def test_a_stack_that_runs_out_of_memory_is_larger_than_the_largest(monkeypatch):
    monkeypatch.setattr("archscore_server.engine._launch.build", out_of_memory(2))
    found = tune("nasbench201", ["tcet"], TINY, "cpu", rounds=1)
    assert max(found.per_second) == 2
    assert found.ended == "4 networks ran out of memory"


def test_no_larger_stacks_than_there_is_memory_for(monkeypatch):
    monkeypatch.setattr(tuning, "fits", lambda *_, **__: 5)
    monkeypatch.setattr(tuning, "run_stacks", lambda *_: True)
    found = tune("nasbench201", ["tcet"], TINY, "cpu", rounds=1)
    assert max(found.per_second) <= 4
    monkeypatch.setattr(tuning, "climb", lambda measure, sizes, rounds, *, limit, on_measured: (sizes, limit))
    assert tune("nasbench201", ["tcet"], TINY, "cpu") == ([1, 2, 4], "there is memory for 5 networks")


@pytest.mark.parametrize(
    ("space", "proxies", "config", "error"),
    [
        ("nasbench201", ["nothing"], TINY, KeyError),
        ("nasbench201", ["flops"], TINY, ValueError),
        ("zennas", ["zen"], TINY, ConfigError),
        ("nasbench201", ["tcet"], EvaluationConfig(precision=Precision.TF32), ConfigError),
    ],
)
def test_what_cannot_be_measured(space, proxies, config, error):
    with pytest.raises(error):
        tune(space, proxies, config, "cpu")


def test_a_network_that_does_not_fit(monkeypatch):
    monkeypatch.setattr(tuning, "usable_bytes", lambda device: 1)
    with pytest.raises(ArchitectureTooLargeError):
        tune("nasbench201", ["tcet"], TINY, "cpu")
