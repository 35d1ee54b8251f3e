"""The examples run, against a real server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import archscore.testing
from archscore.spaces import nasbench201, zennas

EXAMPLES = Path(__file__).parents[1] / "examples"
CELL = r"(\|\S+\|)"


@pytest.fixture(scope="module")
def server() -> Iterator[archscore.testing.Server]:
    with archscore.testing.server(threads=1) as running:
        yield running


def run(server: archscore.testing.Server, name: str, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "ARCHSCORE_SERVER": server.address}
    ran = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert not ran.stderr
    return ran.stdout


def test_optuna_search(server: archscore.testing.Server) -> None:
    said = run(server, "optuna_search.py", "--trials", "4")
    best = re.search(rf"^highest tcet: \S+ by {CELL}, trial \d$", said, re.MULTILINE)
    nasbench201.parse(best[1])
    front = re.findall(rf"^ *(\S+) +(\S+) {CELL}$", said, re.MULTILINE)
    assert front
    scores = [float(score) for score, _, _ in front]
    assert scores == sorted(scores)


def test_pymoo_search(server: archscore.testing.Server) -> None:
    said = run(server, "pymoo_search.py", "--generations", "1", "--population", "12")
    front = re.findall(r"^ *(\S+) +(\S+) (Super\S+)$", said, re.MULTILINE)
    assert front
    assert all(zennas.CIFAR_BUDGET.fits(zennas.parse(genome)) for _, _, genome in front)


def test_archai_evaluator(server: archscore.testing.Server) -> None:
    lines = run(server, "archai_evaluator.py").splitlines()
    assert [line.endswith("no score") for line in lines] == [False, False, True, True]
