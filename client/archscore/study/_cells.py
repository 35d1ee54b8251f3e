"""Which cells of NAS-Bench-201 a study is about."""

from __future__ import annotations

import random

from archscore.spaces.nasbench201 import NUM_CELLS, Cell, from_index


def random_cells(count: int, seed: int) -> list[Cell]:
    """Cells without replacement, disconnected ones included; fewer cells of one seed are a prefix of more."""
    order = random.Random(seed).sample(range(NUM_CELLS), NUM_CELLS)  # noqa: S311 -- nothing secret about it
    return [from_index(index) for index in order[:count]]
