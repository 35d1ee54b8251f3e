"""docs/tutorial.md: every command in it runs, with fewer evaluations, and what it says of them is so."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "tutorial.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
INSTALL, SERVER, *COMMANDS = [block for kind, block in BLOCKS if kind == "sh"]
OUTPUTS = [block.splitlines() for kind, block in BLOCKS if kind == "text"]
SCALE = 100
"""One evaluation here for so many of the tutorial's."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tutorial")


@pytest.fixture(scope="module")
def environment(directory: Path) -> Iterator[dict[str, str]]:
    """What commands run with while the tutorial's server does."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(sys.path)}
    # Only one server of the machine has the port of the tutorial.
    ours = {"PORT": "0", "METRICS_PORT": "0", "DEVICE": "cpu", "WORKERS": "1", "THREADS": "1", "LAME_DUCK": "0"}
    settings = {**variables, **{f"ARCHSCORE_{name}": value for name, value in ours.items()}}
    with subprocess.Popen(
        ["bash", "-c", f"exec {SERVER}"], cwd=directory, env=settings, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            ready = re.match(r"archscore-server listening on (\S+)", server.stdout.readline())
            yield {**variables, "ARCHSCORE_SERVER": ready[1]}
        finally:
            server.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(60)
            server.kill()


def scaled(block: str) -> str:
    """A block with fewer evaluations."""
    return re.sub(r"(evaluations[ =])(\d+)", lambda match: f"{match[1]}{int(match[2]) // SCALE}", block)


def run(command: list[str], directory: Path, environment: dict[str, str]) -> str:
    ran = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def said(directory: Path, environment: dict[str, str]) -> list[str]:
    """What the commands printed, one after the other; the last is the program's."""
    outputs = [run(["bash", "-euc", scaled(block)], directory, environment) for block in COMMANDS]
    [program] = [block for kind, block in BLOCKS if kind == "python"]
    return [*outputs, run([sys.executable, "-W", "error", "-c", scaled(program)], directory, environment)]


def test_scores_are_those_shown(said: list[str]) -> None:
    shown, printed = OUTPUTS[0], said[0].splitlines()
    assert shown[0].split() == printed[0].split()
    for line, ours in zip(shown[1:], printed[1:], strict=True):
        for word, our_word in zip(line.split(), ours.split(), strict=True):
            assert word == our_word or float(our_word) == pytest.approx(float(word), rel=1e-3)


def test_searches_print_a_table(said: list[str]) -> None:
    columns = [column for column in said[1].splitlines()[0].split() if column != "flops"]
    assert columns == OUTPUTS[1][0].split()
    assert len(said[1].splitlines()) == 1 + 200 // SCALE
    assert len(said[2].splitlines()) == 1 + 400 // SCALE


def test_the_best_genome_is_described(said: list[str], directory: Path) -> None:
    best, *description = said[4].splitlines()
    assert best in said[3].splitlines()[1]
    assert best in "\n".join(description)
    assert "parameters" in said[4]


def test_the_program_prints_three_cells(said: list[str]) -> None:
    lines = said[5].splitlines()
    assert len(lines) == 100 // SCALE
    assert all(re.fullmatch(r"\{'tcet': .*, 'naswot': .*\} \|.*\|", line) for line in lines)


@pytest.mark.usefixtures("said")
def test_files_are_where_they_are_said_to_be(directory: Path) -> None:
    prose = re.sub(r"^```.*?^```$", "", TEXT, flags=re.MULTILINE | re.DOTALL)
    directories = re.findall(r"`(archscore-search/[\w-]+)`", prose)
    files = set(re.findall(r"`(\w+\.(?:csv|parquet|json|jsonl|png))`", prose))
    assert len(directories) == 2
    assert len(files) >= 6
    for name in directories:
        assert files <= {path.name for path in (directory / name).iterdir()}
    assert "`scores.sqlite`" in prose
    assert (directory / "scores.sqlite").exists()


def name_of(requirement: str) -> str:
    """The normalised name of a distribution."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


def test_what_is_installed_is_there_to_be_installed() -> None:
    commands = [shlex.split(line) for line in INSTALL.splitlines()]
    assert commands[0] == ["python3", "-m", "venv", ".venv"]
    assert commands[1] == [".", ".venv/bin/activate"]
    pip, install, option, constraints, wanted = commands[2]
    assert (pip, install, option) == ("pip", "install", "-c")
    pinned = {name_of(line) for line in (ROOT / constraints).read_text().splitlines() if not line.startswith("#")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = re.fullmatch(r"\.\[(.*)\]", wanted)[1].split(",")
    requirements = [*project["dependencies"], *chain(*(project["optional-dependencies"][extra] for extra in extras))]
    assert {name_of(requirement) for requirement in requirements} <= pinned
    assert project["requires-python"] == ">=3.11"
    assert "Python 3.11 or newer" in TEXT


def test_pages_and_images_are_there() -> None:
    links = re.findall(r"\]\(([^)]+)\)", TEXT)
    assert len(links) >= 8
    for link in links:
        assert (ROOT / "docs" / link.partition("#")[0]).exists(), link


def test_how_long_it_takes_was_measured() -> None:
    measured = json.loads((ROOT / "docs" / "benchmarks" / "tutorial-cpu.json").read_text())
    assert list(measured["seconds"]) == list(dict.fromkeys(re.findall(r"^## (.+)$", TEXT, re.MULTILINE)))[:-1]
    assert "less than ten minutes" in TEXT
    assert measured["total"] < 600
    assert "six and a half" in TEXT
    assert round(2 * measured["total"] / 60) == 13
