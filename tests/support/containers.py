"""A Docker engine, the project's image, and its compose files as somebody would start them.

`python -m support.containers SCRIPT` starts the engine of a script, with all that the tests find there if it is: the
stand-ins, and the layers of the image.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import yaml
from docker.models.containers import Container

ROOT = Path(__file__).parents[2]

#: Public images that the project names, and the verb of the engine script that makes a stand-in.
_STAND_INS = {"python": "base", "prom/prometheus": "prometheus"}


@dataclass(frozen=True)
class Engine:
    """A Docker engine.

    Attributes:
        client: what tests ask it with.
        host: its DOCKER_HOST.
    """

    client: docker.DockerClient
    host: str

    @property
    def environment(self) -> dict[str, str]:
        """Variables for programs that use it."""
        return {**os.environ, "DOCKER_HOST": self.host}


def start(script: Path) -> tuple[Engine, bool]:
    """Starts the engine of a script, if it is not up, with all stand-ins; says whether it had to be started."""
    output = _run_script(script, "env")
    [host] = re.findall(r"export DOCKER_HOST=(\S+)", output)
    started = "already up" not in _run_script(script, "up")
    client = docker.DockerClient(base_url=host, timeout=300)
    there = {tag for image in client.images.list() for tag in image.tags}
    for tag in {*_named_in_dockerfile(), *_named_in_compose()} - there:
        verb = _STAND_INS.get(tag.partition(":")[0])
        if verb:
            _run_script(script, verb, tag)
    return Engine(client, host), started


def build(engine: Engine, tag: str | None = None) -> None:
    """Makes the image of the Dockerfile, as it is."""
    engine.client.images.build(path=str(ROOT), tag=tag, rm=True, forcerm=True)


def stop(script: Path, engine: Engine) -> None:
    """Stops an engine."""
    engine.client.close()
    _run_script(script, "down")


def _run_script(script: Path, *arguments: str) -> str:
    result = subprocess.run(["bash", str(script), *arguments], check=False, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def _named_in_dockerfile() -> set[str]:
    return set(re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE))


def _named_in_compose() -> set[str]:
    services = yaml.safe_load((ROOT / "deploy" / "base.yml").read_text())["services"]
    return {service["image"] for service in services.values() if "$" not in service["image"]}


class Project:
    """A compose file with a project name and published ports of its own.

    `program` is a docker-compose that is to be taken in place of the one on the PATH.

    Attributes:
        name: of the project.
        server: HOST:PORT that the service is published on.
        prometheus: URL that Prometheus is published on.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        file: Path,
        environment: Mapping[str, str],
        program: Path | None = None,
    ) -> None:
        self.name = name
        self._engine = engine
        self._file = file
        ports = _free_ports(3)
        names = ("ARCHSCORE_PUBLISHED_PORT", "PROMETHEUS_PUBLISHED_PORT", "GRAFANA_PUBLISHED_PORT")
        published = {variable: str(port) for variable, port in zip(names, ports, strict=True)}
        self._environment = {**engine.environment, "GRAFANA_ADMIN_PASSWORD": "test", **published, **environment}
        if program:
            self._environment["PATH"] = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
        self.server = f"127.0.0.1:{ports[0]}"
        self.prometheus = f"http://127.0.0.1:{ports[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which docker-compose and docker mean this project, wherever they run."""
        return {**self._environment, "COMPOSE_FILE": str(self._file), "COMPOSE_PROJECT_NAME": self.name}

    def compose(self, *arguments: str, timeout: float = 180) -> str:
        """Runs docker-compose on it; its stdout."""
        command = ["docker-compose", "--file", str(self._file)]
        result = subprocess.run(
            [*command, "--project-name", self.name, *arguments],
            check=False,
            cwd=ROOT,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    def up(self, *services: str) -> None:
        """Starts services, and what they wait for, in the background."""
        self.compose("up", "--detach", "--no-build", *services)

    def down(self) -> None:
        """Removes everything of it, volumes included."""
        self.compose("down", "--volumes", "--remove-orphans")

    def container(self, service: str) -> Container:
        """The container of a service."""
        label = [f"com.docker.compose.project={self.name}", f"com.docker.compose.service={service}"]
        [found] = self._engine.client.containers.list(all=True, filters={"label": label})
        return found

    def healthy(self, service: str, timeout: float = 90) -> None:
        """Waits until a service is."""
        eventually(lambda: health(self.container(service)) == "healthy", timeout)


def health(container: Container) -> str:
    """What Docker's own probe of a container says."""
    container.reload()
    status: str = container.attrs["State"].get("Health", {}).get("Status", "none")
    return status if container.status == "running" else container.status


def ask(prometheus: str, expression: str) -> list[dict[str, Any]]:
    """The result of a PromQL expression, now."""
    query = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"{prometheus}/api/v1/query?{query}", timeout=30) as response:
        result: list[dict[str, Any]] = json.load(response)["data"]["result"]
    return result


def eventually(condition: Callable[[], object], timeout: float = 60) -> None:
    """Waits until something is so."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it never was"
        time.sleep(0.3)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [bound.getsockname()[1] for bound in sockets]
    for bound in sockets:
        bound.close()
    return ports


if __name__ == "__main__":
    build(start(Path(sys.argv[1]))[0])
