"""The wheel has the kernels for CPUs where there is a C compiler, and is built without one all the same."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what a wheel is made of."""
    for name in ("client", "server"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def build(tree: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "dist"]
    own = {**os.environ, **environment}
    return subprocess.run(command, cwd=tree, env=own, check=False, capture_output=True, text=True)


def wheel(tree: Path) -> Path:
    [found] = (tree / "dist").iterdir()
    return found


def library(tree: Path) -> bool:
    return any(name.endswith("kernels/_kernels.so") for name in zipfile.ZipFile(wheel(tree)).namelist())


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_wheel_with_kernels_is_for_its_platform(tree: Path) -> None:
    build(tree, ARCHSCORE_KERNELS="require").check_returncode()
    assert library(tree)
    assert not wheel(tree).name.endswith("-any.whl")


def test_without_a_compiler_the_wheel_is_for_all(tree: Path) -> None:
    done = build(tree, CC="/nonexistent/cc")
    done.check_returncode()
    assert "without kernels" in done.stdout + done.stderr
    assert not library(tree)
    assert wheel(tree).name.endswith("-py3-none-any.whl")


def test_what_must_have_kernels_is_not_built_without(tree: Path) -> None:
    done = build(tree, CC="false", ARCHSCORE_KERNELS="require")
    assert done.returncode
    assert "kernels for CPUs cannot be built" in done.stdout + done.stderr


def test_kernels_can_be_left_out(tree: Path) -> None:
    build(tree, ARCHSCORE_KERNELS="skip").check_returncode()
    assert not library(tree)
