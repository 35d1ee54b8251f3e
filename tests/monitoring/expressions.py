"""Every PromQL expression of the dashboards and alerts, and whether a Prometheus has data for it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from monitoring.prometheus import Prometheus, Series

ROOT: Final = Path(__file__).parents[2]
DASHBOARDS: Final = ROOT / "deploy" / "grafana" / "dashboards"
ALERTS: Final = ROOT / "deploy" / "prometheus" / "alerts.yml"
#: Parts of expressions that only a server with a GPU has data for, each with the reason.
GPU_ONLY: Final[Mapping[str, str]] = json.loads((Path(__file__).parent / "gpu_only.json").read_text())

#: Comparisons and what they must not be taken for: strings and what is in braces.
_STRING: Final = r""""(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'"""
_TOKENS: Final = re.compile(rf"{_STRING}|{{(?:{_STRING}|[^}}])*}}|(?P<operator>==|!=|<=|>=|<|>)(?!\s*bool\b)")
_ABSENT: Final = re.compile(r"\babsent(?:_over_time)?\s*\(")


@dataclass(frozen=True)
class Expression:
    """One expression.

    Attributes:
        place: the file that has it, and where there.
        text: in PromQL, with Grafana's variables.
    """

    place: str
    text: str

    @property
    def gpu_only(self) -> bool:
        """Whether only a server with a GPU has data for it."""
        return any(part in self.text for part in GPU_ONLY)


def of_dashboards(directory: Path = DASHBOARDS) -> list[Expression]:
    """Those of all panels."""
    return [
        Expression(f"{path.name}: {panel['title']}", target["expr"])
        for path in sorted(directory.glob("*.json"))
        for panel in panels(json.loads(path.read_text()))
        for target in panel["targets"]
    ]


def panels(dashboard: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The panels of a dashboard but for its rows, those of collapsed rows included."""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield from panel.get("panels", ())
        else:
            yield panel


def of_rules(path: Path = ALERTS) -> list[Expression]:
    """Those of a file of alerts and recording rules, made to have data when there is nothing to alert to."""
    groups = yaml.safe_load(path.read_text())["groups"]
    return [
        Expression(f"{path.name}: {rule.get('alert') or rule['record']}", quiet(rule["expr"]))
        for group in groups
        for rule in group["rules"]
    ]


def quiet(text: str) -> str:
    """An alert's expression, made to have data whether there is something to alert to or not.

    Comparisons become 0 or 1, instead of leaving out what they do not hold for, and what is to be absent is asked for.
    """
    compared = _TOKENS.sub(lambda match: match[0] + (" bool" if match["operator"] else ""), text)
    return _ABSENT.sub("(", compared)


def concrete(text: str, rate_interval: str) -> str:
    """An expression as Grafana sends it, for all servers."""
    return text.replace("$__rate_interval", rate_interval).replace("$instance", ".*")


def unanswered(
    prometheus: Prometheus,
    expressions: Iterable[Expression],
    start: float,
    end: float,
    *,
    step: float = 1.0,
    rate_interval: str = "4s",
) -> list[str]:
    """Those of some expressions for which there is no number between two times.

    Args:
        prometheus: what is asked.
        expressions: what it is asked.
        start: Unix seconds.
        end: Unix seconds.
        step: seconds between the points asked for.
        rate_interval: what $__rate_interval stands for: at least four times the time between two scrapes.
    """
    found = []
    for expression in expressions:
        text = concrete(expression.text, rate_interval)
        if not any(map(_has_number, prometheus.range(text, start, end, step))):
            found.append(f"{expression.place}: {text}")
    return found


def _has_number(series: Series) -> bool:
    """Whether a series has a value besides NaN and infinities."""
    return any(math.isfinite(value) for _, value in series.points)
