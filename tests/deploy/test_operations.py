"""docs/operations.md: its commands run as they are written, on the stack for CPUs, by both programs that it names.

What cannot run here is listed.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from archscore import Client
from support.containers import ROOT, Project, eventually

TEXT = (ROOT / "docs" / "operations.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)

#: Blocks by a word of each, that other tests run, or none can.
ELSEWHERE = {
    "docker-compose up --detach --build\n": "wants a GPU; test_compose has docker-compose read the file",
    "docker-compose.cpu.yml up": "what the fixture starts, without Grafana, which has no stand-in",
    "docker-compose.secure.yml up": "test_compose",
    "kubectl": "wants a cluster; test_kubernetes has the manifests checked",
    "git pull": "wants a remote repository",
}


def block(word: str) -> str:
    """The one block of commands that has a word."""
    [found] = [each for each in BLOCKS if word in each]
    return found


@pytest.fixture(params=["cpu_stack", "cpu_stack_v2"], scope="module")
def stack(request: pytest.FixtureRequest) -> Project:
    """By docker-compose 1.29 and by Compose v2."""
    project: Project = request.getfixturevalue(request.param)
    return project


@pytest.fixture
def shell(stack: Project, tmp_path: Path) -> Iterator[Shell]:
    """Where somebody types who has COMPOSE_FILE in .env."""
    yield Shell(stack, tmp_path)
    stack.compose("start", "server")
    stack.healthy("server")


class Shell:
    """Runs commands in an empty directory."""

    def __init__(self, project: Project, directory: Path) -> None:
        self._environment = project.environment
        self._directory = directory

    def run(self, commands: str) -> str:
        """What they print; all of them must succeed."""
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            check=False,
            cwd=self._directory,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=180,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout


def test_every_block_is_run_here_or_said_to_be_elsewhere() -> None:
    here = {block(word) for word in ("VACUUM", "copyfile", "logs --tail")}
    elsewhere = {block(word) for word in ELSEWHERE}
    assert here | elsewhere == set(BLOCKS)
    assert not here & elsewhere


def test_the_commands_of_the_runbooks_say_how_it_is(shell: Shell, stack: Project) -> None:
    stack.healthy("server")
    commands = [line.partition("#")[0].strip() for line in block("logs --tail").splitlines()]
    said = {command.partition("docker-compose ")[2]: shell.run(command) for command in commands}
    assert re.search(r"server\S* .*Up.*healthy", said["ps"])
    assert "archscore-server listening on" in said["logs --tail 50 server"]
    assert "SERVING" in said["exec -T server archscore-server health"]
    assert "scores" in said["exec -T server archscore-server store stats"]


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`(docker-compose exec [^`]+)`", TEXT.replace("\n", " ")))))
def test_a_command_within_the_text_runs(shell: Shell, stack: Project, command: str) -> None:
    stack.healthy("server")
    assert shell.run(command)


def test_a_backup_is_what_the_store_had(shell: Shell, stack: Project) -> None:
    """The commands for a backup and for putting it back: what came in between is gone, what was before is there."""
    before, after = "index:4001", "index:4002"
    stack.healthy("server")
    there = _in_file(shell)
    assert not _is_stored(stack, before)
    eventually(lambda: _in_file(shell) > there)
    shell.run(block("VACUUM"))
    assert not _is_stored(stack, after)
    shell.run(block("copyfile"))
    stack.healthy("server")
    assert _is_stored(stack, before)
    assert not _is_stored(stack, after)


def _is_stored(project: Project, encoding: str) -> bool:
    """Scores an architecture; whether that was in the store."""
    with Client(project.server) as client:
        return client.score(encoding, ["naswot"], space="nasbench201").scores["naswot"].stored


def _in_file(shell: Shell) -> int:
    """Scores in the file of the store."""
    said = shell.run("docker-compose exec -T server archscore-server store stats")
    [number] = re.findall(r"^scores +([\d,]+)$", said, re.MULTILINE)
    return int(number.replace(",", ""))
