"""The example of docs/extending.md, installed: a server and the engine both have its proxy."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import archscore.testing

DOCUMENT = Path(__file__).parents[1] / "docs" / "extending.md"
EVALUATE = """
import json
from archscore.spaces import nasbench201
from archscore_server.engine import EvaluationConfig, evaluate

config = EvaluationConfig(batch_size=8, network=nasbench201.NetworkConfig(channels=4, cells_per_stage=1))
[evaluation] = evaluate([nasbench201.parse("index:6111")], ["grad_entropy", "snip"], config)
print(json.dumps({name: score.value for name, score in evaluation.scores.items()}))
"""
CONFIG = {"batchSize": 8, "nasbench201": {"channels": 4, "cellsPerStage": 1}}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory into which the example was installed."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    files = re.findall(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    assert [name for name, _ in files] == ["archscore_grad_entropy.py", "pyproject.toml"]
    for name, content in files:
        (source / name).write_text(content)
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--no-index"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)]
    subprocess.run(command, check=True)
    return target


@pytest.fixture
def environment(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Child processes find it."""
    path = [str(installed), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))


@pytest.mark.usefixtures("environment")
def test_the_engine_and_the_service_have_it() -> None:
    ran = subprocess.run([sys.executable, "-c", EVALUATE], check=True, capture_output=True, text=True)
    assert not ran.stderr
    values = json.loads(ran.stdout)
    assert 0 < values["grad_entropy"] < np.log(100)

    with archscore.testing.server(threads=1) as server, server.client() as client:
        [listed] = [proxy for proxy in client.proxies() if proxy.name == "grad_entropy"]
        assert listed.description == "How evenly the gradient spreads over the layers."
        evaluation = client.score("index:6111", ["grad_entropy", "snip"], space="nasbench201", config=CONFIG)
        assert evaluation["grad_entropy"] == pytest.approx(values["grad_entropy"], rel=1e-4)


@pytest.mark.usefixtures("environment")
def test_a_broken_package_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = tmp_path / "broken-2.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 2.0\n")
    (metadata / "entry_points.txt").write_text("[archscore.proxies]\nbroken = no_such_module\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]]))
    ran = subprocess.run([sys.executable, "-c", EVALUATE], check=True, capture_output=True, text=True)
    assert set(json.loads(ran.stdout)) == {"grad_entropy", "snip"}
    assert "no proxies from broken 2.0 (broken = no_such_module): ModuleNotFoundError" in ran.stderr
