"""What the dashboards are made of: queries, panels and pages, in the terms of Grafana's own SDK.

Every panel has a unit, and a description that says what to do when it looks bad; there is no way to leave them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

#: The Grafana that compose runs. The SDK is the line for Grafana 12 and later (0.0.x; those with an epoch are older).
GRAFANA_VERSION = "12.4.10"

#: The datasource's uid in deploy/grafana/provisioning/datasources.
DATASOURCE = DataSourceRef(type_val="prometheus", uid="archscore-prometheus")

#: The series of the servers that are chosen on the page.
_SERVERS = 'instance=~"$instance"'

_SERIES_HEIGHT = 8
_STAT_HEIGHT = 4


@dataclass(frozen=True)
class Query:
    """What a panel asks Prometheus.

    Attributes:
        expr: in PromQL.
        legend: of each series it gives, with labels in double braces.
    """

    expr: str
    legend: str


Panel = timeseries.Panel | stat.Panel


def metric(name: str, *matchers: str) -> str:
    """A selector of the series of the chosen servers."""
    return f"{name}{{{', '.join((_SERVERS, *matchers))}}}"


def rate(name: str, *matchers: str) -> str:
    """How fast a counter of the chosen servers grows."""
    return f"rate({metric(name, *matchers)}[$__rate_interval])"


def total(name: str, *by: str, matchers: Sequence[str] = ()) -> str:
    """How fast a counter grows over the chosen servers, for each value of the labels `by`."""
    return f"sum{_by(by)}({rate(name, *matchers)})"


def share(name: str, part: str, of: Sequence[str] = ()) -> str:
    """What part of a counter's growth has the matcher `part`, among what has the matchers `of`; 0 if it has none."""
    return f"(sum({rate(name, part)}) or vector(0)) / sum({rate(name, *of)})"


def quantile(fraction: float, histogram: str, *by: str, matchers: Sequence[str] = ()) -> str:
    """A quantile of a histogram over the chosen servers, for each value of the labels `by`."""
    return f"histogram_quantile({fraction}, {total(f'{histogram}_bucket', *by, 'le', matchers=matchers)})"


def series(
    title: str,
    unit: str,
    description: str,
    *queries: Query,
    width: int = 8,
    stacked: bool = False,
    most: float | None = None,
) -> Panel:
    """A panel of lines over time.

    Args:
        title: what it shows.
        unit: one of Grafana's unit ids.
        description: what it means, and what to do when it looks bad.
        queries: what it shows.
        width: of the page's 24 columns.
        stacked: whether the lines add up to something.
        most: where the axis ends, if that is known.
    """
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .datasource(DATASOURCE)
        .height(_SERIES_HEIGHT)
        .span(width)
        .min(0)
        .line_width(1)
        .fill_opacity(25 if stacked else 8)
        .show_points(VisibilityMode.NEVER)
        .legend(common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM))
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    )
    if most is not None:
        panel = panel.max(most)
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    for letter, query in zip(ascii_uppercase, queries, strict=False):
        panel = panel.with_target(_target(query, letter))
    return panel


def number(
    title: str,
    unit: str,
    description: str,
    query: Query,
    *,
    width: int = 4,
    bad: tuple[float, float] | None = None,
    decimals: int | None = None,
) -> Panel:
    """A panel of one number, as it is now, over how it came about.

    Args:
        title: what it shows.
        unit: one of Grafana's unit ids.
        description: what it means, and what to do when it looks bad.
        query: what it shows.
        width: of the page's 24 columns.
        bad: where it turns yellow and where red, be that upwards or downwards.
        decimals: digits after the point, if Grafana is not to choose.
    """
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .datasource(DATASOURCE)
        .height(_STAT_HEIGHT)
        .span(width)
        .color_mode(BigValueColorMode.VALUE)
        .graph_mode(BigValueGraphMode.AREA)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(_thresholds(bad))
        .with_target(_target(query, "A"))
    )
    return panel if decimals is None else panel.decimals(decimals)


def page(uid: str, title: str, description: str, rows: Sequence[tuple[str, Sequence[Panel]]]) -> Dashboard:
    """A dashboard.

    Args:
        uid: by which links find it.
        title: of the page.
        description: of the page.
        rows: titles and panels, from the top; panels fill a row from the left.
    """
    servers = (
        dashboard.QueryVariable("instance")
        .label("Server")
        .description("Servers by the address that Prometheus scrapes.")
        .datasource(DATASOURCE)
        .query("label_values(archscore_workers, instance)")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(VariableOption(selected=True, text=["All"], value=["$__all"]))
    )
    builder = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["archscore"])
        .readonly()
        .refresh("10s")
        .time("now-30m", "now")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("archscore")
            .type(DashboardLinkType.DASHBOARDS)
            .tags(["archscore"])
            .icon("dashboard")
            .keep_time(True)
            .include_vars(True)
        )
        .with_variable(servers)
    )
    for row, panels in rows:
        builder = builder.with_row(dashboard.Row(row))
        for panel in panels:
            builder = builder.with_panel(panel)
    built = builder.build()
    for place, built_panel in enumerate(built.panels or [], start=1):
        built_panel.id_val = place
    return built


def _target(query: Query, letter: str) -> prometheus.Dataquery:
    target = prometheus.Dataquery().ref_id(letter).range().datasource(DATASOURCE)
    # The exemplars of this one have the ids of requests.
    return target.expr(query.expr).legend_format(query.legend).exemplar("archscore_rpc_seconds" in query.expr)


def _by(labels: Sequence[str]) -> str:
    return f" by ({', '.join(labels)}) " if labels else ""


def _thresholds(bad: tuple[float, float] | None) -> dashboard.ThresholdsConfig:
    """Green, and where it turns yellow and red."""
    steps = [Threshold(value=None, color="green")]
    if bad is not None:
        yellow, red = bad
        if yellow < red:
            steps += [Threshold(value=yellow, color="yellow"), Threshold(value=red, color="red")]
        else:
            steps = [Threshold(None, "red"), Threshold(red, "yellow"), Threshold(yellow, "green")]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)
