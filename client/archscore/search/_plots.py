"""Plots of a search, with matplotlib: figures that belong to the caller, without any state of pyplot."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from archscore.errors import UsageError
from archscore.search._history import History, Ranked

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIZE: Final = (8.0, 4.5)
_DOTS: Final = "#7a9cc6"
_LINE: Final = "#c8553d"
_INK: Final = "#22303c"
_GRID: Final = "#e3e7ea"
_MARGIN: Final = 0.05
_TAIL: Final = 0.02
"""The share of the lowest scores that may lie below the axis, so that a few very bad ones do not flatten the rest."""


def plot_scores(history: History) -> Figure:
    """Score over evaluations, and the best so far.

    Raises:
        ImportError: matplotlib is not installed.
        UsageError: nothing has a score.
    """
    entries = _scored(history)
    numbers = [entry.record.index - history.stage_started + 1 for entry in entries]
    values = [_shown(history, entry.fitness) for entry in entries]
    better = min if _falls(history) else max
    best = list(itertools.accumulate(values, better))
    figure, axes = _figure()
    axes.scatter(numbers, values, s=9, color=_DOTS, alpha=0.55, linewidths=0, label="evaluation", rasterized=True)
    end = len(history.stage_records)
    axes.step([*numbers, end], [*best, best[-1]], where="post", color=_LINE, linewidth=1.8, label="best so far")
    improved = [place for place, value in enumerate(values) if not place or best[place] != best[place - 1]]
    axes.scatter(
        [numbers[place] for place in improved], [best[place] for place in improved], s=16, color=_LINE, zorder=3
    )
    axes.set_xlabel("evaluations")
    axes.set_xlim(0, end * 1.01 + 1)
    _finish(axes, history, values)
    return figure


def plot_sizes(history: History) -> Figure:
    """Score against parameters, with the Pareto front: more score for fewer parameters.

    Raises:
        ImportError: matplotlib is not installed.
        UsageError: nothing has a score.
    """
    from matplotlib.ticker import FuncFormatter

    entries = _scored(history)
    figure, axes = _figure()
    parameters = [entry.record.measures.parameters for entry in entries]
    values = [_shown(history, entry.fitness) for entry in entries]
    dots = axes.scatter(
        parameters,
        values,
        c=[entry.record.index - history.stage_started + 1 for entry in entries],
        cmap="viridis",
        s=11,
        alpha=0.7,
        linewidths=0,
        rasterized=True,
    )
    front = pareto_front(entries)
    axes.plot(
        [entry.record.measures.parameters for entry in front],
        [_shown(history, entry.fitness) for entry in front],
        drawstyle="steps-post",
        color=_LINE,
        linewidth=1.8,
        marker="o",
        markersize=4,
        label="Pareto front",
    )
    axes.set_xlabel("parameters")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _count(value)))
    bar = figure.colorbar(dots, ax=axes, pad=0.02, label="evaluation")
    bar.outline.set_visible(False)
    if bar.solids is not None:
        bar.solids.set_alpha(1)
    _finish(axes, history, values)
    return figure


def pareto_front(entries: Sequence[Ranked]) -> list[Ranked]:
    """Those that no other beats in score with as few parameters, from the smallest up."""
    front: list[Ranked] = []
    by_size = sorted(entries, key=lambda entry: (entry.record.measures.parameters, -entry.fitness, entry.record.index))
    for entry in by_size:
        if not front or entry.fitness > front[-1].fitness:
            front.append(entry)
    return front


def _scored(history: History) -> list[Ranked]:
    """The records of the last stage that have a score, in the order of the proposals."""
    entries = [entry for entry in history.ranking() if entry.fitness > -math.inf]
    if not entries:
        raise UsageError("there is nothing to draw: no architecture has a score")
    return sorted(entries, key=lambda entry: entry.record.index)


def _falls(history: History) -> bool:
    """Whether less of what is drawn is better."""
    objective = history.objective
    return not objective.is_rank_sum and not objective.higher_is_better[objective.proxies[0]]


def _shown(history: History, fitness: float) -> float:
    """A fitness as it is drawn: a score with its own sign."""
    return -fitness if _falls(history) else fitness


def _figure() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_INK)
    axes.tick_params(colors=_INK)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _finish(axes: Axes, history: History, values: Sequence[float]) -> None:
    """Axis of the scores, title and legend."""
    settings, objective = history.settings, history.objective
    proxies = " + ".join(objective.proxies)
    axes.set_ylabel(f"rank sum of {proxies}" if objective.is_rank_sum else proxies, color=_INK)
    falls = _falls(history)
    ordered = sorted(values, reverse=falls)
    worst, best = ordered[int(_TAIL * len(ordered))], ordered[-1]
    notes = [f"{settings.strategy.name}, seed {settings.seed}"]
    if settings.constraints.limits:
        notes.append(str(settings.constraints))
    if history.failures:
        notes.append(f"{history.failures:,} without a score")
    if not math.isclose(worst, best):
        limits = worst - _MARGIN * (best - worst), best + _MARGIN * (best - worst)
        axes.set_ylim(*sorted(limits))
        beyond = sum(not min(limits) <= value <= max(limits) for value in values)
        if beyond:
            notes.append(f"{beyond:,} {'higher' if falls else 'lower'} ones not shown")
    axes.set_title(f"{settings.space}: " + "; ".join(notes), loc="left", fontsize=10, color=_INK)
    axes.legend(facecolor="white", edgecolor="none", framealpha=0.8, loc="upper right" if falls else "lower right")


def _count(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"
