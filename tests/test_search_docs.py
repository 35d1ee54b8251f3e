"""docs/search.md: its program runs, its commands are accepted, and its defaults are those of the code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import archscore
from archscore import cli
from archscore.search import _command, _domain, _pipeline
from archscore.search._settings import DEFAULT_BATCH, STRATEGIES
from archscore.spaces import zennas
from archscore_server.scorer import EngineScorer

TEXT = (Path(__file__).parents[1] / "docs" / "search.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)[1:]
    for kind, block in BLOCKS
    if kind == "sh"
    for line in block.splitlines()
    if line.startswith("archscore ")
]


class InProcess(EngineScorer):
    """In the place of a client of a server."""

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        pass


def test_the_program_runs(monkeypatch, capsys):
    (program,) = (block for kind, block in BLOCKS if kind == "python")
    monkeypatch.setattr(archscore, "Client", InProcess)
    exec(program, {})
    encoding, score = capsys.readouterr().out.rsplit(maxsplit=1)
    assert zennas.parse(encoding)
    assert float(score) > 0


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_its_commands_are_accepted(command):
    arguments = cli._parser().parse_args(command)
    assert _command._strategy(arguments)
    assert _command._constraints(arguments)


def test_its_defaults_are_those_of_the_code():
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| (.*?) ?\|$", TEXT, re.MULTILINE))
    assert set(rows) == set(STRATEGIES)
    for name, options in rows.items():
        defaults = STRATEGIES[name]().to_json()
        for option, value in re.findall(r"--(\w+) ([\w.]+)", options):
            expected = defaults["screens"][0][0] if option == "screen" else defaults[option]
            assert str(expected) == value
    assert f"`--batch` ({DEFAULT_BATCH})" in TEXT
    budget = zennas.CIFAR_BUDGET
    assert f"{budget.max_parameters:,} parameters and {budget.max_sub_layers} sub-layers" in TEXT
    assert f"After {_domain.MAX_TRIES:,} tries of the\nstrategy and {_pipeline._MAX_SAMPLES} random" in TEXT
