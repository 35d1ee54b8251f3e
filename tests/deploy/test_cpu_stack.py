"""docker-compose.cpu.yml as it is: it comes up, scores, is scraped, drains, restarts, and keeps to its volumes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator

import pytest
from docker.models.containers import Container

from archscore import Client
from archscore.spaces import nasbench201
from golden_cases import case_id, cases, config, tolerance
from monitoring.expressions import of_dashboards, of_rules, unanswered
from monitoring.load import Load
from monitoring.prometheus import Prometheus, request_ids
from support.containers import Project, ask, eventually, health

#: Some cells: those over all proxies take too long here, and test_golden has them.
GOLDEN = [case for case in cases() if case["space"] == "nasbench201" and case["outcome"] == "OK"][:3]
PROXIES = ["tcet", "ssnr", "naswot", "synflow"]


@pytest.fixture
def server(cpu_stack: Project) -> Iterator[Container]:
    """The container of the server, healthy before and after."""
    cpu_stack.healthy("server")
    yield cpu_stack.container("server")
    cpu_stack.container("server").start()  # does nothing if it runs
    cpu_stack.healthy("server")


@pytest.mark.parametrize("case", GOLDEN, ids=case_id)
def test_reference_scores_through_the_published_port(cpu_stack: Project, case: dict[str, object]) -> None:
    with Client(cpu_stack.server) as client:
        evaluation = client.score(
            str(case["encoding"]), PROXIES, space=str(case["space"]), config=config(case, "float32")
        )
    for proxy in PROXIES:
        expected = case["scores"][proxy]  # type: ignore[index]
        assert evaluation[proxy] == pytest.approx(expected, rel=tolerance(proxy, "float32")), proxy


def test_datasets_of_the_mounted_directory_are_there(cpu_stack: Project) -> None:
    with Client(cpu_stack.server) as client:
        names = {dataset.name for dataset in client.server_info().datasets}
    assert len(names) > 1, names


def test_prometheus_scrapes_the_server(cpu_stack: Project) -> None:
    eventually(lambda: [sample["value"][1] for sample in ask(cpu_stack.prometheus, 'up{job="archscore"}')] == ["1"])
    with Client(cpu_stack.server) as client:
        client.score("index:6111", ["naswot"], space="nasbench201")
    eventually(lambda: ask(cpu_stack.prometheus, '{__name__=~"archscore_.*"}'))


def test_every_expression_of_dashboards_and_alerts_has_data(cpu_stack: Project) -> None:
    """With compose's configuration and scrape interval; gpu_only.json has the exceptions, with reasons."""
    scrape = 5
    start = time.time()
    with Load(cpu_stack.server, lambda: None) as load:
        for _ in range(2):  # Prometheus sees no growth in what it sees for the first time
            load.look_up()
            load.score(8)
            load.repeat(4)
            load.ask_wrongly()
            time.sleep(1.5 * scrape)
    expressions = [each for each in (*of_dashboards(), *of_rules()) if not each.gpu_only]
    prometheus = Prometheus(cpu_stack.prometheus)

    def without_data() -> list[str]:
        return unanswered(prometheus, expressions, start, time.time(), step=scrape, rate_interval=f"{4 * scrape}s")

    with contextlib.suppress(AssertionError):
        eventually(lambda: not without_data(), 3 * scrape)
    assert without_data() == []
    assert request_ids(prometheus, start, time.time())


def test_prometheus_has_the_alerts(cpu_stack: Project) -> None:
    with urllib.request.urlopen(f"{cpu_stack.prometheus}/api/v1/rules", timeout=30) as response:
        groups = json.load(response)["data"]["groups"]
    alerts = {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}
    assert alerts.keys() == {expression.place.partition(": ")[2] for expression in of_rules()}
    assert "err" not in alerts.values()


def test_ports_are_published_on_loopback_only(cpu_stack: Project) -> None:
    for service in ("server", "prometheus"):
        published = cpu_stack.container(service).attrs["NetworkSettings"]["Ports"]
        addresses = {binding["HostIp"] for bindings in published.values() for binding in bindings or ()}
        assert addresses == {"127.0.0.1"}, service


