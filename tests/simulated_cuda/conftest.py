"""Tests of these files run where the accelerator was loaded: tests/test_simulated_cuda.py starts them."""

import os
from collections.abc import Iterator

import pytest

from simulated_cuda import loading

if loading.VARIABLE not in os.environ:
    collect_ignore_glob = ["test_*.py"]
else:
    from archscore_server.engine.minibatches import RECENT
    from archscore_server.engine.tables import TABLES
    from simulated_cuda.device import CUDA, Device, simulated

    @pytest.fixture
    def device() -> Iterator[Device]:
        """A device of 16 GiB, and nothing kept on it."""
        with simulated() as own:
            yield own
            TABLES.clear(CUDA)
            RECENT.clear(CUDA)
