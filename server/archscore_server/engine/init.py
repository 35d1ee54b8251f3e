"""Initial weights, drawn with numpy alone (proxies.md, Weights).

Layer k of a network takes a prefix of the stream (seed, k), whatever its shape. Streams are kept, so that with one seed
the weights of the second architecture cost next to nothing, even where its layers have shapes of their own. Where they
have not, `archscore_server.engine.tables` has the weights themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from archscore_server.engine._cache import ByteCache
from archscore_server.engine.config import Init
from archscore_server.engine.data import rng

#: Bytes of streams that are kept; a default NAS-Bench-201 network and its neighbours need about 30 MB a seed.
CACHE_BYTES = 128 * 2**20


class WeightStreams:
    """The streams that weights are drawn from, kept up to a number of bytes."""

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        """Starts with nothing drawn."""
        self._streams: ByteCache[NDArray[np.float64]] = ByteCache(max_bytes)

    def weight(self, shape: Sequence[int], k: int, seed: int, init: Init) -> NDArray[np.float32]:
        """The initial weight of layer number `k`, whose weight has this shape: [out, in / groups, k, k] or [out, in].

        The array is the caller's.
        """
        size, area = math.prod(shape), math.prod(shape[2:])
        fan_in, fan_out = size // shape[0], shape[0] * area
        if init is Init.PYTORCH:
            drawn = (2 * self._prefix(True, seed, k, size) - 1) / math.sqrt(fan_in)
        elif init is Init.NORMAL:
            drawn = self._prefix(False, seed, k, size)
        else:
            fans = fan_in if init is Init.KAIMING_NORMAL else fan_in + fan_out
            drawn = self._prefix(False, seed, k, size) * math.sqrt(2 / fans)
        return drawn.astype(np.float32).reshape(shape)

    @property
    def nbytes(self) -> int:
        """Bytes kept now."""
        return self._streams.nbytes

    def _prefix(self, uniform: bool, seed: int, k: int, size: int) -> NDArray[np.float64]:
        key = (uniform, seed, k)
        stream = self._streams.get(key)
        if stream is None or stream.size < size:
            # A longer draw from the start has the shorter one as its prefix.
            generator = rng(seed, k)
            stream = generator.random(size) if uniform else generator.standard_normal(size)
            self._streams.put(key, stream, stream.nbytes)
        return stream[:size]


#: The streams of this process.
STREAMS = WeightStreams()
