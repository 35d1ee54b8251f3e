"""What a worker's C library keeps of memory that is freed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from archscore_server import glibc

pytestmark = pytest.mark.skipif(glibc.library() is None, reason="the C library is not glibc")

#: Frees every second of many pieces: what is between them cannot be returned unless each is the system's own.
SCRIPT = """
import json
import numpy as np
from archscore_server.pool._allocator import Allocator

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

PIECE, COUNT = 4 * 2**20, 50

def left_over():
    before = resident()
    pieces = [np.ones(PIECE // 8) for _ in range(COUNT)]
    del pieces[::2]
    # None of these fits into a gap.
    pieces += [np.ones(PIECE // 8 + 4096) for _ in range(COUNT // 2)]
    grown = resident() - before
    return grown / sum(piece.nbytes for piece in pieces)

allocator = Allocator(1000 * PIECE, cores=1)
np.ones(31 * 2**20 // 8)  # glibc keeps what is as large as the largest that was freed
found = [left_over()]
for large in (False, True, False):
    allocator.suit(large=large)
    found.append(left_over())
print(json.dumps(found))
"""


#: Takes and frees many pieces again and again, as small networks do, none of them large enough to keep the others by.
SMALL_PIECES = """
import resource
import numpy as np
from archscore_server.pool._allocator import Allocator

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        pieces = [np.ones(100 * 2**10 // 8) for _ in range(100)]
        del pieces
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

by_default = faults()
Allocator(2**40, cores=1).suit(large=False)
faults()
print(by_default, faults())
"""


def test_large_evaluations_leave_no_gaps() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    by_default, small, large, small_again = json.loads(done.stdout)
    assert by_default > 1.2
    assert small > 1.2
    assert large < 1.1
    assert small_again > 1.1


def test_small_evaluations_keep_their_memory() -> None:
    """Each page that is taken anew is a fault."""
    done = subprocess.run([sys.executable, "-c", SMALL_PIECES], capture_output=True, text=True, check=True)
    by_default, kept = map(int, done.stdout.split())
    assert by_default > 20 * 1000
    assert kept < by_default / 20
