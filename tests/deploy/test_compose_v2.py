"""The compose files under the Compose Specification, and that Compose v2 makes of them what docker-compose 1.29 does.

test_operations runs them with both.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.containers import ROOT, Engine, Project

BASE = "deploy/base.yml"
VARIANTS = ["docker-compose.yml", "docker-compose.cpu.yml", "docker-compose.secure.yml"]


def check_schema(*files: str | Path) -> subprocess.CompletedProcess[str]:
    """Has files checked by the schema of the specification."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    return subprocess.run([*command, *files], check=False, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_as_written_they_are_in_the_specification() -> None:
    checked = check_schema(BASE, *VARIANTS)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_what_is_not_in_the_specification_is_found(tmp_path: Path) -> None:
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text((ROOT / VARIANTS[0]).read_text().replace("capabilities: [gpu]", "capability: [gpu]"))
    checked = check_schema(wrong)
    assert checked.returncode == 1, checked.stderr
    assert "capability" in checked.stdout


def test_what_is_extended_depends_on_nothing() -> None:
    """1.29 refuses it, and so do versions of v2, where others drop it or take it over."""
    for name, service in _services(BASE).items():
        assert not {"depends_on", "links", "volumes_from", "network_mode", "ipc", "pid"} & service.keys(), name


@pytest.mark.parametrize("file", [BASE, *VARIANTS])
def test_it_has_nothing_that_the_programs_take_differently(file: str) -> None:
    assert yaml.safe_load((ROOT / file).read_text()).keys() <= {"services", "volumes", "secrets"}  # v2 warns of version
    for name, service in _services(file).items():
        # Names differ, v2 expands $ in files, and refuses limits that differ from mem_limit.
        assert not {"container_name", "env_file"} & service.keys(), name
        resources = service.get("deploy", {}).get("resources", {})
        assert resources.keys() <= {"reservations"}, name
        for device in resources.get("reservations", {}).get("devices", []):
            assert device["capabilities"], name
            assert ("count" in device) != ("device_ids" in device), name


@pytest.mark.parametrize("file", [BASE, *VARIANTS])
def test_its_variables_are_of_two_forms_that_both_know(file: str) -> None:
    text = (ROOT / file).read_text()
    assert text.count("$") == len(re.findall(r"\$\{[A-Z_]+(?::-[^${}]*|:\?[^${}]+)\}", text))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Places of secrets and data, which are there."""
    places = tmp_path_factory.mktemp("compose")
    for name in ("server.pem", "server.key", "tokens"):
        (places / name).touch()
    return {"ARCHSCORE_SECRETS": str(places), "ARCHSCORE_DATA": str(places)}


@pytest.fixture
def both(
    file: str, engine: Engine, compose_v2: Path, run_id: str, settings: dict[str, str]
) -> Iterator[tuple[Project, Project]]:
    """One project in docker-compose 1.29 and in Compose v2, on the same ports."""
    environment = {**settings, "ARCHSCORE_IMAGE": run_id}
    one = Project(engine, f"{run_id}-both", ROOT / file, environment)
    if not one.compose("version", "--short").startswith("1.29."):
        pytest.skip("needs docker-compose 1.29: the one on the PATH is another")
    two = Project(engine, one.name, ROOT / file, one.environment, compose_v2)
    assert two.compose("version", "--short").lstrip("v").startswith("2.")
    yield one, two
    two.down()


@pytest.mark.parametrize("file", VARIANTS)
def test_both_read_the_same(both: tuple[Project, Project], engine: Engine, compose_v2: Path, tmp_path: Path) -> None:
    """v2 reads the file as it reads what 1.29 has resolved, and what each has resolved is in the specification."""
    one, two = both
    first, second = tmp_path / "1.yml", tmp_path / "2.yml"
    first.write_text(one.compose("config"))
    second.write_text(two.compose("config"))
    checked = check_schema(first, second)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    of_first = Project(engine, one.name, first, one.environment, compose_v2)
    assert _in_any_order(_read(two)) == _in_any_order(_read(of_first))


@pytest.mark.parametrize("file", VARIANTS)
def test_v2_warns_of_nothing(both: tuple[Project, Project]) -> None:
    ran = _run(both[1], "config", "--quiet")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


@pytest.mark.parametrize("file", VARIANTS[:1])
def test_both_ask_for_the_password_and_read_it_in_quotes(both: tuple[Project, Project], tmp_path: Path) -> None:
    for project in both:
        environment = {key: value for key, value in project.environment.items() if key != "GRAFANA_ADMIN_PASSWORD"}
        settings = tmp_path / ".env"
        example = (ROOT / ".env.example").read_text()
        settings.write_text(example)
        refused = _run(project, "--env-file", str(settings), "config", environment=environment)
        assert refused.returncode != 0
        assert "set GRAFANA_ADMIN_PASSWORD in .env" in refused.stderr
        settings.write_text(example.replace("GRAFANA_ADMIN_PASSWORD=", "GRAFANA_ADMIN_PASSWORD='a$B #1'"))
        ran = _run(project, "--env-file", str(settings), "config", environment=environment)
        password = yaml.safe_load(ran.stdout)["services"]["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD"]
        assert password.replace("$$", "$") == "a$B #1"


@pytest.mark.parametrize("file", VARIANTS)
def test_both_make_the_same_containers(both: tuple[Project, Project], image: str) -> None:
    """What the engine is asked for, GPUs included, which need not be there until a container starts."""
    made = []
    for project in both:
        project.compose("up", "--no-start", "--no-build", "server", "prometheus")
        made.append({name: _asked_for(project, name) for name in ("server", "prometheus")})
        project.down()
    assert made[0] == made[1]


def _services(file: str) -> dict[str, dict[str, Any]]:
    services: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / file).read_text())["services"]
    return services


def _run(
    project: Project, *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker-compose", *arguments],
        check=False,
        cwd=ROOT,
        env=environment or project.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def _read(project: Project) -> Any:
    return json.loads(project.compose("config", "--format", "json"))


def _asked_for(project: Project, service: str) -> Any:
    """What a container may, has and runs, without its names."""
    attributes = project.container(service).attrs
    image = ("Cmd", "Entrypoint", "Env", "ExposedPorts", "Healthcheck", "Image", "StopTimeout", "User", "WorkingDir")
    asked = {"HostConfig": attributes["HostConfig"], **{key: attributes["Config"].get(key) for key in image}}
    for strings in (asked["Env"], asked["HostConfig"]["Binds"]):
        if strings:
            strings.sort()
    return _in_any_order(asked)


def _in_any_order(value: Any) -> Any:
    """Without what is empty, and with lists of objects, such as volumes, sorted."""
    if isinstance(value, dict):
        fields = {key: _in_any_order(value[key]) for key in sorted(value)}
        return {key: each for key, each in fields.items() if each not in (None, [], {})}
    if isinstance(value, list):
        items = [_in_any_order(each) for each in value]
        return sorted(items, key=json.dumps) if all(isinstance(each, dict) for each in items) else items
    return value
