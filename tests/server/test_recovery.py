"""A server that is killed in the middle of everything, and one that is asked to stop, as their clients see it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc

from archscore import Client, Result, UnavailableError
from archscore.search import History, Record, RegularisedEvolution, Settings, run_search
from archscore.spaces import nasbench201
from archscore.v1 import scoring_pb2, scoring_pb2_grpc
from support.process import ServerProcess, marked, server_process
from support.serving import one

CONFIG = {"batchSize": 8, "resolution": 16, "nasbench201": {"channels": 4, "cellsPerStage": 1}}
PROXIES = ("tcet", "snip")
CELLS = [cell for cell in map(nasbench201.from_index, range(0, 15_000, 40)) if cell.connected]
#: Results that one message has at most: those of a batch of small networks.
MESSAGE = 32

pytestmark = pytest.mark.slow


def free_port(host: str = "127.0.0.1") -> int:
    with socket.create_server((host, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def values(results: list[Result]) -> dict[int, dict[str, float]]:
    return {result.index: {proxy: result[proxy] for proxy in PROXIES} for result in results}


def count_scores(path: Path) -> int:
    """Scores in a store that must be sound."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        count: int = connection.execute("SELECT count(*) FROM scores").fetchone()[0]
        return count


def test_score_many_outlives_a_server_that_is_killed(tmp_path: Path) -> None:
    """Every architecture has one result, the right one, and at most the last second of the store is lost."""
    store, port = tmp_path / "scores.sqlite", free_port()
    options = ("--port", str(port), "--device", "cpu", "--workers", "1", "--threads", "1", "--store", str(store))
    mark = {"ARCHSCORE_TEST_MARK": str(tmp_path)}
    with Client(f"127.0.0.1:{port}", timeout=120) as client:

        def ask() -> Any:
            return client.score_many(CELLS, PROXIES, config=CONFIG, chunk_size=16)

        with server_process(*options, environment=mark) as server:
            asking = ask()
            timed: list[tuple[Any, float]] = []
            # Until some were scored more than a second ago: those may not be lost.
            while not timed or time.monotonic() - timed[0][1] < 1.5:
                timed.append((next(asking), time.monotonic()))
            server.process.kill()
            killed = time.monotonic()
            server.process.wait()
        durable = sum(moment < killed - 1 for _, moment in timed)
        results = [result for result, _ in timed]
        assert 0 < durable < len(CELLS), "killed in the middle"
        while marked("ARCHSCORE_TEST_MARK", str(tmp_path)):  # its worker notices that the server is gone
            time.sleep(0.01)
        assert count_scores(store) >= durable * len(PROXIES)
        with server_process(*options) as server:
            results += asking
            again = list(ask())
    assert [result.index for result in results] == list(range(len(CELLS)))
    # What either server said, and what is stored now, is the same.
    before, after = values(results), values(again)
    assert all(before[index] == pytest.approx(after[index], rel=1e-4) for index in range(len(CELLS)))
    computed_again = {result.index for result in again if not result.evaluation.scores["tcet"].stored}
    late = {result.index for result, moment in timed if moment >= killed - 1}
    # A message has several results: the client may have had some that were not taken from it yet.
    in_hand = set(range(len(timed), len(timed) + MESSAGE))
    assert computed_again <= late | in_hand
    assert count_scores(store) == len(CELLS) * len(PROXIES)


def test_a_search_elsewhere_outlives_a_server_that_is_killed(tmp_path: Path) -> None:
    """From another address than the server's; it finds what a search finds whose server stayed."""
    options = ("--host", "127.0.0.2", "--port", str(free_port("127.0.0.2")), "--device", "cpu", "--workers", "1")
    settings = Settings(
        space="nasbench201",
        evaluations=40,
        proxies=PROXIES,
        strategy=RegularisedEvolution(population=10, tournament=4),
        batch=8,
        config=CONFIG,
    )
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(server_process(*options))

        def kill(record: Record, _history: History) -> None:
            if record.index == 20:
                first.process.kill()
                first.process.wait()
                stack.enter_context(server_process(*options))

        client = stack.enter_context(Client(first.address, timeout=120))
        cut = run_search(client, settings, directory=tmp_path / "cut", on_record=kill)
        whole = run_search(client, settings, directory=tmp_path / "whole")
    assert first.process.returncode == -signal.SIGKILL
    assert [record.architecture for record in cut.records] == [record.architecture for record in whole.records]
    for record, other in zip(cut.records, whole.records, strict=True):
        assert record.scores == pytest.approx(other.scores, rel=1e-4)


