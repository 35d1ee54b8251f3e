"""Fixtures for tests of the server."""

from collections.abc import AsyncIterator

import pytest_asyncio

from support.serving import Serving, serving


@pytest_asyncio.fixture
async def served() -> AsyncIterator[Serving]:
    async with serving() as running:
        yield running
