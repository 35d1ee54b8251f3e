"""Pictures of the dashboards, drawn from a Prometheus that scrapes a server under load. `make dashboards-preview`.

Grafana is not needed: each panel's queries are asked as Grafana would ask them, and drawn where its page has the panel.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from PIL import Image

from archscore_server.access import token_file
from monitoring.expressions import DASHBOARDS, ROOT, Expression, concrete
from monitoring.load import OPTIONS, Load
from monitoring.prometheus import Prometheus, Series, scraping
from support.process import ServerProcess, server_process

IMAGES: Final = ROOT / "docs" / "images"

#: As in Grafana where Prometheus scrapes every 5 s; here it scrapes every second, so that lines are smooth.
_RATE_INTERVAL: Final = "20s"
_STEP: Final = 1.0

_COLUMNS: Final = 24
#: Inches of a column and of a row of Grafana's grid.
_CELL: Final = (0.62, 0.34)
_DOTS_PER_INCH: Final = 85
_MARGIN: Final = 0.35
_TITLE: Final = 0.55

_PAGE, _PANEL, _TEXT, _FAINT, _GRID = "#f4f5f5", "#ffffff", "#24292e", "#6b7075", "#e4e5e7"
_COLOURS: Final = [
    "#3871dc",
    "#e0752d",
    "#299c46",
    "#b877d9",
    "#d44a3a",
    "#f2cc0c",
    "#5794f2",
    "#8f6b4e",
    "#6b7075",
    "#37b5c4",
]
#: Seconds from which on they are written as minutes.
_MINUTES: Final = 120
_THRESHOLDS: Final = {"green": "#299c46", "yellow": "#c99a00", "red": "#c4162a"}


def draw(path: Path, dashboard: Mapping[str, Any], prometheus: Prometheus, start: float, end: float) -> None:
    """Draws a dashboard as it is between two times."""
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    width, height = _COLUMNS * _CELL[0] + 2 * _MARGIN, rows * _CELL[1] + 2 * _MARGIN + _TITLE
    figure = plt.figure(figsize=(width, height), facecolor=_PAGE)
    figure.text(
        _MARGIN / width,
        1 - (_MARGIN + 0.1) / height,
        dashboard["title"],
        size=15,
        weight="bold",
        color=_TEXT,
        va="center",
    )
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        left = (_MARGIN + place["x"] * _CELL[0]) / width
        bottom = 1 - (_MARGIN + _TITLE + (place["y"] + place["h"]) * _CELL[1]) / height
        box = left, bottom, place["w"] * _CELL[0] / width, place["h"] * _CELL[1] / height
        if panel["type"] == "row":
            figure.text(left, bottom + box[3] / 2, panel["title"], size=11, weight="bold", color=_TEXT, va="center")
        else:
            _draw_panel(figure, box, panel, prometheus, start, end)
    figure.savefig(path, dpi=_DOTS_PER_INCH, facecolor=_PAGE, metadata={"Software": None})
    plt.close(figure)
    with Image.open(path) as picture:
        # Not to 256 colours: those of lines are rare, and would be taken for others.
        picture.convert("RGB").save(path, optimize=True)


def _draw_panel(
    figure: Figure,
    box: tuple[float, float, float, float],
    panel: Mapping[str, Any],
    prometheus: Prometheus,
    start: float,
    end: float,
) -> None:
    """Draws a panel into its box, which is in parts of the figure."""
    left, bottom, width, height = box
    inch_x, inch_y = 1 / figure.get_figwidth(), 1 / figure.get_figheight()
    gap_x, gap_y = 0.05 * inch_x, 0.05 * inch_y
    frame = (left + gap_x, bottom + gap_y, width - 2 * gap_x, height - 2 * gap_y)
    figure.add_artist(Rectangle(frame[:2], *frame[2:], transform=figure.transFigure, color=_PANEL, ec=_GRID, zorder=-1))
    figure.text(
        frame[0] + 0.1 * inch_x,
        bottom + height - gap_y - 0.16 * inch_y,
        panel["title"],
        size=9,
        weight="bold",
        color=_TEXT,
        va="center",
    )
    found = [
        (_legend(target["legendFormat"], series.labels), series)
        for target in panel["targets"]
        for series in prometheus.range(concrete(target["expr"], _RATE_INTERVAL), start, end, _STEP)
    ]
    unit = panel["fieldConfig"]["defaults"]["unit"]
    if panel["type"] == "stat":
        _draw_number(figure, frame, panel, unit, found)
        return
    inner = (
        frame[0] + 0.72 * inch_x,
        frame[1] + 0.66 * inch_y,
        frame[2] - 0.85 * inch_x,
        frame[3] - 1.02 * inch_y,
    )
    axes = figure.add_axes(inner, facecolor=_PANEL)
    if not found:
        axes.set_axis_off()
        why = (
            "No data: only with a GPU"
            if any(Expression("", t["expr"]).gpu_only for t in panel["targets"])
            else "No data"
        )
        axes.text(0.5, 0.5, why, ha="center", va="center", color=_FAINT, size=10, transform=axes.transAxes)
        return
    _draw_series(axes, panel, unit, found, start, end)
    _draw_legend(figure, frame, [legend for legend, _ in found], inch_x, inch_y)


def _draw_number(
    figure: Figure,
    frame: tuple[float, float, float, float],
    panel: Mapping[str, Any],
    unit: str,
    found: Sequence[tuple[str, Series]],
) -> None:
    """Draws the last value, and below it how it came about."""
    points = [point for point in (found[0][1].points if found else []) if math.isfinite(point[1])]
    text, colour = "No data", _FAINT
    if points:
        text = shown(points[-1][1], unit, panel["fieldConfig"]["defaults"].get("decimals"))
        colour = _THRESHOLDS[_threshold(panel, points[-1][1])]
        axes = figure.add_axes((frame[0], frame[1], frame[2], frame[3] * 0.3))
        axes.set_axis_off()
        axes.fill_between([x for x, _ in points], [y for _, y in points], color=colour, alpha=0.2, linewidth=0)
        axes.set_ylim(bottom=0)
        axes.margins(x=0)
    figure.text(
        frame[0] + frame[2] / 2, frame[1] + frame[3] * 0.5, text, size=18, color=colour, ha="center", va="center"
    )


def _threshold(panel: Mapping[str, Any], value: float) -> str:
    """The colour of the highest step that a value reaches."""
    reached = "green"
    for step in panel["fieldConfig"]["defaults"]["thresholds"]["steps"]:
        if step["value"] is None or value >= step["value"]:
            reached = step["color"]
    return reached


def _draw_series(
    axes: Axes, panel: Mapping[str, Any], unit: str, found: Sequence[tuple[str, Series]], start: float, end: float
) -> None:
    """Draws lines, or areas that add up where the panel stacks them."""
    defaults = panel["fieldConfig"]["defaults"]
    stacked = defaults["custom"].get("stacking", {}).get("mode") == "normal"
    moments = [start + _STEP * number for number in range(int((end - start) / _STEP) + 1)]
    below = [0.0] * len(moments)
    for number, (_, series) in enumerate(found):
        colour = _COLOURS[number % len(_COLOURS)]
        values = {round((moment - start) / _STEP): value for moment, value in series.points}
        heights = [values.get(place, math.nan) for place in range(len(moments))]
        if stacked:
            tops = [
                low + (height if math.isfinite(height) else 0.0) for low, height in zip(below, heights, strict=True)
            ]
            axes.fill_between(
                [moment - start for moment in moments], below, tops, color=colour, alpha=0.35, linewidth=0
            )
            below = heights = tops
        axes.plot([moment - start for moment in moments], heights, color=colour, linewidth=1.1)
    axes.set_xlim(0, end - start)
    top = defaults.get("max") or axes.dataLim.y1 or 1.0
    axes.set_ylim(0, 1.06 * top)
    axes.set_yticks(_ticks(top, unit))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value, unit)))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f} s"))
    axes.grid(color=_GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_FAINT, labelsize=7, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _ticks(top: float, unit: str) -> list[float]:
    """Round numbers up to the top, round in the unit."""
    scale = 1.0
    if unit == "bytes" and top >= 1:
        scale = 1024.0 ** int(math.log(top, 1024))
    if unit == "s" and top >= _MINUTES:
        scale = 60.0
    ticks = MaxNLocator(4, integer=unit == "short").tick_values(0, top / scale)
    return [scale * tick for tick in ticks if 0 <= scale * tick <= 1.06 * top]


def _draw_legend(
    figure: Figure, frame: tuple[float, float, float, float], legends: Sequence[str], inch_x: float, inch_y: float
) -> None:
    """Writes what the lines are below them, in two rows at most."""
    x, y, size = frame[0] + 0.12 * inch_x, frame[1] + 0.3 * inch_y, 7
    for number, legend in enumerate(legends):
        needed = (0.28 + 0.062 * len(legend)) * inch_x
        if x + needed > frame[0] + frame[2] and x > frame[0] + 0.2 * inch_x:
            x, y = frame[0] + 0.12 * inch_x, y - 0.17 * inch_y
            if y < frame[1]:
                return
        colour = _COLOURS[number % len(_COLOURS)]
        figure.add_artist(
            Line2D([x, x + 0.12 * inch_x], [y, y], transform=figure.transFigure, color=colour, linewidth=2)
        )
        figure.text(x + 0.17 * inch_x, y, legend, size=size, color=_TEXT, va="center")
        x += needed


def _legend(template: str, labels: Mapping[str, str]) -> str:
    """What a series is called."""
    text = re.sub(r"\{\{(\w+)\}\}", lambda match: labels.get(match[1], ""), template)
    return text.removeprefix("archscore.v1.").removeprefix("ScoringService/")


def shown(value: float, unit: str, decimals: float | None = None) -> str:
    """A value in its unit, roughly as Grafana writes it."""
    if unit == "bool_yes_no":
        return "Yes" if value else "No"
    if unit == "percentunit":
        return f"{100 * value:.{0 if decimals is None else int(decimals)}f}%"
    if unit == "bytes":
        return _scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))
    if unit == "s":
        if value and value < 1:
            return f"{1000 * value:.3g} ms"
        return f"{value:.3g} s" if value < _MINUTES else f"{value / 60:.3g} min"
    suffix = {"reqps": " req/s"}.get(unit, unit.removeprefix("suffix:") if unit.startswith("suffix:") else "")
    if decimals is not None:
        return f"{value:.{int(decimals)}f}{suffix}"
    return (_scaled(value, 1000, ("", "K", "Mil", "Bil")) if value >= 1000 else f"{value:.3g}") + suffix


def _scaled(value: float, base: int, names: Sequence[str]) -> str:
    power = min(int(math.log(value, base)), len(names) - 1) if value >= 1 else 0
    return f"{value / base**power:.3g} {names[power]}".strip()


def _searches(load: Load, until: float) -> None:
    """What a search does: keeps asking, more or less at a time."""
    rng = random.Random(1)
    while time.monotonic() < until:
        load.score(rng.choice((8, 16, 24)))
        load.repeat(6)
        time.sleep(rng.uniform(0.0, 0.6))


def _sabotage(server: ServerProcess) -> None:
    """Kills a worker."""
    os.kill(random.Random(2).choice(server.workers()), signal.SIGKILL)


def preview(seconds: float, images: Path) -> None:
    """Draws all dashboards from a server that is under load for so many seconds."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        tokens = [token_file.add(directory / "tokens", who) for who in ("search", "study")]
        options = [*OPTIONS, "--tokens", str(directory / "tokens"), "--store", str(directory / "scores.sqlite")]
        with (
            (directory / "log").open("w") as log,
            server_process(*options, log=log) as server,
            scraping(server.metrics_address, directory) as prometheus,
            Load(server.address, lambda: _sabotage(server), tokens, seed=1) as steady,
            Load(server.address, lambda: _sabotage(server), tokens[::-1], seed=2) as varied,
        ):
            start = time.time()
            until = time.monotonic() + seconds
            thread = threading.Thread(target=_searches, args=(steady, until))
            thread.start()
            while time.monotonic() < until:
                varied.everything()
            thread.join()
            time.sleep(2)
            images.mkdir(exist_ok=True)
            for path in sorted(DASHBOARDS.glob("*.json")):
                picture = images / f"dashboard-{path.stem}.png"
                draw(picture, json.loads(path.read_text()), prometheus, start, time.time())
                sys.stdout.write(f"{picture}\n")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=90, help="of load (90)")
    parser.add_argument("--images", type=Path, default=IMAGES, help="where the pictures go")
    arguments = parser.parse_args()
    matplotlib.use("agg")
    preview(arguments.seconds, arguments.images)


if __name__ == "__main__":
    main()
