"""What a study found, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure as Drawing
from scipy.stats import gaussian_kde, rankdata

from archscore.study import _published
from archscore.study._ranking import Array, Figure
from archscore.study._study import Study
from archscore.study._tables import name, title

_SCATTERED: Final = 4

#: What a name takes in the plot of costs: decades, and tau.
_WIDE: Final = 0.6
_HIGH: Final = 0.035

_COLOURS: Final = ("#1b6ca8", "#d1495b", "#2e933c", "#8e6c8a", "#edae49", "#5c5c5c")
_STYLE: Final[dict[Any, Any]] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e5e5",
    "axes.axisbelow": True,
    "figure.dpi": 110,
    "savefig.bbox": "tight",
}


def draw(study: Study, directory: Path) -> dict[str, Path]:
    """Draws what there is to draw.

    Args:
        study: what was found.
        directory: where to write PNGs; made if there is none.

    Returns:
        Files by caption.
    """
    directory.mkdir(parents=True, exist_ok=True)
    drawn = {}
    with mpl.rc_context(_STYLE):
        for caption, file, drawing in (
            ("Kendall's tau by proxy", "tau.png", taus(study)),
            ("Scores and accuracies of the cells", "scatter.png", scatter(study)),
            ("Cost and Kendall's tau", "cost.png", costs(study)),
        ):
            if drawing is not None:
                drawn[caption] = directory / file
                drawing.savefig(drawn[caption])
    return drawn


def taus(study: Study) -> Drawing:
    """Tau by proxy with intervals, and the paper's."""
    columns = [study.columns[place] for place in study.judged_by]
    names = list(study.rankings)[::-1]
    drawing = Drawing(figsize=(8, 0.27 * len(names) + 1.2))
    axes = drawing.subplots()
    for place, column in enumerate(columns):
        shift = 0.22 * (len(columns) / 2 - 0.5 - place)
        figures = [study.rankings[one][column].tau for one in names]
        values = np.array([figure.value for figure in figures])
        around = np.array([[figure.value - figure.low, figure.high - figure.value] for figure in figures]).T
        axes.errorbar(
            values,
            np.arange(len(names)) + shift,
            xerr=np.maximum(around, 0),
            fmt="o",
            markersize=3,
            linewidth=1,
            color=_COLOURS[place % len(_COLOURS)],
            label=title(column),
        )
        if column in _published.COLUMNS:
            theirs = [(_published.TAU[one], y) for y, one in enumerate(names) if one in _published.TAU]
            axes.plot(
                [own[_published.COLUMNS.index(column)] for own, _ in theirs],
                [y + shift for _, y in theirs],
                "|",
                markersize=8,
                markeredgewidth=1.6,
                color="black",
                label="the paper" if place == 0 else None,
            )
    axes.set_yticks(range(len(names)), [name(one) for one in names])
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.axvline(0, color="#999999", linewidth=0.8)
    axes.set_xlabel(f"Kendall's tau with accuracy, {len(study.rows):,} cells, 95 % intervals")
    axes.legend(loc="lower right", frameon=True)
    return drawing


def scatter(study: Study) -> Drawing:
    """Accuracy by rank of the score, for the proxies that rank best."""
    columns = study.judged_by
    names = [one for one in study.rankings if len(one) == 1][:_SCATTERED]
    drawing = Drawing(figsize=(2.5 * len(names) + 0.6, 2.3 * len(columns) + 0.4), layout="constrained")
    grid = drawing.subplots(len(columns), len(names), squeeze=False, sharex=True, sharey="row")
    for row, place in enumerate(columns):
        accuracies = study.accuracies[:, place]
        for axes, one in zip(grid[row], names, strict=True):
            ranks = rankdata(study.values(one)) / len(study.rows)
            _cloud(axes, ranks, accuracies)
            tau = study.rankings[one][study.columns[place]].tau.value
            axes.text(0.97, 0.05, f"tau {tau:.2f}", transform=axes.transAxes, ha="right")
            axes.set_ylim(_lowest_shown(accuracies), accuracies.max() + 1)
            if row == 0:
                axes.set_title(name(one), fontsize=9)
        grid[row][0].set_ylabel(f"{title(study.columns[place])} (%)")
    drawing.supxlabel("rank of the score, lowest to highest", fontsize=9)
    return drawing


def _cloud(axes: Any, x: Array, y: Array) -> None:
    """Points, the brighter the denser they lie."""
    density = _density(x, rankdata(y) / len(y))
    order = np.argsort(density)
    axes.scatter(
        x[order], y[order], c=density[order], s=max(2.0, min(14.0, 6e3 / len(x))), linewidths=0, cmap="viridis"
    )


def _density(x: Array, y: Array) -> Array:
    try:
        density: Array = gaussian_kde(np.vstack([x, y]))(np.vstack([x, y]))
    except np.linalg.LinAlgError:  # all on one line
        return np.ones_like(x)
    return density


def _lowest_shown(accuracies: Array) -> float:
    """Leaves out the few networks that hardly learned: they would squeeze all others into a line."""
    return float(np.percentile(accuracies, 5)) - 2


def costs(study: Study) -> Drawing | None:
    """Tau by what the passes cost; None where that is not known."""
    column = study.columns[study.judged_by[0]]
    known = [
        (name(one), seconds, by_column[column].tau)
        for one, by_column in study.rankings.items()
        for seconds in [study.seconds(one)]
        if len(one) == 1 and seconds is not None and not np.isnan(by_column[column].tau.value)
    ]
    if not any(seconds for _, seconds, _ in known):
        return None
    free = min(seconds for _, seconds, _ in known if seconds > 0) / 3
    drawing = Drawing(figsize=(8, 5))
    axes = drawing.subplots()
    points = [(own, max(seconds, free), tau) for own, seconds, tau in known]
    front = _front([(x, tau.value) for _, x, tau in points])
    axes.step(*zip(*front, strict=True), where="post", color="#bbbbbb", linewidth=1, zorder=1)
    for _, x, tau in points:
        around = np.maximum([[tau.value - tau.low], [tau.high - tau.value]], 0)
        colour = _COLOURS[1] if (x, tau.value) in front else _COLOURS[0]
        axes.errorbar(x, tau.value, yerr=around, fmt="o", markersize=4, linewidth=0.8, color=colour, alpha=0.8)
    for own, x, y in _apart(sorted(points, key=lambda point: (point[1], point[2].value) not in front)):
        axes.annotate(own, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("seconds a cell of the passes needed, median (leftmost: no pass at all)")
    axes.set_ylabel(f"Kendall's tau, {title(column)}")
    return drawing


def _front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points that no cheaper one beats, cheapest first."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return front


def _apart(points: Sequence[tuple[str, float, Figure]]) -> list[tuple[str, float, float]]:
    """Points whose names can be written without covering those of earlier ones."""
    placed: list[tuple[str, float, float]] = []
    for own, x, tau in points:
        clear = all(abs(np.log10(x / other)) > _WIDE or abs(tau.value - y) > _HIGH for _, other, y in placed)
        if clear:
            placed.append((own, x, tau.value))
    return placed
