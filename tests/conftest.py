"""What all tests share."""

import os
from pathlib import Path

import pytest

# Small networks gain nothing from more threads, and a busy machine makes threads wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where there are more all the same, they do not wait by keeping a core busy, which others may be waiting for.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def golden_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the dataset of the reference scores."""
    from support.images import write_golden

    directory = tmp_path_factory.mktemp("data")
    write_golden(directory)
    return directory


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Shows the figures that tests recorded: how far apart scores were that should be equal."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            terminalreporter.write_line(f"{report.nodeid}: {name} {value:.2g}")