def test_the_store_of_a_stopped_server_can_be_looked_at(tmp_path: Path) -> None:
    """SIGTERM flushes the store; the installed command reads it."""
    store = tmp_path / "scores.sqlite"
    command = [str(Path(sys.executable).with_name("archscore-server")), "store"]
    options = ("--device", "cpu", "--workers", "1", "--threads", "1", "--store", str(store))
    with server_process(*options) as server:
        with Client(server.address) as client:
            scored = client.score(CELLS[0], PROXIES, config=CONFIG)
        assert server.stop() == 0
    exported = subprocess.run(
        [*command, "export", "--store", str(store), "--format", "jsonl"], capture_output=True, text=True, check=True
    )
    lines = [json.loads(line) for line in exported.stdout.splitlines()]
    assert {line["proxy"]: line["value"] for line in lines} == {proxy: scored[proxy] for proxy in PROXIES}
    subprocess.run([*command, "prune", "--store", str(store), "--keep", "1"], check=True)
    assert count_scores(store) == 1
    stats = subprocess.run([*command, "stats", "--store", str(store)], capture_output=True, text=True, check=True)
    assert "1" in stats.stdout


def test_the_lame_duck(tmp_path: Path) -> None:
    """After SIGTERM health says NOT_SERVING while requests are taken; then they are refused; then it ends well."""
    faults = os.pathsep.join([str(Path(__file__).parents[1] / "faults"), os.environ.get("PYTHONPATH", "")])
    environment = {"PYTHONPATH": faults, "ARCHSCORE_FAULTS": str(tmp_path)}
    options = ("--device", "cpu", "--workers", "2", "--threads", "1", "--lame-duck", "2", "--grace", "4")
    with server_process(*options, environment=environment) as server, Client(server.address, timeout=60) as client:
        client.score(CELLS[0], "snip", config=CONFIG)
        # Work in progress that never ends: the server stays for all of its grace.
        hanging = threading.Thread(target=ask_for_what_hangs, args=(server,))
        hanging.start()
        wait_for_status(server, health_pb2.HealthCheckResponse.SERVING)
        server.process.send_signal(signal.SIGTERM)
        wait_for_status(server, health_pb2.HealthCheckResponse.NOT_SERVING)
        assert client.score(CELLS[1], "snip", config=CONFIG)["snip"] > 0
        reasons = set()
        while server.process.poll() is None and "DRAINING" not in reasons:
            try:
                client.score(CELLS[2], "snip", config=CONFIG, timeout=0.5)
            except UnavailableError as error:
                reasons.add(error.reason)
        assert reasons == {"DRAINING"}
        assert server.process.wait(60) == 0
        hanging.join()


def ask_for_what_hangs(server: ServerProcess) -> None:
    """Asks once: a client would wait for another server in the place of the one that stops."""
    config = json_format.ParseDict(CONFIG, scoring_pb2.EvaluationConfig())
    request = one(CELLS[0].format(), ["fault_hang"], config=config)
    with grpc.insecure_channel(server.address) as channel, contextlib.suppress(grpc.RpcError):
        scoring_pb2_grpc.ScoringServiceStub(channel).ScoreArchitecture(request, timeout=60)


def wait_for_status(server: ServerProcess, status: int) -> None:
    with grpc.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while stub.Check(health_pb2.HealthCheckRequest(), timeout=10).status != status:
            time.sleep(0.01)
