"""Scores of a study, kept in a file as they come."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from archscore import UsageError, cli
from archscore.spaces.nasbench201 import NUM_CELLS, Cell
from archscore.study._cells import random_cells
from archscore.study._file import ScoreFile
from archscore.study._rows import Failure, ProxyInfo, Row, Setting
from archscore.study._scoring import Lines, complete
from support.process import descendants

CONFIG = {"batchSize": 4, "nasbench201": {"channels": 4, "cellsPerStage": 1}}
PROXIES = {"snip": ProxyInfo(1, True, ("train",)), "zen": ProxyInfo(1, True, ("zen",))}
SETTING = Setting(0, CONFIG, PROXIES)


class FakeSource:
    """Scores cells by their index; cells in `broken` cannot be scored."""

    def __init__(self, setting: Setting = SETTING, broken: Sequence[int] = (), dies_after: int | None = None) -> None:
        self.setting = setting
        self.run: Mapping[str, Any] = {"archscore": "test"}
        self.asked: list[Cell] = []
        self._broken = broken
        self._dies_after = dies_after

    def score(self, cells: Sequence[Cell]) -> Generator[Row | Failure, None, None]:
        self.asked = list(cells)
        for place, cell in enumerate(cells):
            if place == self._dies_after:
                raise KeyboardInterrupt
            yield Failure(cell.index, "no") if cell.index in self._broken else row(cell.index)


def row(index: int) -> Row:
    return Row(index, {"snip": index / 7, "zen": "non_finite"}, {"train": 0.25, "zen": 0.5})


def run(path: Path, count: int, source: FakeSource) -> tuple[int, str]:
    stream = io.StringIO()
    return complete(source, path, count, stream), stream.getvalue()


def test_more_cells_extend_fewer() -> None:
    cells = random_cells(NUM_CELLS, seed=0)
    assert len({cell.index for cell in cells}) == NUM_CELLS
    assert random_cells(7, seed=0) == cells[:7]
    assert random_cells(7, seed=1) != cells[:7]


def test_the_file_has_what_was_scored(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "scores.parquet"
    assert run(path, 5, FakeSource())[0] == 0
    file = ScoreFile.read(path)
    assert list(file.rows.values()) == [row(cell.index) for cell in random_cells(5, seed=0)]
    assert file.setting == SETTING
    assert file.runs == [{"archscore": "test", "before": 0}]


def test_only_what_is_missing_is_scored(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    with pytest.raises(KeyboardInterrupt):
        run(path, 9, FakeSource(dies_after=4))
    again = FakeSource()
    _, told = run(path, 9, again)
    assert again.asked == random_cells(9, seed=0)[4:]
    assert "4 of 9 cells are scored already" in told
    assert "5 of 5" in told
    assert len(ScoreFile.read(path).rows) == 9
    assert [own["before"] for own in ScoreFile.read(path).runs] == [0, 4]
    before = path.read_bytes()
    done = FakeSource()
    run(path, 9, done)
    assert done.asked == []
    assert path.read_bytes() == before


def test_what_could_not_be_scored_is_told_and_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    broken = random_cells(3, seed=0)[1]
    failures, told = run(path, 3, FakeSource(broken=[broken.index]))
    assert failures == 1
    assert f"index:{broken.index} could not be scored: no" in told
    again = FakeSource()
    assert run(path, 3, again)[0] == 0
    assert again.asked == [broken]


@pytest.mark.parametrize(
    ("setting", "difference"),
    [
        (Setting(1, CONFIG, PROXIES), "here seed is 1, not 0"),
        (Setting(0, {**CONFIG, "batchSize": 8}, PROXIES), "here config.batchSize is 8, not 4"),
        (Setting(0, CONFIG, {"snip": PROXIES["snip"]}), "here proxies.zen is missing, not there"),
        (Setting(0, CONFIG, {**PROXIES, "zen": ProxyInfo(2, True, ("zen",))}), "here proxies.zen.version is 2, not 1"),
    ],
)
def test_scores_of_another_study_are_refused(tmp_path: Path, setting: Setting, difference: str) -> None:
    path = tmp_path / "scores.parquet"
    run(path, 2, FakeSource())
    before = path.read_bytes()
    with pytest.raises(UsageError, match=difference):
        run(path, 2, FakeSource(setting))
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"PAR1", b"index\n1\n"])
def test_another_file_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "scores.parquet"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="is no file of scores"):
        run(path, 2, FakeSource())
    assert path.read_bytes() == content


def test_two_do_not_write_at_once(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    with (
        ScoreFile.open_for(path, SETTING, {}),
        pytest.raises(UsageError, match="another process writes"),
        ScoreFile.open_for(path, SETTING, {}),
    ):
        pass


def test_writing_takes_a_twentieth_of_the_time_at_most(tmp_path: Path) -> None:
    class Clock:
        now = 0.0

        def __call__(self) -> float:
            self.now += 1.0  # so that a write takes a second
            return self.now

    clock = Clock()
    path = tmp_path / "scores.parquet"
    file = ScoreFile(path, SETTING, clock=clock)
    file.add(row(0))
    assert len(ScoreFile.read(path).rows) == 1
    clock.now += 15
    file.add(row(1))
    assert len(ScoreFile.read(path).rows) == 1
    clock.now += 5
    file.add(row(2))
    assert len(ScoreFile.read(path).rows) == 3


def test_a_log_has_count_rate_and_time_left() -> None:
    times = iter([0.0, 10.0, 61.0, 62.0, 80.0])
    stream = io.StringIO()
    lines = Lines(stream, 4, lambda: next(times))
    for _ in range(4):
        lines.advance()
    assert stream.getvalue() == "archscore: 2 of 4, 30.5 s each, 1:01 left\narchscore: 4 of 4, 20.0 s each, 0:00 left\n"


def runs(pid: int) -> bool:
    """Whether there is such a process, other than a zombie."""
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, table = tmp_path / "scores.parquet", tmp_path / "accuracy.csv"
    cells = random_cells(16, seed=0)
    table.write_text("\n".join(["architecture,mine", *(f"index:{cell.index},{cell.index}" for cell in cells)]))
    arguments = ["study", "nasbench201", "--engine", "--cells=16", f"--config={json.dumps(CONFIG)}"]
    arguments += ["--proxies=snip,zen", f"--scores={path}", f"--accuracies={table}", "--resamples=2"]
    command = [sys.executable, "-m", "archscore.cli", *arguments, "--workers=2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        while not path.exists() or len(ScoreFile.read(path).rows) < 2:
            assert process.poll() is None
            time.sleep(0.3)
        workers = descendants(process.pid)
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while any(map(runs, workers)):  # nobody would read their results
        assert time.monotonic() < deadline
        time.sleep(0.05)
    kept = ScoreFile.read(path).rows
    assert cli.main(arguments) == 0
    assert f"{len(kept)} of 16 cells are scored already" in capsys.readouterr().err
    found = ScoreFile.read(path).rows
    assert {index: found[index] for index in kept} == kept
    assert set(found) == {cell.index for cell in cells}
    assert {name for own in found.values() for name in own.seconds} == {"train", "zen"}
