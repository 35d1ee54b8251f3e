"""memory_sweep.py: random draws are predicted, and what is off is found out."""

import json
from pathlib import Path

import pytest

import memory_sweep
from memory_sweep import holds


@pytest.mark.parametrize(
    ("predicted", "spent", "expected"),
    [
        (10**9, 10**9, True),
        (10**9 - 1, 10**9, False),
        (12 * 10**8, 10**9, True),
        (12 * 10**8 + 1, 10**9, False),
    ],
)
def test_never_below_and_not_far_above(predicted: int, spent: int, expected: bool) -> None:
    assert holds(predicted, spent) is expected


@pytest.mark.parametrize("wrong", [False, True])
def test_draws_are_measured_and_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: bool
) -> None:
    if wrong:
        monkeypatch.setattr(memory_sweep, "predicted_bytes", lambda *_: 1)
    path = tmp_path / "memory.json"
    assert memory_sweep.main(["--draws", "3", "--seed", "1", "--check", "--json", str(path)]) == int(wrong)
    report = json.loads(path.read_text())
    assert len(report["draws"]) == 3
    assert all(one["spent"] > 0 for one in report["draws"])
    assert ("too low" in capsys.readouterr().out) is wrong
