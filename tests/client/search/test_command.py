"""`archscore search`: what it prints and leaves, how it exits, and that nothing stops it for good."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import puppet_server
from archscore import cli
from archscore.search import CELL_OBJECTIVE, DEFAULT_OBJECTIVE, Settings, _results
from archscore.spaces import nasbench201
from puppet_server import MALFORMED, Puppet

SMALL = ("--proxy", "tcet", "--evaluations", "40", "--batch", "8")
GONE = 60.0


@pytest.fixture
def archscore_cli(target, capsys, monkeypatch, tmp_path):
    """Runs a command against the puppet, in a directory of its own; returns its exit code, stdout and stderr.

    Without plots, which take a second and have tests of their own.
    """
    monkeypatch.setattr(_results, "write_plots", lambda history, directory: None)
    monkeypatch.setenv("ARCHSCORE_SERVER", target)
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = cli.main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def start_search(tmp_path):
    """Starts a search in a process of its own, which does not outlive the test."""
    started = []

    def start(address, output, *arguments):
        # Whoever runs the tests in the background may have SIGINT ignored, which is inherited. Not in a preexec_fn:
        # gRPC's threads do not survive the fork that one takes, and may abort the child.
        heed = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
        # Without plots and Parquet, which take seconds.
        without = "sys.modules.update(matplotlib=None, pyarrow=None)"
        script = f"{heed}; {without}; from archscore.cli import main; sys.exit(main())"
        command = [sys.executable, "-c", script, "search", "--server", address, "--output", str(output), *arguments]
        process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def log_of(directory):
    return (directory / "log.jsonl").read_bytes()


def wait_for(condition, process):
    deadline = time.monotonic() + GONE
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def stall(puppet):
    """Lets so many more streams pass that there is a checkpoint, whichever then hang; says how many requests that is.

    Streams arrive in any order. While the first that hangs does, at most three after it are answered, and wait for it.
    """
    puppet.streams_answered = len(puppet.chunks()) + 10
    return puppet.streams_answered


# What it prints and leaves


def test_defaults(archscore_cli, tmp_path):
    code, out, err = archscore_cli("search", *SMALL)
    assert code == cli.EXIT_OK
    directory = tmp_path / "archscore-search" / "nasbench201-tcet-evolution-seed0"
    assert {"log.jsonl", "checkpoint.json", "results.csv", "summary.json"} <= {
        path.name for path in directory.iterdir()
    }
    header, *rows = out.splitlines()
    assert header.split() == ["tcet", "parameters", "flops", "evaluation", "architecture"]
    records = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
    best = sorted(records, key=lambda record: -record["scores"]["tcet"])[:10]
    assert [row.split()[-1] for row in rows] == [record["architecture"] for record in best]
    assert len(records) == 40
    assert "40/40" in err
    assert f"results are in {directory.relative_to(tmp_path)}" in err


@pytest.mark.parametrize(("space", "proxies"), [("nasbench201", CELL_OBJECTIVE), ("zennas", DEFAULT_OBJECTIVE)])
def test_default_objective(archscore_cli, space, proxies):
    code, out, _ = archscore_cli("search", "--space", space, "--evaluations", "8", "--json")
    assert code == cli.EXIT_OK
    summary = json.loads(out)
    assert summary["settings"] == Settings(space=space, evaluations=8).to_json(), "the command and the library agree"
    assert set(summary["best"][0]["scores"]) == set(proxies)


def test_zennas_has_the_budget_of_the_published_search(archscore_cli, tmp_path):
    code, out, _ = archscore_cli(
        "search", "--space", "zennas", "--proxy", "tcet", "--max-parameters", "5e5", "--evaluations", "20",
        "--json", "--output", "here",
    )  # fmt: skip
    assert code == cli.EXIT_OK
    found = json.loads(out)
    settings = found["settings"]
    assert (settings["strategy"], settings["constraints.max_parameters"]) == ("elimination", 500_000)
    assert settings["constraints.max_sub_layers"] == 18
    assert json.loads((tmp_path / "here" / "summary.json").read_text()) == found


def test_options_of_strategies(archscore_cli):
    code, out, _ = archscore_cli(
        "search", *SMALL, "--strategy", "screening", "--screen", "naswot,ssnr", "--screen", "ssnr", "--keep", "0.3",
        "--max-layers", "60", "--seed", "3", "--json",
    )  # fmt: skip
    assert code == cli.EXIT_OK
    settings = json.loads(out)["settings"]
    assert settings["strategy.screens"] == [["naswot", "ssnr"], ["ssnr"]]
    assert (settings["strategy.keep"], settings["constraints.max_layers"], settings["seed"]) == (0.3, 60, 3)


def test_a_rank_sum_is_shown_as_one(archscore_cli):
    _, out, err = archscore_cli("search", *SMALL, "--proxy", "tcet,naswot")
    assert out.split()[:4] == ["rank", "sum", "tcet", "naswot"]
    assert "best rank sum" in err


def test_what_failed_is_counted(archscore_cli, puppet):
    puppet.item_script = {cell.format(): [MALFORMED] for cell in list(nasbench201.cells())[::2]}
    code, _, err = archscore_cli("search", *SMALL, "--strategy", "random")
    assert code == cli.EXIT_OK
    assert "of 40 architectures have no score: " in err
    assert " failed" in err


def test_where_nothing_has_a_score(archscore_cli, puppet):
    puppet.item_script = {cell.format(): [MALFORMED] for cell in nasbench201.cells()}
    code, out, err = archscore_cli("search", *SMALL, "--strategy", "random")
    assert (code, out) == (cli.EXIT_FAILED, "")
    assert "nothing has a score" in err


def test_a_search_that_is_there_is_kept(archscore_cli):
    assert archscore_cli("search", *SMALL)[0] == cli.EXIT_OK
    code, out, err = archscore_cli("search", *SMALL)
    assert (code, out) == (cli.EXIT_REFUSED, "")
    assert "--resume" in err
    assert "--force" in err
    assert archscore_cli("search", *SMALL, "--force")[0] == cli.EXIT_OK
    assert archscore_cli("search", *SMALL, "--resume")[0] == cli.EXIT_OK
    code, _, err = archscore_cli("search", *SMALL, "--resume", "--evaluations", "10")
    assert code == cli.EXIT_REFUSED
    assert "may have more, not only 10" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--proxy", "tcat"), "unknown proxy 'tcat': known are"),
        (("--proxy", ","), "at least one proxy"),
        (("--population", "5", "--strategy", "random"), "--population goes with the strategy evolution or elimination"),
        (("--strategy", "screening", "--keep", "2"), "keep must be above 0"),
        (("--max-sub-layers", "3"), "max_sub_layers does not go with"),
        (("--evaluations", "20000"), "at most 15625"),
        (("--max-parameters", "10"), "no architecture of nasbench201 has at most 10 parameters"),
        (("--resume", "--force"), "exclude each other"),
        (("--config", "{"), "--config is not JSON"),
    ],
)
def test_usage(archscore_cli, tmp_path, arguments, message):
    code, out, err = archscore_cli("search", "--proxy", "tcet", *arguments)
    assert (code, out) == (cli.EXIT_REFUSED, "")
    assert message in err
    assert not list(tmp_path.glob("**/log.jsonl"))


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "1e400", "nan", "many"])
def test_numbers(archscore_cli, capsys, value):
    with pytest.raises(SystemExit) as exit_:
        archscore_cli("search", "--max-parameters", value)
    assert exit_.value.code == cli.EXIT_REFUSED
    assert "must be" in capsys.readouterr().err


def test_no_server(archscore_cli, monkeypatch):
    monkeypatch.setattr(cli, "_CONNECT_TIMEOUT", 0.1)
    code, out, err = archscore_cli("search", *SMALL, "--server", "127.0.0.1:1")
    assert (code, out) == (cli.EXIT_UNREACHABLE, "")
    assert "no answer from 127.0.0.1:1" in err


# Interruptions


def test_ctrl_c_leaves_a_checkpoint(start_search, puppet, target, tmp_path):
    passing = stall(puppet)
    process = start_search(target, tmp_path / "cut", *SMALL)
    wait_for(lambda: len(puppet.chunks()) > passing, process)
    wait_for((tmp_path / "cut" / "checkpoint.json").exists, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=GONE)
    assert (process.returncode, out) == (cli.EXIT_INTERRUPTED, "")
    assert "--resume goes on" in err
    assert json.loads((tmp_path / "cut" / "checkpoint.json").read_text())["records"] >= 8


def test_killed_and_resumed_a_search_finds_the_same(start_search, puppet, target, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert start_search(target, whole, *SMALL).wait(GONE) == cli.EXIT_OK
    passing = stall(puppet)
    process = start_search(target, cut, *SMALL)
    wait_for(lambda: len(puppet.chunks()) > passing, process)
    wait_for((cut / "checkpoint.json").exists, process)
    process.kill()
    process.wait(GONE)
    assert 0 < len(log_of(cut)) < len(log_of(whole))
    puppet.streams_answered = None
    resumed = start_search(target, cut, *SMALL, "--resume")
    out, _ = resumed.communicate(timeout=GONE)
    assert resumed.returncode == cli.EXIT_OK
    assert out
    assert log_of(cut) == log_of(whole)
    assert (cut / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()


def test_a_server_elsewhere_may_be_restarted_in_the_middle(start_search, target, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert start_search(target, whole, *SMALL).wait(GONE) == cli.EXIT_OK
    first = Puppet()
    passing = stall(first)
    server, port = puppet_server.start(first, address="127.0.0.2:0")
    process = start_search(f"127.0.0.2:{port}", cut, *SMALL)
    try:
        wait_for(lambda: len(first.chunks()) > passing, process)
    finally:
        server.stop(0).wait()
    server, _ = puppet_server.start(Puppet(), address=f"127.0.0.2:{port}")
    try:
        _, err = process.communicate(timeout=GONE)
    finally:
        server.stop(0).wait()
    assert process.returncode == cli.EXIT_OK, err
    assert log_of(cut) == log_of(whole)
