"""How the C library of a worker hands out memory: fast, or without gaps.

What is freed is kept, up to tensors of 32 MiB, to be handed out again. That is fast, but what lies in gaps that are too
small is lost: a process grows to twice what its tensors take. Where that is too much, every larger piece is returned to
the system at once.

glibc comes to keep pieces by itself, as large as the largest that it has seen freed. Small networks never show it one
that is large enough to keep their own memory by: each evaluation then returns all of it, and takes it page by page
again.
"""

from __future__ import annotations

import os
from typing import Final

from archscore_server import glibc

#: Parameters of mallopt.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3

#: Bytes from which a piece of memory is the system's again when it is freed: to close gaps, and otherwise. The latter
#: is the most that glibc comes to by itself.
_WITHOUT_GAPS = 2**20
_WITH_GAPS = 32 * 2**20

#: Part of a core's share of the memory above which gaps are too much: twice that is still well below the share.
_LARGE = 0.25


class Allocator:
    """The C library of this process. Does nothing where it is not glibc.

    Attributes:
        large: bytes of an evaluation above which gaps are too much.
    """

    def __init__(self, memory: int, cores: int | None = None) -> None:
        """Leaves everything as it is until the first evaluation.

        Args:
            memory: of the machine, in bytes.
            cores: among which it is shared; all of the machine's if None.
        """
        self.large = _LARGE * memory / (cores or os.cpu_count() or 1)
        self._suits_large: bool | None = None

    def suit(self, *, large: bool) -> None:
        """Prepares for evaluations of which one is large, or none."""
        library = glibc.library()
        if large == self._suits_large or library is None:
            return
        self._suits_large = large
        size = _WITHOUT_GAPS if large else _WITH_GAPS
        library.mallopt(_MMAP_THRESHOLD, size)
        library.mallopt(_TRIM_THRESHOLD, 2 * size)
        if large:
            glibc.give_back()
