"""Initial weights on devices: tables of rows that are ready to use, so that a stack takes its weights by index.

Other architectures have other layers, but mostly of the same few shapes, and a layer's weight depends on its number,
its shape, the seed and the init alone. So each is drawn once, moved to the device once, and copied there from then on.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from archscore_server.engine._device import DeviceCache, to_device
from archscore_server.engine.config import Init
from archscore_server.engine.init import STREAMS

#: Bytes of tables that are kept on a device. All layers that default NAS-Bench-201 networks can have take 16 MB a seed.
CACHE_BYTES = 192 * 2**20

_FLOAT32_BYTES = 4

Row = tuple[int, int]
"""Seed and number of a layer."""


@dataclass(frozen=True, slots=True)
class _Table:
    """Weights of one shape.

    Attributes:
        places: where each row is.
        weights: [rows, *shape], float32.
    """

    places: Mapping[Row, int]
    weights: Tensor


class WeightTables:
    """Tables of weights by init, shape and seeds, kept up to a number of bytes on each device.

    A table grows with what is asked for; while it does, the one before is there, too. It is never changed, only
    replaced.
    """

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        """Starts with nothing drawn; the bound is that of each device."""
        self._tables: DeviceCache[_Table] = DeviceCache(max_bytes)

    def take(self, shape: Sequence[int], rows: Sequence[Row], init: Init, device: torch.device) -> Tensor:
        """The weights of layers of one shape.

        Args:
            shape: of each weight.
            rows: seed and number of each layer; layers may be equal.
            init: how they are drawn.
            device: where they go.

        Returns:
            [len(rows), *shape], float32, the caller's own.
        """
        kept = self._tables.on(device)
        asked = dict.fromkeys(rows)
        row_bytes = math.prod(shape) * _FLOAT32_BYTES
        if len(asked) * row_bytes > kept.max_bytes:
            return _drawn(shape, rows, init, device)
        # The networks of a stack have one seed or those of a config's repeats: either comes again as it is.
        key = (init, tuple(shape), frozenset(seed for seed, _ in asked))
        table = kept.get(key)
        if table is None or not asked.keys() <= table.places.keys():
            table = _grown(table, shape, asked, init, device, most=kept.max_bytes // row_bytes)
            kept.put(key, table, len(table.places) * row_bytes)
        places = np.fromiter((table.places[row] for row in rows), np.int64, len(rows))
        return table.weights.index_select(0, to_device(places, device))

    def nbytes(self, device: torch.device) -> int:
        """Bytes kept on a device."""
        return self._tables.on(device).nbytes

    def clear(self, device: torch.device) -> None:
        """Frees what is kept on a device."""
        self._tables.on(device).clear()


def _grown(
    table: _Table | None, shape: Sequence[int], asked: Collection[Row], init: Init, device: torch.device, most: int
) -> _Table:
    """A table with the rows asked for and, unless that makes more than `most`, those of the one before."""
    missing = [row for row in asked if table is None or row not in table.places]
    if table is not None and len(table.places) + len(missing) <= most:
        rows, weights = [*table.places, *missing], torch.cat([table.weights, _drawn(shape, missing, init, device)])
    else:
        rows, weights = list(asked), _drawn(shape, list(asked), init, device)
    return _Table({row: place for place, row in enumerate(rows)}, weights)


def _drawn(shape: Sequence[int], rows: Sequence[Row], init: Init, device: torch.device) -> Tensor:
    """The weights of layers, each drawn and moved once: while one is on its way, the next is drawn."""
    places: defaultdict[Row, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        places[row].append(place)
    weights = torch.empty(len(rows), *shape, dtype=torch.float32, device=device)
    for (seed, k), own in places.items():
        weight = to_device(STREAMS.weight(shape, k, seed, init), device)
        for place in own:
            weights[place].copy_(weight)
    return weights


#: The tables of this process.
TABLES = WeightTables()
