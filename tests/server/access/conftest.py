"""Fixtures for tests of who may call."""

from pathlib import Path

import pytest

from support.certificates import Authority


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where a token file may be."""
    return tmp_path / "tokens"
