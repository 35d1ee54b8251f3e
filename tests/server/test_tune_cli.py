"""archscore-server tune: what it measures, prints and keeps."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from archscore.spaces import nasbench201
from archscore_server import cli, tune_cli
from archscore_server.engine import EvaluationConfig, tuning
from archscore_server.engine.stack_sizes import FILE_NAME, Machine, StackSizes, Workload
from archscore_server.engine.tuning import Tuning
from archscore_server.pool._torch_engine import machine

TINY = {"batchSize": 2, "resolution": 8, "nasbench201": {"channels": 4, "cellsPerStage": 1}}
CONFIG = EvaluationConfig(batch_size=2, resolution=8, network=nasbench201.NetworkConfig(channels=4, cells_per_stage=1))
FOUND = Tuning({1: [10.0, 11.0], 2: [30.0, 20.0], 4: [5.0]}, "stacks of 4 are clearly slower")

Tune = Callable[..., Result]


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stays as it is."""
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    monkeypatch.setattr(torch, "set_num_interop_threads", lambda threads: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture
def tune(tmp_path: Path) -> Tune:
    """Runs the command."""

    def run(*arguments: str, **environment: str) -> Result:
        given = ["tune", "--device", "cpu", "--threads", "1", "--cache-dir", str(tmp_path / "cache"), *arguments]
        return CliRunner().invoke(cli.main, given, env=environment)

    return run


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What is measured, and then is FOUND."""
    seen: list[tuple[object, ...]] = []

    def measured(space, proxies, config, device, *, sizes, rounds, on_measured):
        seen.append((space, list(proxies), config, device, list(sizes), rounds))
        on_measured(1, 10.0)
        on_measured(2, None)
        return FOUND

    monkeypatch.setattr(tuning, "tune", measured)
    return seen


def test_it_measures_prints_and_keeps(tune, tmp_path):
    report = tmp_path / "report.json"
    result = tune("--config", json.dumps(TINY), "--most", "2", "--rounds", "1", "--json", str(report))
    assert result.exit_code == 0, result.output
    [(own, workload)] = StackSizes.read(tmp_path / "cache").entries
    assert (own, workload) == (machine("cpu", 1), Workload.of(["tcet"], CONFIG))
    kept = StackSizes.read(tmp_path / "cache").find(own, workload)
    [written] = json.loads(report.read_text())["machines"]
    assert written["stack_size"] == kept
    assert set(written["per_second"]) == {"1", "2"}
    assert "<- fastest" in result.output


def test_the_table(tune, asked):
    lines = tune("--config", json.dumps(TINY)).stdout.splitlines()
    assert lines[1] == "nasbench201, eval + train, batch 2, resolution 8, float32, cells_per_stage 1, channels 4"
    assert [line.split() for line in lines[3:6]] == [
        ["1", "10.5", "10", "11"],
        ["2", "25", "20", "30", "<-", "fastest"],
        ["4", "5", "5", "5"],
    ]
    assert lines[6] == "stacks of 4 are clearly slower"


def test_what_is_measured_is_what_is_asked_for(tune, asked):
    arguments = ("--space", "zennas", "--proxies", "zen, snip", "--config", '{"zennas": {"residualLinks": true}}')
    result = tune(*arguments, "--most", "5", "--rounds", "7")
    assert result.exit_code == 0, result.output
    [(space, proxies, config, device, sizes, rounds)] = asked
    assert (space, proxies, device, sizes, rounds) == ("zennas", ["zen", "snip"], "cpu", [1, 2, 4], 7)
    assert config.network.residual_links


def test_several_are_kept(tune, asked, tmp_path):
    tune()
    tune("--proxies", "synflow")
    assert len(StackSizes.read(tmp_path / "cache").entries) == 2


def test_one_gpu_of_each_name_is_measured(tune, asked, monkeypatch):
    async def probe_gpus() -> list[str]:
        return ["A", "B", "A"]

    monkeypatch.setattr(tune_cli, "probe_gpus", probe_gpus)
    monkeypatch.setattr(
        tune_cli,
        "machine",
        lambda device, threads: Machine(
            device_kind="cuda", device_name=device, threads=threads, torch_version="2", kernels=""
        ),
    )
    result = tune("--device", "auto")
    assert result.exit_code == 0, result.output
    assert [device for _, _, _, device, _, _ in asked] == ["cuda:0", "cuda:1"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--proxies", "tcet,oops"], "no proxy 'oops': known are"),
        (["--proxies", "flops"], "these need no device"),
        (["--config", "{"], "--config"),
        (["--config", '{"batchsize": 3}'], "batchsize"),
        (["--config", '{"batchSize": 1}'], "config.batch_size: must be from 2"),
        (["--config", '{"dataset": "cifar10"}'], "the dataset does not matter"),
        (["--config", '{"zennas": {}}'], "does not go with search space nasbench201"),
        (["--config", '{"precision": "PRECISION_TF32"}'], "there is no TF32 on this device"),
        (["--most", "257"], "257"),
        (["--space", "darts"], "darts"),
    ],
)
def test_what_cannot_be_measured(tune, arguments, words, tmp_path):
    result = tune(*arguments)
    assert (result.exit_code, words in result.output) == (2, True), result.output
    assert not (tmp_path / "cache").exists()


def test_without_a_gpu(tune, monkeypatch):
    async def probe_gpus() -> list[str]:
        return []

    monkeypatch.setattr(tune_cli, "probe_gpus", probe_gpus)
    result = tune("--device", "cuda")
    assert (result.exit_code, "torch sees no GPU" in result.output) == (2, True)


def test_where_nothing_can_be_kept_the_table_is_printed_all_the_same(tune, asked, tmp_path):
    (tmp_path / "file").touch()
    result = tune("--cache-dir", str(tmp_path / "file" / "cache"))
    assert result.exit_code == 1
    assert "<- fastest" in result.output
    assert "cannot be kept" in result.output


def test_variables_are_those_of_the_server(asked, tmp_path):
    variables = {"ARCHSCORE_DEVICE": "cpu", "ARCHSCORE_THREADS": "1", "ARCHSCORE_CACHE_DIR": str(tmp_path)}
    result = CliRunner().invoke(cli.main, ["tune"], env=variables)
    assert result.exit_code == 0, result.output
    assert (tmp_path / FILE_NAME).exists()


def test_the_command_line_does_not_load_torch():
    code = "import sys; from archscore_server import cli; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
