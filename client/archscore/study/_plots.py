"""What a study found, drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure as Drawing
from scipy.stats import gaussian_kde, rankdata

from archscore.study import _published
from archscore.study._ranking import Array
from archscore.study._study import Study
from archscore.study._tables import name, title

_SCATTERED: Final = 4
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
            ("Kendall's tau by proxy", "tau.png", _taus(study)),
            ("Scores and accuracies of the cells", "scatter.png", _scatter(study)),
            ("Cost and Kendall's tau", "cost.png", _costs(study)),
        ):
            if drawing is not None:
                drawn[caption] = directory / file
                drawing.savefig(drawn[caption])
    return drawn


def _taus(study: Study) -> Drawing:
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
                [taus[_published.COLUMNS.index(column)] for taus, _ in theirs],
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


def _scatter(study: Study) -> Drawing:
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


def _costs(study: Study) -> Drawing | None:
    """Tau by what the passes cost; None where that is not known."""
    column = study.columns[study.judged_by[0]]
    found = [(one, study.seconds(one), study.rankings[one][column].tau) for one in study.rankings if len(one) == 1]
    known = [(one, seconds, tau) for one, seconds, tau in found if seconds is not None and not np.isnan(tau.value)]
    if not any(seconds for _, seconds, _ in known):
        return None
    free = min(seconds for _, seconds, _ in known if seconds > 0) / 3
    drawing = Drawing(figsize=(8, 5))
    axes = drawing.subplots()
    best: dict[float, float] = {}
    for one, seconds, tau in known:
        x = max(seconds, free)
        around = np.maximum([[tau.value - tau.low], [tau.high - tau.value]], 0)
        axes.errorbar(x, tau.value, yerr=around, fmt="o", markersize=4, linewidth=0.8, color=_COLOURS[0], alpha=0.7)
        if tau.value > best.get(x, -2.0):
            best[x] = tau.value
            labels = {own.get_gid(): own for own in axes.texts}
            if str(x) in labels:
                labels[str(x)].remove()
            axes.annotate(name(one), (x, tau.value), xytext=(5, 4), textcoords="offset points", fontsize=8, gid=str(x))
    axes.set_xscale("log")
    axes.set_xlabel("seconds a cell of the passes needed, median (leftmost: no pass at all)")
    axes.set_ylabel(f"Kendall's tau, {title(column)}")
    return drawing
