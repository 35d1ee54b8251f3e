"""The configuration of Prometheus and the alerts, as promtool sees them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from click import Option

from archscore_server import cli

ROOT = Path(__file__).parents[2]
DIRECTORY = ROOT / "deploy" / "prometheus"
ALERTS = (DIRECTORY / "alerts.yml").read_text()
PROMTOOL = shutil.which("promtool")


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
@pytest.mark.parametrize(
    "check", ["check config prometheus.yml", "check rules alerts.yml", "test rules alerts_test.yml"]
)
def test_promtool(check: str) -> None:
    ran = subprocess.run([str(PROMTOOL), *check.split()], cwd=DIRECTORY, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_alert_says_what_to_do_and_is_tested() -> None:
    names = re.findall(r"- alert: (\w+)", ALERTS)
    assert len(names) == ALERTS.count("summary: ") == ALERTS.count("runbook: ") == ALERTS.count("severity: ")
    tests = (DIRECTORY / "alerts_test.yml").read_text()
    assert set(re.findall(r'alertname="(\w+)"', tests)) == set(names)


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    """In docs/operations.md, each under the name of its alert, in the same order."""
    runbooks = (ROOT / "docs" / "operations.md").read_text().partition("\n## Runbooks\n")[2].partition("\n## ")[0]
    sections = dict(re.findall(r"^### (\w+)\n\n(.+?)(?=^### |\Z)", runbooks, re.MULTILINE | re.DOTALL))
    assert list(sections) == re.findall(r"- alert: (\w+)", ALERTS)
    for name, text in sections.items():
        assert len(text) > 80, name


def test_runbooks_name_options_that_there_are() -> None:
    known = {name for option in cli.main.params if isinstance(option, Option) for name in option.opts}
    assert set(re.findall(r"--[a-z][a-z-]*", ALERTS)) <= known


def test_alerts_use_metrics_that_there_are() -> None:
    documented = set(re.findall(r"^\| `(archscore_\w+)`", (ROOT / "docs" / "metrics.md").read_text(), re.M))
    assert set(re.findall(r"\barchscore_\w+", ALERTS)) <= documented