def test_nothing_runs_as_root(cpu_stack: Project) -> None:
    for service in ("server", "prometheus"):
        table = cpu_stack.container(service).top(ps_args="-eo uid,pid,args")
        assert table["Processes"]
        assert "0" not in {row[table["Titles"].index("UID")].strip() for row in table["Processes"]}, service


def test_nothing_is_written_outside_the_volumes(cpu_stack: Project, server: Container) -> None:
    with Client(cpu_stack.server) as client:
        client.score("index:81", ["naswot"], space="nasbench201")
    for container in (server, cpu_stack.container("prometheus")):
        assert container.attrs["HostConfig"]["ReadonlyRootfs"]
        mounts = [mount["Destination"] for mount in container.attrs["Mounts"]] + ["/tmp", "/run/secrets"]
        # The engine makes the places of mounts, and the folders above them.
        changed = [entry["Path"] for entry in container.diff() or ()]
        assert [path for path in changed if not any((mount + "/").startswith(path + "/") for mount in mounts)] == []


def test_a_worker_that_is_killed_leaves_no_zombie(cpu_stack: Project, server: Container) -> None:
    before = _workers(server)
    assert before
    _exec(server, f"import os, signal; os.kill({before[0]}, signal.SIGKILL)")
    eventually(lambda: _workers(server) and before[0] not in _workers(server))
    table = server.top(ps_args="-eo stat,pid")
    assert not [row for row in table["Processes"] if row[0].startswith("Z")]


def test_a_killed_server_restarts_with_its_store(cpu_stack: Project, server: Container) -> None:
    with Client(cpu_stack.server) as client:
        first = client.score("index:5759", ["naswot"], space="nasbench201")
        eventually(lambda: client.score("index:5759", ["naswot"], space="nasbench201").scores["naswot"].stored)
    time.sleep(1.5)  # a store is at most a second behind
    server.reload()
    restarts = server.attrs["RestartCount"]
    # From outside, as the kernel would: Docker does not restart what somebody killed through it, and the first process
    # of a container hears no signal from inside that it does not handle.
    try:
        os.kill(server.attrs["State"]["Pid"], signal.SIGKILL)
    except (PermissionError, ProcessLookupError):
        pytest.skip("the engine's processes are out of reach")
    eventually(lambda: server.reload() or server.attrs["RestartCount"] > restarts)
    cpu_stack.healthy("server")
    with Client(cpu_stack.server) as client:
        again = client.score("index:5759", ["naswot"], space="nasbench201")
    assert again.scores["naswot"].stored
    assert again["naswot"] == first["naswot"]


def test_docker_stop_drains_and_exits_with_0(cpu_stack: Project, server: Container) -> None:
    """What a client has asked for is answered, all of it, though the container is told to stop meanwhile."""
    cells = [nasbench201.from_index(index) for index in range(1_000, 1_012)]
    results = []
    # Enough that it is not over when the container is told to stop, and soon over on a slow machine too.
    with Client(cpu_stack.server, timeout=60) as client:
        stream = client.score_many(cells, ["tcet"], config={"batchSize": 16})
        results.append(next(iter(stream)))
        stopping = threading.Thread(target=server.stop, kwargs={"timeout": 40})
        stopping.start()
        try:
            with contextlib.suppress(StopIteration):
                results += list(stream)
        finally:
            stopping.join()
    assert len(results) == len(cells)
    assert [result.error for result in results] == [None] * len(cells)
    server.reload()
    assert server.attrs["State"]["ExitCode"] == 0
    assert not server.attrs["State"]["OOMKilled"]
    assert '"stopped"' in server.logs(tail=5).decode()
    assert health(server) == "exited"


def _workers(container: Container) -> list[int]:
    """Worker processes, by their number inside."""
    code = (
        "import pathlib\n"
        "for p in pathlib.Path('/proc').glob('[0-9]*'):\n"
        "    try: command = (p / 'cmdline').read_bytes()\n"
        "    except OSError: continue\n"
        "    if b'archscore_server.pool.worker' in command.split(bytes(1)): print(p.name)\n"
    )
    return sorted(int(line) for line in _exec(container, code).split())


def _exec(container: Container, code: str) -> str:
    code_, output = container.exec_run(["python", "-c", code])
    assert code_ == 0, output
    text: str = output.decode()
    return text
