"""What `import archscore` costs and offers."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import archscore

HEAVY = ("grpc", "google.protobuf", "torch", "numpy")


def imported_by(statement: str) -> set[str]:
    """Heavy modules that a statement imports in a fresh interpreter."""
    code = f"import sys\n{statement}\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return set(
        subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        ).stdout.split()
    )


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("import archscore", set()),
        ("import archscore; archscore.__version__, archscore.__all__, dir(archscore)", set()),
        ("from archscore import ArchscoreError, UnavailableError", set()),
        ("import archscore.spaces", set()),
        ("import archscore.cli", set()),
        ("import archscore.adapters", set()),
        ("import archscore.testing", set()),
        ("from archscore import Client", {"grpc", "google.protobuf"}),
        ("from archscore import AsyncClient, Result", {"grpc", "google.protobuf"}),
    ],
)
def test_imports_are_lazy(statement, expected):
    assert imported_by(statement) == expected


def test_everything_in_all_is_there():
    for name in archscore.__all__:
        assert getattr(archscore, name) is not None
        assert name in dir(archscore)


def test_nothing_else_is_there():
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = archscore.nothing_like_it
