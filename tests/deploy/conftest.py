"""The engine, Compose v2, the image and the running stacks that the tests of the containers share.

All skip where ARCHSCORE_DOCKER_ENGINE, the script that starts an engine, is not set, those of Compose v2 where
ARCHSCORE_COMPOSE_V2, the program itself, is not.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("docker")

from support import containers
from support.containers import ROOT, Engine, Project


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """A Docker engine with stand-ins for the public images; one that was up already stays up."""
    script = os.environ.get("ARCHSCORE_DOCKER_ENGINE", "")
    if not Path(script).is_file():
        pytest.skip("needs a Docker engine: ARCHSCORE_DOCKER_ENGINE names no script that starts one")
    engine, started = containers.start(Path(script))
    yield engine
    if started:
        containers.stop(Path(script), engine)


@pytest.fixture(scope="session")
def compose_v2() -> Path:
    """Compose v2, as a program of the name docker-compose."""
    program = Path(os.environ.get("ARCHSCORE_COMPOSE_V2", ""))
    if program == Path():
        pytest.skip("needs Compose v2: ARCHSCORE_COMPOSE_V2 names no program; `make test` sets it")
    assert program.name == "docker-compose"
    try:
        said = subprocess.run([program, "version", "--short"], check=True, capture_output=True, text=True, timeout=60)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        pytest.skip("needs Compose v2: ARCHSCORE_COMPOSE_V2 is a program for another architecture")
    assert int(said.stdout.removeprefix("v").partition(".")[0]) >= 2
    return program


@pytest.fixture(scope="session")
def run_id() -> str:
    """A name for what this run makes in the engine, which others may use too."""
    return f"archscore-test-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="session")
def image(engine: Engine, run_id: str) -> Iterator[str]:
    """The tag of the image that the Dockerfile makes, as it is."""
    containers.build(engine, run_id)
    yield run_id
    engine.client.images.remove(run_id, force=True)


@pytest.fixture(scope="session")
def cpu_stack(engine: Engine, image: str, run_id: str, golden_data: Path) -> Iterator[Project]:
    """docker-compose.cpu.yml with server and Prometheus up and healthy. Grafana has no stand-in, and is not started.

    `server` is the address of the service on this machine, `prometheus` the URL of Prometheus.
    """
    with _cpu_stack(engine, image, run_id, golden_data) as project:
        yield project


@pytest.fixture(scope="module")
def cpu_stack_v2(engine: Engine, image: str, run_id: str, golden_data: Path, compose_v2: Path) -> Iterator[Project]:
    """The same by Compose v2."""
    with _cpu_stack(engine, image, f"{run_id}-v2", golden_data, compose_v2) as project:
        yield project


@contextlib.contextmanager
def _cpu_stack(engine: Engine, image: str, name: str, data: Path, program: Path | None = None) -> Iterator[Project]:
    data.chmod(0o755)  # the server is another user
    environment = {"ARCHSCORE_IMAGE": image, "ARCHSCORE_DATA": str(data)}
    project = Project(engine, name, ROOT / "docker-compose.cpu.yml", environment, program)
    try:
        project.up("prometheus")  # which waits for the server's health
        project.healthy("prometheus")
        yield project
    finally:
        project.down()
