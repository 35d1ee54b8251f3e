"""A short run of attacks on the port of a server, and what is found of one that gives in."""

import asyncio
import random

import pytest

from fuzz.attacks import ATTACKS, Attack
from fuzz.connections import attack
from fuzz.http2 import Connection
from fuzz.payloads import SERVICE
from fuzz.run import fuzz_process
from support.serving import Serving, serving


@pytest.mark.slow
def test_a_short_run() -> None:
    tally = fuzz_process("connections", 5, 0, 3 * len(ATTACKS))
    assert not tally.violations, "\n".join(tally.violations)
    assert set(tally.kinds) == set(ATTACKS)
    assert tally.notes["proper calls"]
    assert tally.notes["reference scores"]


async def attacked(served: Serving, monkeypatch: pytest.MonkeyPatch, what: Attack) -> tuple[str, str | None]:
    monkeypatch.setitem(ATTACKS, "this", what)
    return await attack(f"127.0.0.1:{served.server.port}", "this", random.Random(1))


async def ask(peer: Connection, _rng: random.Random) -> None:
    await peer.open()
    await peer.send(peer.call(1, f"{SERVICE}/ListProxies", b""))
    await peer.answers(patience=10)


async def hang(_peer: Connection, _rng: random.Random) -> None:
    await asyncio.Event().wait()


async def test_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzz.connections._LONGEST", 0.2)
    async with serving() as served:
        right = Attack(ask, frozenset({"OK"}), "OK")
        assert await attacked(served, monkeypatch, right) == ("status OK", None)
        assert (await attacked(served, monkeypatch, Attack(ask, frozenset())))[1] == "answered status OK"
        unanswered = Attack(ask, frozenset({"OK"}), "CANCELLED")
        assert (await attacked(served, monkeypatch, unanswered))[1] == "answered status OK, not CANCELLED"
        assert "no end" in str((await attacked(served, monkeypatch, Attack(hang, frozenset())))[1])


async def test_one_connection_has_room_for_a_bounded_number_of_requests() -> None:
    """Else one that takes its requests back at once has gRPC cancel those of others."""
    async with serving() as served:
        peer = Connection(*await asyncio.open_connection("127.0.0.1", served.server.port))
        await peer.open()
        async with asyncio.timeout(10):
            while 3 not in peer.settings:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        await peer.end(abort=False)
        assert peer.settings[3] == 100
