"""Runs the tests beside this file with the simulated accelerator: `python -m simulated_cuda [options of pytest]`."""

import os
import sys
import tempfile
from pathlib import Path

from simulated_cuda import loading

if loading.VARIABLE not in os.environ:
    os.environ[loading.VARIABLE] = str(loading.build(Path(tempfile.mkdtemp())))
loading.load()

import pytest  # noqa: E402 -- what follows imports torch

sys.exit(pytest.main([str(Path(__file__).parent), *sys.argv[1:]]))
