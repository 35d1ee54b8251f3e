"""`archscore study`, from the command line."""

import dataclasses
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import puppet_server
from archscore import Client, cli
from archscore.errors import ArchscoreError
from archscore.spaces.nasbench201 import from_index, parse
from archscore.study._cells import random_cells
from archscore.study._file import ScoreFile
from archscore.study._rows import Failure, ProxyInfo, Row
from archscore.study._server import ServerSource
from puppet_server import Puppet, score_of
from support.process import server_process

CONFIG = {"batchSize": 4, "nasbench201": {"channels": 4, "cellsPerStage": 1}}

DISCONNECTED = parse("|none~0|+|none~0|none~1|+|none~0|none~1|none~2|")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def study(capsys: pytest.CaptureFixture[str], scores: Path, accuracies: Path) -> Run:
    """Runs the command on the invented table of accuracies."""

    def run(*arguments: object) -> tuple[int, str, str]:
        command = ["study", "nasbench201", "--accuracies", str(accuracies), "--resamples", "3"]
        code = cli.main([*command, *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def test_a_server_is_asked_and_its_scores_are_reported(study: Run, target: str, tmp_path: Path) -> None:
    path = tmp_path / "new.parquet"
    code, out, err = study("--server", target, "--scores", path, "--cells", 20)
    assert (code, "20 of 20" in err) == (0, True)
    file = ScoreFile.read(path)
    assert set(file.rows) == {cell.index for cell in random_cells(20, seed=0)}
    for index, row in file.rows.items():
        assert row.scores == {name: score_of(from_index(index).format(), name) for name in puppet_server.PROXIES}
    assert file.runs[0]["device"] == "cpu (puppet)"
    assert {"flops", "naswot", "parameters", "ssnr", "tcet"} <= set(out.split())


def test_a_cell_that_fails_is_told_in_the_exit_code(study: Run, target: str, puppet: Puppet, tmp_path: Path) -> None:
    [cell, *_] = random_cells(1, seed=0)
    puppet.item_script[cell.format()] = [puppet_server.MALFORMED]
    path = tmp_path / "new.parquet"
    code, _, err = study("--server", target, "--scores", path, "--cells", 9, "--proxies", "tcet")
    assert code == 1
    assert f"index:{cell.index} could not be scored" in err
    assert study("--server", target, "--scores", path, "--cells", 9, "--proxies", "tcet")[0] == 0


def test_a_server_that_is_another_one_by_now(target: str) -> None:
    with Client(target) as client:
        source = ServerSource(client, proxies=["tcet"], config=None, seed=0)
        source.setting = dataclasses.replace(source.setting, proxies={"tcet": ProxyInfo(2, True, ())})
        with pytest.raises(ArchscoreError, match="changed while it was asked"):
            next(source.score(random_cells(1, seed=0)))


def test_a_report_alone_asks_nobody(study: Run, scores: Path, tmp_path: Path) -> None:
    before = scores.read_bytes()
    page = tmp_path / "page.md"
    command = ("--report-only", "--server", "localhost:1", "--scores", scores, "--markdown", page)
    code, out, _ = study(*command, "--rank-sums", "train", "--json")
    assert code == 0
    assert json.loads(out)["rank_sums"]["single"]["proxies"] == ["ssnr"]
    assert scores.read_bytes() == before
    text = page.read_text()
    assert "archscore study nasbench201 --engine --cells 60 --seed 0" in text
    assert "--report-only --scores scores.parquet --resamples 3 --accuracies accuracy.csv --rank-sums train" in text
    assert str(tmp_path) not in text
    for plot in ("tau", "scatter", "cost"):
        assert f"(page/{plot}.png)" in text
        assert (tmp_path / "page" / f"{plot}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--report-only", "--scores", "nowhere.parquet"], "nowhere.parquet does not exist"),
        (["--engine", "--proxies", "nothing"], "unknown proxy 'nothing'"),
        (["--engine", "--proxies", ","], "--proxies names none"),
        (["--engine", "--config", "[]"], "is not a JSON object"),
        (["--engine", "--config", "{"], "is not JSON"),
        (["--engine", "--config", '{"batchSize": 1}'], "config.batch_size: must be from 2"),
        (["--engine", "--config", '{"dataset": "cifar10"}'], "cifar-10-batches-py"),
    ],
)
def test_mistakes(study: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], complaint: str):
    monkeypatch.chdir(tmp_path)
    code, out, err = study(*arguments)
    assert (code, out) == (2, "")
    assert complaint in err


@pytest.mark.parametrize("arguments", [["--cells", "0"], ["--cells", "15626"], ["--cells", "some"], ["--seed", "x"]])
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.main(["study", "nasbench201", *arguments])
    assert exit_.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_a_server_that_is_not_there(study: Run, tmp_path: Path) -> None:
    code, _, err = study("--server", "localhost:1", "--scores", tmp_path / "new.parquet")
    assert (code, "localhost:1" in err) == (3, True)


def test_without_the_extra(study: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *own: None if name == "pyarrow" else find(name, *own))
    code, _, err = study("--report-only")
    assert code == 2
    assert "missing: pyarrow" in err
    assert "pip install 'archscore[study]'" in err


@pytest.mark.slow
def test_server_and_engine_give_the_same_rows(tmp_path: Path) -> None:
    from archscore.study._engine import EngineSource

    proxies, cells = ["flops", "naswot", "snip"], [*random_cells(4, seed=0), DISCONNECTED]
    engine = EngineSource(proxies=proxies, config=CONFIG, seed=0)
    with (
        server_process("--device", "cpu", "--workers", "1", "--threads", "1") as server,
        Client(server.address) as client,
    ):
        asked = ServerSource(client, proxies=proxies, config=CONFIG, seed=0)
        by_server = {row.index: row for row in asked.score(cells)}
    assert asked.setting == engine.setting
    rows = list(engine.score(cells))
    assert any("degenerate" in row.scores.values() for row in rows if isinstance(row, Row))
    for row in rows:
        assert not isinstance(row, Failure)
        for name, score in by_server[row.index].scores.items():
            assert score == (score if isinstance(score, str) else pytest.approx(row.scores[name], rel=1e-2))
            assert isinstance(score, str) == isinstance(row.scores[name], str)
