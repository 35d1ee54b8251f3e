"""Compiles the simulated accelerator, and loads it; torch must not have been imported before."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

#: Names the compiled library to processes that are to have the accelerator.
VARIABLE = "ARCHSCORE_TEST_ACCELERATOR"


class NoCompilerError(Exception):
    """There is no C++ compiler here."""


def build(directory: Path) -> Path:
    """Compiles it; returns the library.

    Raises:
        NoCompilerError: there is no compiler.
        subprocess.CalledProcessError: it does not compile with this version of torch.
    """
    compiler = shutil.which("c++")
    if compiler is None:
        raise NoCompilerError
    torch, library = _torch_directory(), directory / "accelerator.so"
    source = Path(__file__).with_name("accelerator.cpp")
    command = [compiler, "-std=c++20", "-shared", "-fPIC", f"-I{torch / 'include'}", str(source), f"-L{torch / 'lib'}"]
    subprocess.run([*command, "-lc10", "-ltorch_cpu", "-o", str(library)], check=True)
    return library


def load() -> None:
    """Loads the library that the environment names."""
    if "torch" in sys.modules:
        raise RuntimeError("torch has been imported already")
    ctypes.CDLL(str(_torch_directory() / "lib" / "libtorch_cpu.so"), ctypes.RTLD_GLOBAL)
    ctypes.CDLL(os.environ[VARIABLE])


def _torch_directory() -> Path:
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("torch")
    return Path(found.origin).parent
