"""Weights by index from tables: those that are drawn, whatever was asked for before."""

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from archscore.spaces import nasbench201
from archscore_server.engine import EvaluationConfig, Init, tables
from archscore_server.engine.init import WeightStreams
from archscore_server.engine.networks import build
from archscore_server.engine.tables import Row, WeightTables

CPU, META, CUDA = torch.device("cpu"), torch.device("meta"), torch.device("cuda")
SHAPES = [(4, 3), (2, 3, 1, 1), (4, 2, 3, 3), (2, 9)]


def drawn(shape: Sequence[int], rows: Sequence[Row], init: Init) -> Tensor:
    streams = WeightStreams()
    return torch.from_numpy(np.stack([streams.weight(shape, k, seed, init) for seed, k in rows]))


def asked(rng: random.Random) -> tuple[tuple[int, ...], list[Row], Init]:
    """Layers of networks that have one seed, or a few."""
    seeds = rng.choice([[0], [7], [0, 1, 2]])
    rows = [(rng.choice(seeds), rng.randrange(12)) for _ in range(rng.randint(1, 9))]
    return rng.choice(SHAPES), rows, rng.choice(list(Init))


# None, less than some tables, less than all of them, and more
@pytest.mark.parametrize("max_bytes", [0, 500, 2000, 2**20])
def test_weights_are_those_that_are_drawn(max_bytes: int) -> None:
    weights, rng = WeightTables(max_bytes), random.Random(max_bytes)
    for _ in range(300):
        shape, rows, init = asked(rng)
        taken = weights.take(shape, rows, init, CPU)
        assert taken.dtype == torch.float32
        assert torch.equal(taken, drawn(shape, rows, init))
        assert weights.nbytes(CPU) <= max_bytes


def test_what_is_kept_is_not_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = WeightTables()
    rows = [(3, 5), (3, 1), (3, 5), (3, 9)]
    expected = weights.take((4, 3), rows[:3], Init.NORMAL, CPU)
    weights.take((4, 3), rows, Init.NORMAL, CPU)
    assert weights.nbytes(CPU) == 3 * 12 * 4, "equal layers are kept once"
    monkeypatch.setattr(tables, "STREAMS", None)
    assert torch.equal(weights.take((4, 3), rows[:3], Init.NORMAL, CPU), expected)


def test_weights_are_the_caller_s_own() -> None:
    for max_bytes in (0, 2**20):
        weights = WeightTables(max_bytes)
        rows = [(0, 1), (0, 1), (0, 2)]
        for _ in range(2):  # drawn now, and kept
            taken = weights.take((4, 3), rows, Init.NORMAL, CPU)
            taken[0] = 0
            assert torch.equal(taken[1:], drawn((4, 3), rows[1:], Init.NORMAL))


def test_a_table_without_room_to_grow_begins_again_with_what_is_asked_for() -> None:
    weights = WeightTables(5 * 12 * 4)
    weights.take((4, 3), [(0, k) for k in range(4)], Init.NORMAL, CPU)
    weights.take((4, 3), [(0, k) for k in range(3, 6)], Init.NORMAL, CPU)
    assert weights.nbytes(CPU) == 3 * 12 * 4


def test_devices_have_tables_and_bounds_of_their_own() -> None:
    weights = WeightTables(4 * 12 * 4)
    rows = [(0, 0), (0, 4), (0, 0)]
    for device in (META, CPU):
        taken = weights.take((4, 3), rows, Init.NORMAL, device)
        assert (taken.device, taken.dtype, taken.shape) == (device, torch.float32, (3, 4, 3))
    assert weights.nbytes(META) == weights.nbytes(CPU) == 2 * 12 * 4
    weights.clear(CPU)
    assert (weights.nbytes(META), weights.nbytes(CPU)) == (2 * 12 * 4, 0)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode], ids=lambda mode: mode.__name__)
def test_weights_that_were_drawn_without_gradients_can_have_them(mode: Callable[[], torch.no_grad]) -> None:
    weights = WeightTables()
    with mode():
        weights.take((4, 3), [(0, 1)], Init.NORMAL, CPU)
    for rows in ([(0, 1)], [(0, 2), (0, 1)]):  # as it is, and grown
        leaf = weights.take((4, 3), rows, Init.NORMAL, CPU).requires_grad_()
        (gradient,) = torch.autograd.grad(leaf.square().sum(), leaf)
        assert torch.equal(gradient, 2 * drawn((4, 3), rows, Init.NORMAL))


@pytest.mark.parametrize("seeds", [(3, 3, 3), (3, 4, 3)], ids=["one seed", "seeds"])
@pytest.mark.parametrize("init", [None, Init.PYTORCH])
def test_a_stack_has_the_weights_of_its_layers(seeds: tuple[int, ...], init: Init | None) -> None:
    config = EvaluationConfig(network=nasbench201.NetworkConfig(channels=4, cells_per_stage=1))
    cells = [nasbench201.from_index(index) for index in (6111, 77, 6111)]
    stack = build(cells, seeds, config, CPU)
    owners = stack.owners()
    leaves = stack.weights(torch.float64, init=init).leaves
    for a, cell in enumerate(cells):
        left = {
            shape: [w for w, own in zip(leaf, owners[shape], strict=True) if own == a] for shape, leaf in leaves.items()
        }
        description = cell.describe(config.network, resolution=config.resolution, num_classes=config.num_classes)
        for k, layer in enumerate(description.layers):
            [expected] = drawn(layer.weight_shape, [(seeds[a], k)], init or config.init).double()
            [place] = [i for i, w in enumerate(left[layer.weight_shape]) if torch.equal(w, expected)]
            del left[layer.weight_shape][place]
        assert not any(left.values())


@pytest.mark.gpu
def test_a_gpu_takes_the_same_weights_and_nobody_waits_for_it() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    rng = random.Random(0)
    for max_bytes in (0, 2**20):
        weights, taken = WeightTables(max_bytes), []
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(100):
                shape, rows, init = asked(rng)
                taken.append((shape, rows, init, weights.take(shape, rows, init, CUDA)))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        for shape, rows, init, weight in taken:
            assert torch.equal(weight.cpu(), drawn(shape, rows, init))
        assert weights.nbytes(CUDA) == weights.nbytes(torch.device("cuda", torch.cuda.current_device()))
