"""Expressions are found, and made to have data; which of them have is in test_answers.py."""

from pathlib import Path

import pytest

from monitoring.expressions import GPU_ONLY, Expression, concrete, of_dashboards, of_rules, quiet

RULES = """
groups:
  - name: archscore
    rules:
      - record: archscore:workers
        expr: sum(archscore_workers)
      - alert: NoWorker
        expr: archscore_workers_ready == 0
"""


@pytest.mark.parametrize(
    ("alert", "expected"),
    [
        ("up == 0", "up == bool 0"),
        ("a > b", "a > bool b"),
        ("a >= 0.9 and b != 3", "a >= bool 0.9 and b != bool 3"),
        ('rate(a{code!="OK", m=~"x>y"}[5m]) > 0', 'rate(a{code!="OK", m=~"x>y"}[5m]) > bool 0'),
        ('a{x="} > 3"} < 1', 'a{x="} > 3"} < bool 1'),
        ('label_replace(a, "b", "<", "c", "") > 1', 'label_replace(a, "b", "<", "c", "") > bool 1'),
        ("a <bool 1", "a <bool 1"),
        ("absent(up{job='archscore'})", "(up{job='archscore'})"),
    ],
)
def test_an_alert_is_made_to_have_data(alert: str, expected: str) -> None:
    assert quiet(alert) == expected


def test_rules_are_found_by_name(tmp_path: Path) -> None:
    path = tmp_path / "alerts.yml"
    path.write_text(RULES)
    assert of_rules(path) == [
        Expression("alerts.yml: archscore:workers", "sum(archscore_workers)"),
        Expression("alerts.yml: NoWorker", "archscore_workers_ready == bool 0"),
    ]


def test_every_panel_has_an_expression() -> None:
    places = {expression.place.partition(":")[0] for expression in of_dashboards()}
    assert places == {"users.json", "operators.json"}


def test_variables_of_grafana_are_replaced() -> None:
    texts = [concrete(expression.text, "4s") for expression in of_dashboards()]
    assert any("[4s]" in text for text in texts)
    assert any('instance=~".*"' in text for text in texts)
    assert not any("$" in text for text in texts)


@pytest.mark.parametrize("part", GPU_ONLY)
def test_what_is_for_gpus_only_is_asked_for(part: str) -> None:
    assert GPU_ONLY[part]
    assert any(part in expression.text for expression in of_dashboards())
