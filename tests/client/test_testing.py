"""`archscore.testing`: servers for other people's tests, of which none is left behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import archscore.testing
from archscore import AsyncClient, InvalidRequestError
from support.process import children

CONFIG = {"batchSize": 8, "nasbench201": {"channels": 4, "cellsPerStage": 1}}
ANSWERED = "archscore_architectures_total"
PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()

# Starts a server, says which processes there are then, and is killed.
ABANDON = """
import os, signal, sys
import archscore.testing
from support.process import descendants

with archscore.testing.server() as server:
    print(*descendants(os.getpid()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[archscore.testing.Server]:
    """One that would not start, were the variables for it."""
    store = tmp_path_factory.mktemp("store") / "scores.sqlite"
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("TOKENS", "TLS_CERTIFICATE", "DATA_DIR"):
                patch.setenv(f"ARCHSCORE_{name}", "/no/such")
            starting = archscore.testing.server(store=store, threads=1, options=["--limit-batch-size", "16"])
            running = stack.enter_context(starting)
        yield running
    assert store.exists()
    assert running.process.returncode == 0


def wait_until_gone(*pids: int) -> None:
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "processes are left behind"
        time.sleep(0.05)


def test_a_client_is_answered(server: archscore.testing.Server) -> None:
    before = server.metric(ANSWERED, space="nasbench201", outcome="ok")
    with server.client(client_id="test") as client:
        assert client.score("index:6111", ["tcet"], config=CONFIG)["tcet"] > 0
        assert client.client_id == "test"
    assert server.metric(ANSWERED, space="nasbench201", outcome="ok") == before + 1
    assert server.metric(ANSWERED, space="no_such_space") == 0


async def test_tests_of_asyncio_may_use_it(server: archscore.testing.Server) -> None:
    async with AsyncClient(server.address) as client:
        assert (await client.score("index:81", ["naswot"], config=CONFIG))["naswot"]


def test_options_are_the_servers(server: archscore.testing.Server) -> None:
    with server.client() as client, pytest.raises(InvalidRequestError, match="16"):
        client.score("index:6111", ["tcet"], config={"batchSize": 32})


def test_metrics_are_not_asked_of_a_proxy(server: archscore.testing.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert server.metric("archscore_workers_ready") == 1


@pytest.mark.parametrize("on_term", ["", "trap '' TERM; "], ids=["orderly", "stubborn"])
def test_it_ends_with_the_context(on_term: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretender = tmp_path / "python"
    listening = "archscore-server listening on 127.0.0.1:1 metrics on 127.0.0.1:2"
    pretender.write_text(f"#!/bin/sh\n{on_term}echo {listening}\nwhile :; do sleep 0.1; done\n")
    pretender.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(pretender))
    monkeypatch.setattr("archscore.testing._server._STOP_TIMEOUT", 1.0)
    servers = []

    def fail() -> None:
        with archscore.testing.server() as running:
            servers.append(running)
            raise KeyError("of the test")

    with pytest.raises(KeyError, match="of the test"):
        fail()
    [running] = servers
    assert (running.address, running.metrics_address) == ("127.0.0.1:1", "127.0.0.1:2")
    assert running.process.returncode == (-signal.SIGKILL if on_term else -signal.SIGTERM)
    wait_until_gone(running.process.pid)


def test_it_ends_with_a_process_that_is_killed() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", ABANDON], env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    processes = [int(pid) for pid in ran.stdout.split()]
    assert len(processes) == 2
    wait_until_gone(*processes)


def test_one_that_cannot_start_says_why() -> None:
    with pytest.raises(archscore.testing.ServerError, match=r"exit code 2: (.*\n)+.*'--data-dir'.*/no/such"):
        archscore.testing.server(data_dir=Path("/no/such")).__enter__()


def test_one_that_takes_too_long_is_stopped() -> None:
    before = children(os.getpid())
    with pytest.raises(archscore.testing.ServerError, match=r"not ready within 0\.01 s"):
        archscore.testing.server(timeout=0.01).__enter__()
    assert children(os.getpid()) == before


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['torch'] = None\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    with pytest.raises(archscore.testing.ServerError, match=r"missing: torch\): pip install 'archscore\[server\]'"):
        archscore.testing.server().__enter__()


def test_the_fixtures_of_the_page_work(tmp_path: Path) -> None:
    blocks = re.findall(r"^`([\w.]+)`:\n\n```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in blocks] == ["conftest.py", "test_ranking.py"]
    for name, block in blocks:
        (tmp_path / name).write_text(block)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 passed" in ran.stdout
