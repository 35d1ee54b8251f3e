"""What all tests share."""

import os
from pathlib import Path

import pytest

# Small networks gain nothing from more threads, and a busy machine makes threads wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def golden_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the dataset of the reference scores."""
    from support.images import write_golden

    directory = tmp_path_factory.mktemp("data")
    write_golden(directory)
    return directory
