"""The image that the Dockerfile makes."""

from __future__ import annotations

from archscore._version import __version__
from support.containers import Engine, eventually

CPU = {"ARCHSCORE_DEVICE": "cpu", "ARCHSCORE_INSECURE": "true"}

#: Runs the server's command, which stops at the first module that it loads, for as long as no machine takes to load it.
LOADS_FOR_LONG = """
import sys, time
from archscore_server.__main__ import main

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "archscore_server.cli":
            print("loading")
            time.sleep(600)

sys.meta_path.insert(0, Slow())
main()
"""

#: Runs the server's command with workers that get nowhere.
STARTS_FOR_LONG = """
import os
from pathlib import Path
from archscore_server.__main__ import main

Path("/tmp/sitecustomize.py").write_text("import time; time.sleep(600)")
os.environ["PYTHONPATH"] = "/tmp"
main()
"""


def run(engine: Engine, image: str, *command: str, **options: object) -> tuple[int, str]:
    """Runs a command in a container of the image that is read-only; its exit code and output."""
    container = engine.client.containers.create(image, list(command), read_only=True, **options)
    try:
        container.start()
        code: int = container.wait(timeout=60)["StatusCode"]
        return code, container.logs().decode()
    finally:
        container.remove(force=True)


def test_it_is_labelled(engine: Engine, image: str) -> None:
    labels = engine.client.images.get(image).labels
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert {"org.opencontainers.image.title", "org.opencontainers.image.description"} <= labels.keys()


def test_its_user_is_a_number_and_not_root(engine: Engine, image: str) -> None:
    assert engine.client.images.get(image).attrs["Config"]["User"] == "10001:10001"


def test_its_dependencies_are_complete_and_pinned(engine: Engine, image: str) -> None:
    code, output = run(
        engine,
        image,
        "-c",
        "from importlib.metadata import distributions\n"
        "for d in distributions(): print(d.metadata['Name'], d.version)\n"
        "import torch, archscore_server.app",
        entrypoint="python",
    )
    assert code == 0, output
    installed = dict(line.split() for line in output.splitlines())
    assert installed["archscore"] == __version__
    assert installed["torch"].partition("+")[0] == "2.13.0"


def test_nothing_is_left_of_the_build(engine: Engine, image: str) -> None:
    """Neither pip nor hatchling nor their caches came along with what was built. (setuptools is what torch needs.)"""
    code, output = run(
        engine,
        image,
        "-c",
        "import pathlib, importlib.util\n"
        "for name in ('hatchling', 'pip'): assert importlib.util.find_spec(name) is None, name\n"
        "for path in ('/build', '/opt/layer', '/opt/hatchling'): assert not pathlib.Path(path).exists(), path\n",
        entrypoint="python",
    )
    assert code == 0, output


def test_it_does_not_serve_in_the_open_by_itself(engine: Engine, image: str) -> None:
    code, output = run(engine, image)
    assert code == 2
    assert "0.0.0.0 is not loopback" in output


def test_without_a_gpu_cuda_fails(engine: Engine, image: str) -> None:
    code, output = run(engine, image, environment={**CPU, "ARCHSCORE_DEVICE": "cuda"}, tmpfs={"/tmp": ""})
    assert code == 2
    assert "cuda" in output.lower()


def test_sigterm_while_it_loads(engine: Engine, image: str) -> None:
    """The kernel drops signals that process 1 does not handle, as Python at first does not."""
    container = engine.client.containers.run(
        image, ["-c", LOADS_FOR_LONG], entrypoint="python", environment=CPU, read_only=True, detach=True
    )
    try:
        eventually(lambda: b"loading" in container.logs())
        container.kill("SIGTERM")
        assert container.wait(timeout=30)["StatusCode"] == 0
        assert container.logs() == b"loading\n"
    finally:
        container.remove(force=True)


def test_sigterm_while_it_starts(engine: Engine, image: str) -> None:
    container = engine.client.containers.run(
        image,
        ["-c", STARTS_FOR_LONG],
        entrypoint="python",
        environment=CPU,
        read_only=True,
        tmpfs={"/tmp": ""},
        detach=True,
    )
    try:
        eventually(lambda: len(container.top()["Processes"]) > 1)
        container.kill("SIGTERM")
        assert container.wait(timeout=30)["StatusCode"] == 0
        assert b"stopped" in container.logs()
        assert b"listening" not in container.logs()
    finally:
        container.remove(force=True)


def test_health_says_when_nobody_is_there(engine: Engine, image: str) -> None:
    code, output = run(engine, image, "health")
    assert code == 1
    assert "127.0.0.1:50051" in output
