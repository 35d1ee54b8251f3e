"""docs/adapters.md: its programs run, and its tables are what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import optuna
import pytest

from archscore.adapters._variables import Channels, Choice, Count, variables_of

PAGE = (Path(__file__).parents[3] / "docs" / "adapters.md").read_text()
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
ROWS = {
    tuple(re.findall(r"`([\w.]+)`", names)): values
    for names, values in re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", PAGE, re.MULTILINE)
}


@pytest.mark.parametrize("program", PROGRAMS, ids=["optuna", "pymoo", "archai"])
def test_a_program_runs(program: str, target: str, capsys: pytest.CaptureFixture[str]) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    assert "localhost:50051" in program
    exec(compile(program.replace("localhost:50051", target), "docs/adapters.md", "exec"), {})
    assert capsys.readouterr().out


def test_all_variables_are_there() -> None:
    cells = variables_of("nasbench201").by_name
    assert ", ".join(f"`{name}`" for name in cells) in " ".join(PAGE.split())
    genomes = variables_of("zennas").by_name
    assert f"**zennas**: {len(genomes)} variables" in PAGE
    numbered = {pattern for names in ROWS for pattern in names if "." in pattern}
    assert {re.sub(r"stage\d", "stageS", name) for name in genomes} == {
        name.replace("blockB", block) for name in numbered for block in ("block1", "block2")
    }


def test_values_are_those_of_the_code() -> None:
    genomes = variables_of("zennas").by_name
    for names, values in ROWS.items():
        bounds = re.findall(r"(\d+) to (\d+)", values)
        for place, pattern in enumerate(names):
            if "." not in pattern:
                continue
            variable = genomes[pattern.replace("stageS", "stage1").replace("blockB", "block1")]
            match variable:
                case Choice(options):
                    assert options == tuple(
                        f"SuperRes{kind}" for kind in ("K3K3", "K5K5", "K7K7", "K1K3K1", "K1K5K1", "K1K7K1")
                    )
                case Count(low, high) | Channels(low, high):
                    low_said, high_said = bounds[min(place, len(bounds) - 1)]
                    assert (int(low_said), int(high_said)) == (low, high)
