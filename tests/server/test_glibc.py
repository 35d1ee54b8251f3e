"""What is free goes back to the system."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from archscore_server import glibc

pytestmark = pytest.mark.skipif(glibc.library() is None, reason="the C library is not glibc")

#: Frees nearly all of many pieces: the last one keeps the others from being returned by themselves.
SCRIPT = """
from archscore_server import glibc
from support.process import resident_bytes
import os

def resident():
    return resident_bytes(os.getpid()) >> 20

start = resident()
pieces = [bytearray(b"x" * 65536) for _ in range(1600)]
full = resident()
del pieces[:-1]
kept = resident()
glibc.give_back()
print(full - start, kept - start, resident() - start)
"""


def test_what_is_free_is_given_back() -> None:
    # the child finds the tests' helpers where this process does
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env=environment)
    full, kept, rest = map(int, done.stdout.split())
    assert full >= 99
    assert kept >= 90, "glibc gives it back by itself"
    assert rest < 10
