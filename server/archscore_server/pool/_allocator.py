"""How the C library of a worker hands out memory: fast, or without gaps.

By default glibc keeps what is freed, up to tensors of 32 MiB, to hand it out again. That is fast, but what lies in gaps
that are too small is lost: a process grows to twice what its tensors take. Where that is too much it returns every
larger piece to the system at once.
"""

from __future__ import annotations

import os
from typing import Final

from archscore_server import glibc

#: Parameters of mallopt.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3

#: Bytes from which a piece of memory is the system's again when it is freed: to close gaps, and otherwise. The latter
#: is what glibc comes to by itself.
_WITHOUT_GAPS = 2**20
_WITH_GAPS = 32 * 2**20

#: Part of a core's share of the memory above which gaps are too much: twice that is still well below the share.
_LARGE = 0.25


class Allocator:
    """The C library of this process. Does nothing where it is not glibc."""

    def __init__(self, memory: int, cores: int | None = None) -> None:
        """Leaves everything as it is.

        Args:
            memory: of the machine, in bytes.
            cores: among which it is shared; all of the machine's if None.
        """
        self._large = _LARGE * memory / (cores or os.cpu_count() or 1)
        self._gaps = True

    def suit(self, predicted: int) -> None:
        """Prepares for an evaluation of so many bytes."""
        gaps = predicted <= self._large
        library = glibc.library()
        if gaps == self._gaps or library is None:
            return
        self._gaps = gaps
        size = _WITH_GAPS if gaps else _WITHOUT_GAPS
        library.mallopt(_MMAP_THRESHOLD, size)
        library.mallopt(_TRIM_THRESHOLD, 2 * size)
        if not gaps:
            glibc.give_back()
