"""The paths that a GPU takes, on a simulated one: in a process of its own, since torch looks for devices only once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from simulated_cuda import loading

TESTS = Path(__file__).parent


@pytest.mark.slow
def test_on_a_simulated_gpu(tmp_path: Path) -> None:
    if torch.version.cuda or torch.version.hip:
        pytest.skip("this torch has devices of its own")
    try:
        library = loading.build(tmp_path)
    except loading.NoCompilerError:
        pytest.skip("needs a C++ compiler")
    environment = {**os.environ, loading.VARIABLE: str(library)}
    command = [sys.executable, "-m", "simulated_cuda", "-q", "--color=no", "-p", "no:cacheprovider"]
    ran = subprocess.run(command, cwd=TESTS, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
