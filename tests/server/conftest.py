"""Fixtures for tests of the server."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from puppets import Clock
from support.scheduling import Log, Start, schedulers
from support.serving import Serving, serving


@pytest_asyncio.fixture
async def served() -> AsyncIterator[Serving]:
    async with serving() as running:
        yield running


@pytest_asyncio.fixture
async def clock() -> Clock:
    return Clock()


@pytest.fixture
def log() -> Log:
    return Log()


@pytest_asyncio.fixture
async def start(clock: Clock, log: Log) -> AsyncIterator[Start]:
    async with schedulers(clock, log) as started:
        yield started
