"""A real Prometheus has data for every expression of dashboards and alerts, after a load with a bit of everything."""

import json
import os
import re
import signal
import time
from collections.abc import Iterator

import pytest

from archscore_server.access import token_file
from monitoring.expressions import (
    ALERTS,
    DASHBOARDS,
    Expression,
    concrete,
    of_dashboards,
    of_rules,
    panels,
    unanswered,
)
from monitoring.load import OPTIONS, Load
from monitoring.prometheus import BINARY, WHY_NOT, Prometheus, request_ids, scraping
from support.process import server_process

PANELS = [
    (f"{path.name}: {panel['title']}", panel)
    for path in sorted(DASHBOARDS.glob("*.json"))
    for panel in panels(json.loads(path.read_text()))
]
pytestmark = pytest.mark.skipif(BINARY is None, reason=WHY_NOT)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Prometheus, float, float]]:
    """A Prometheus that has seen the load, and between which times."""
    directory = tmp_path_factory.mktemp("monitoring")
    tokens = [token_file.add(directory / "tokens", name) for name in ("search", "study")]
    options = [*OPTIONS, "--tokens", str(directory / "tokens"), "--store", str(directory / "scores.sqlite")]
    rules = ALERTS if ALERTS.exists() else None
    with (
        server_process(*options) as server,
        scraping(server.metrics_address, directory, rules=rules) as prometheus,
        Load(server.address, lambda: os.kill(server.workers()[0], signal.SIGKILL), tokens) as load,
    ):
        start = time.time()
        load.everything()
        time.sleep(2.5)  # two more scrapes
        yield prometheus, start, time.time()


def test_every_expression_has_data(answers: tuple[Prometheus, float, float]) -> None:
    expressions = [expression for expression in of_dashboards() if not expression.gpu_only]
    assert unanswered(answers[0], expressions, *answers[1:]) == []


def test_every_legend_is_made_of_labels_that_there_are(answers: tuple[Prometheus, float, float]) -> None:
    """And tells the lines of a panel apart."""
    prometheus, start, end = answers
    for place, panel in PANELS:
        legends = []
        for target in panel["targets"]:
            wanted = re.findall(r"{{(\w+)}}", target["legendFormat"])
            for series in prometheus.range(concrete(target["expr"], "4s"), start, end, 1.0):
                assert series.labels.keys() >= set(wanted), place
                legends.append((target["legendFormat"], *(series.labels[label] for label in wanted)))
        assert len(legends) == len(set(legends)), place


@pytest.mark.skipif(not ALERTS.exists(), reason="no alerts yet")
def test_every_alert_has_data(answers: tuple[Prometheus, float, float]) -> None:
    alerts = [alert for alert in of_rules() if not alert.gpu_only]
    assert alerts
    assert unanswered(answers[0], alerts, *answers[1:]) == []


def test_what_is_for_gpus_only_has_none_on_a_cpu(answers: tuple[Prometheus, float, float]) -> None:
    for_gpus = [expression for expression in of_dashboards() if expression.gpu_only]
    assert len(unanswered(answers[0], for_gpus, *answers[1:])) == len(for_gpus)


def test_exemplars_have_ids_of_requests(answers: tuple[Prometheus, float, float]) -> None:
    assert request_ids(*answers)


@pytest.mark.parametrize("text", ["archscore_no_such_metric", "archscore_workers - archscore_workers / 0 * 0"])
def test_what_has_no_number_is_found(answers: tuple[Prometheus, float, float], text: str) -> None:
    prometheus, start, end = answers
    assert unanswered(prometheus, [Expression("a test", text)], start, end) == [f"a test: {text}"]
