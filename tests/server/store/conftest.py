"""Fixtures for tests of the score store."""

from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from archscore_server.store import Store
from support.stores import Clock, Counts

Opened = Callable[..., Coroutine[Any, Any, Store]]


@pytest.fixture(autouse=True)
def prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that wait for something to be written need not wait for more to come. (A killed process is a real one.)"""
    monkeypatch.setattr("archscore_server.store._store._FLUSH_SECONDS", 0.02)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counts() -> Counts:
    return Counts()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scores.db"


@pytest_asyncio.fixture
async def opened(clock: Clock) -> AsyncIterator[Opened]:
    """Opens stores, and closes them in the end."""
    stores = []

    async def open_(path: Path | None = None, **options: Any) -> Store:
        store = Store(path, **{"clock": clock, **options})
        stores.append(store)
        await store.open()
        return store

    yield open_
    for store in stores:
        await store.close()
