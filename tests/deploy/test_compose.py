"""The compose files: what docker-compose makes of them, and the secure one in use."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import yaml

import archscore
from archscore import Client
from archscore_server import cli
from support.certificates import Authority
from support.containers import ROOT, Engine, Project, ask, eventually

VARIANTS = ["docker-compose.yml", "docker-compose.cpu.yml", "docker-compose.secure.yml"]


@pytest.fixture(params=VARIANTS, scope="module")
def resolved(request: pytest.FixtureRequest, engine: Engine) -> dict[str, dict[str, object]]:
    """What docker-compose reads in a file."""
    project = Project(engine, "archscore-config", ROOT / request.param, {})
    return {"file": request.param, **yaml.safe_load(project.compose("config"))}


def test_it_is_valid_and_hardened(resolved: dict) -> None:
    assert resolved["services"].keys() == {"server", "prometheus", "grafana"}
    for name, service in resolved["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"] == "unless-stopped", name
        assert service["mem_limit"], name
        assert service["image"].partition(":")[2] != "latest", name
    server = resolved["services"]["server"]
    assert [volume for volume in server["volumes"] if volume.endswith(":/data:ro")]
    assert "store:/var/lib/archscore:rw" in server["volumes"]


def test_its_start_waits_for_health(resolved: dict) -> None:
    services = resolved["services"]
    assert services["prometheus"]["depends_on"] == {"server": {"condition": "service_healthy"}}
    assert services["grafana"]["depends_on"] == {"prometheus": {"condition": "service_healthy"}}


def test_it_is_stopped_with_patience(resolved: dict) -> None:
    """Longer than --lame-duck and --grace together."""
    [seconds] = re.findall(r"^(\d+)s$", resolved["services"]["server"]["stop_grace_period"])
    assert int(seconds) > cli._DEFAULTS.lame_duck + cli._DEFAULTS.grace


def test_what_is_published_beyond_loopback_is_secured(resolved: dict) -> None:
    secured = resolved["file"] == "docker-compose.secure.yml"
    for name, service in resolved["services"].items():
        [port] = service["ports"]
        assert str(port).startswith("127.0.0.1:") != (secured and name == "server"), name
    environment = resolved["services"]["server"]["environment"]
    assert ("ARCHSCORE_INSECURE" in environment) != secured
    assert ({"ARCHSCORE_TLS_CERTIFICATE", "ARCHSCORE_TLS_KEY", "ARCHSCORE_TOKENS"} <= environment.keys()) == secured


def test_gpus_are_reserved_where_cuda_is_asked_for(resolved: dict) -> None:
    server = resolved["services"]["server"]
    assert server["environment"]["ARCHSCORE_DEVICE"] == ("cpu" if "cpu" in resolved["file"] else "cuda")
    if "cpu" in resolved["file"]:
        assert "deploy" not in server
    else:
        [device] = server["deploy"]["resources"]["reservations"]["devices"]
        assert device == {"driver": "nvidia", "count": -1, "capabilities": ["gpu"]} or device["count"] == "all"


def test_every_variable_is_in_the_example() -> None:
    files = [ROOT / "deploy" / "base.yml", *(ROOT / name for name in VARIANTS)]
    used = {name for file in files for name in re.findall(r"\$\{(\w+)", file.read_text())}
    documented = re.findall(r"^#?([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert {name for name, _ in documented} == used | {"COMPOSE_FILE"}  # which is docker-compose's own
    defaults = {name: value for file in files for name, value in re.findall(r"\$\{(\w+):-([^}]*)\}", file.read_text())}
    assert {name: value for name, value in documented if name in defaults} == defaults


@pytest.fixture
def secure_stack(engine: Engine, image: str, run_id: str, tmp_path: Path) -> Iterator[Project]:
    """docker-compose.secure.yml on the CPU, and on loopback: the only changes to the file. Nothing is up yet."""
    secrets, data = tmp_path / "secrets", tmp_path / "data"
    data.mkdir()
    environment = {"ARCHSCORE_IMAGE": image, "ARCHSCORE_SECRETS": str(secrets), "ARCHSCORE_DATA": str(data)}
    original = Project(engine, f"{run_id}-secure", ROOT / "docker-compose.secure.yml", environment)
    content = yaml.safe_load(original.compose("config"))
    server = content["services"]["server"]
    del server["deploy"]
    server["environment"]["ARCHSCORE_DEVICE"] = "cpu"
    server["ports"] = [f"{original.server}:50051"]  # tests open no ports to the network
    on_cpu = tmp_path / "docker-compose.yml"
    on_cpu.write_text(yaml.safe_dump(content))
    project = Project(engine, f"{run_id}-secure", on_cpu, environment)
    project.server, project.prometheus = original.server, original.prometheus
    try:
        yield project
    finally:
        project.down()


def _run(commands: str, directory: Path, project: Project) -> list[str]:
    """What commands of docs/operations.md print, by line, with the project's image and in place of sudo nothing."""
    commands = commands.replace(" archscore-server token", f" {project.environment['ARCHSCORE_IMAGE']} token")
    ran = subprocess.run(
        ["bash", "-euc", commands.replace("sudo ", "")],
        cwd=directory,
        env=project.environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to the user of the image, which takes root")
def test_the_secure_variant_serves_whom_it_knows_and_is_scraped(secure_stack: Project, tmp_path: Path) -> None:
    """Set up with the commands of docs/operations.md between those that build and start the file for GPUs."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE | re.DOTALL)
    [block] = [block for block in blocks if "docker-compose.secure.yml" in block]
    example, build, make, own, add, up = block.splitlines(keepends=True)
    assert example.startswith("cp ")
    assert build == "docker-compose --file docker-compose.secure.yml build server\n"
    assert up == "docker-compose --file docker-compose.secure.yml up --detach\n"
    authority = Authority(tmp_path)
    _run(make, tmp_path, secure_stack)
    authority.server_files(tmp_path / "secrets")
    (tmp_path / "secrets" / "server.pem").chmod(0o644)
    [token] = _run(own + add, tmp_path, secure_stack)

    secure_stack.up("prometheus")  # which waits for the server's health
    secure_stack.healthy("prometheus")

    credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes())
    with Client(secure_stack.server, credentials=credentials, token=token) as client:
        assert client.score("index:6111", ["naswot"], space="nasbench201")["naswot"]
    with (
        Client(secure_stack.server, credentials=credentials, token="archscore.search.wrong") as client,
        pytest.raises(archscore.AuthenticationError),
    ):
        client.score("index:6111", ["naswot"], space="nasbench201")
    of_search = 'archscore_client_architectures_total{client="token:search"} == 1'
    eventually(lambda: ask(secure_stack.prometheus, of_search))

    # Another token is in force once the server has been restarted, as the page says.
    [another] = _run(add.replace("add search", "add study"), tmp_path, secure_stack)
    secure_stack.compose("restart", "server")
    secure_stack.healthy("server")
    with Client(secure_stack.server, credentials=credentials, token=another) as client:
        assert client.score("index:6111", ["naswot"], space="nasbench201").scores["naswot"].stored
