"""The engine, the image and the running stack that the tests of the containers share.

All skip where ARCHSCORE_DOCKER_ENGINE, the script that starts an engine, is not set.
"""

from __future__ import annotations

import os
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
def run_id() -> str:
    """A name for what this run makes in the engine, which others may use too."""
    return f"archscore-test-{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="session")
def image(engine: Engine, run_id: str) -> Iterator[str]:
    """The tag of the image that the Dockerfile makes, as it is."""
    engine.client.images.build(path=str(ROOT), tag=run_id, rm=True, forcerm=True)
    yield run_id
    engine.client.images.remove(run_id, force=True)


@pytest.fixture(scope="session")
def cpu_stack(engine: Engine, image: str, run_id: str, golden_data: Path) -> Iterator[Project]:
    """docker-compose.cpu.yml with server and Prometheus up and healthy. Grafana has no stand-in, and is not started.

    `server` is the address of the service on this machine, `prometheus` the URL of Prometheus.
    """
    golden_data.chmod(0o755)  # the server is another user
    project = Project(
        engine,
        run_id,
        ROOT / "docker-compose.cpu.yml",
        {"ARCHSCORE_IMAGE": image, "ARCHSCORE_DATA": str(golden_data)},
    )
    try:
        project.up("prometheus")  # which waits for the server's health
        project.healthy("prometheus")
        yield project
    finally:
        project.down()
