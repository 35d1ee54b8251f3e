"""What a study found, as tables: for terminals, as Markdown, and as JSON."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from archscore._table import format_table
from archscore.study import _published
from archscore.study._rank_sums import Choice, RankSum
from archscore.study._ranking import Figure
from archscore.study._study import TOP, Study

_TITLES: Final = {
    "cifar10_test": "CIFAR-10",
    "cifar100_test": "CIFAR-100",
    "imagenet16_120_test": "ImageNet16-120",
    "cifar10_valid": "CIFAR-10, validation",
    "cifar100_valid": "CIFAR-100, validation",
    "imagenet16_120_valid": "ImageNet16-120, validation",
}


def title(column: str) -> str:
    """What people call an accuracy."""
    return _TITLES.get(column, column)


def name(one: Sequence[str]) -> str:
    """A proxy, or several that ranks are summed of."""
    return " + ".join(one)


def terminal(study: Study, choice: Choice | None) -> str:
    """Tables for a terminal."""
    columns = [study.columns[place] for place in study.judged_by]
    taus = [
        [name(one), *(_with_interval(by_column[column].tau) for column in study.columns), study.scored(one)]
        for one, by_column in study.rankings.items()
    ]
    parts = [
        f"Kendall's tau on {len(study.rows):,} cells, 95 % intervals",
        format_table([["proxy", *study.columns, "scored"], *taus]),
        f"Spearman's rho, and the regret of the {TOP} that rank highest",
        format_table(
            [
                ["proxy", *(f"rho, {column}" for column in columns), *(f"regret, {column}" for column in columns)],
                *([name(one), *_rhos_and_regrets(study, one, columns)] for one in study.rankings),
            ]
        ),
    ]
    if choice is not None:
        parts += [_choice_summary(choice), format_table([_choice_header(columns), *_choice_rows(choice)])]
    return "\n\n".join(parts)


def markdown(study: Study, choice: Choice | None, *, commands: Sequence[str], plots: Mapping[str, str]) -> str:
    """A section of Markdown.

    Args:
        study: what was found.
        choice: rank sums, if they were asked for.
        commands: how to get this.
        plots: paths by caption.
    """
    tests = [column for column in study.columns if column.endswith("_test")]
    others = [column for column in study.columns if column not in tests]
    parts = [_facts(study, commands)]
    for columns in filter(None, (tests, others)):
        parts.append(_taus(study, columns))
    parts.append(_details(study))
    if choice is not None:
        parts.append(_beyond(study, choice))
    parts += [f"![{caption}]({path})" for caption, path in plots.items()]
    return "\n\n".join(parts) + "\n"


def to_json(study: Study, choice: Choice | None) -> str:
    """All figures, on one line."""
    found: dict[str, Any] = {
        "cells": len(study.rows),
        "setting": study.file.setting.to_json(),
        "runs": study.file.runs,
        "pass_seconds": dict(study.pass_seconds),
        "rankings": [
            {
                "proxies": list(one),
                "scored": study.scored(one),
                "seconds": study.seconds(one),
                "accuracies": {column: asdict(ranking) for column, ranking in by_column.items()},
            }
            for one, by_column in study.rankings.items()
        ],
    }
    if choice is not None:
        found["rank_sums"] = asdict(choice)
    return json.dumps(_finite(found))


def _facts(study: Study, commands: Sequence[str]) -> str:
    setting, runs = study.file.setting, study.file.runs
    versions = "; ".join(
        dict.fromkeys(f"archscore {run['archscore']}, torch {run['torch']}, {run['device']}" for run in runs)
    )
    lines = [
        f"{len(study.rows):,} cells drawn at random without replacement from the 15,625 (seed {setting.seed}), scored "
        f"with {versions}. Config: `{json.dumps(dict(setting.config))}`.",
        "\n".join(["```sh", *commands, "```"]),
    ]
    if study.pass_seconds:
        total = math.fsum(seconds for row in study.rows for seconds in row.seconds.values())
        clocks = ", ".join(dict.fromkeys(run["seconds"] for run in runs if "seconds" in run))
        lines.insert(1, f"All {len(setting.proxies)} proxies took {total / 3600:.2f} hours {clocks}.")
    width = statistics.median(
        by_column[study.columns[place]].tau.high - by_column[study.columns[place]].tau.low
        for by_column in study.rankings.values()
        for place in study.judged_by
    )
    lines.append(
        "In brackets: 95 % intervals over the choice of cells, by the bootstrap "
        f"({study.resamples} resamples). That of a tau is {width:.2f} wide in the median: much smaller differences "
        f"mean nothing. Cells that a proxy gives no score rank below all others, tied among "
        f"themselves: {study.unscored['degenerate']:,} here are disconnected, and at most "
        f"{study.unscored['non_finite']:,} have a value that is not finite. They are counted, not left out."
    )
    return "\n\n".join(lines)


def _taus(study: Study, columns: Sequence[str]) -> str:
    published = tuple(columns) == _published.COLUMNS
    kind = "test accuracy" if published else "accuracy"
    lines = [f"### Kendall's tau with {kind}", ""]
    if published:
        lines += [f"Paper: {_published.SOURCE}.", ""]
    header = [own for column in columns for own in ((title(column), "paper") if published else (title(column),))]
    lines += _rows_of_table(
        ["proxy", *header],
        [
            [
                f"`{name(one)}`",
                *(
                    cell
                    for place, column in enumerate(columns)
                    for cell in (
                        _with_interval(by_column[column].tau),
                        *((_of_paper(one, place),) if published else ()),
                    )
                ),
            ]
            for one, by_column in study.rankings.items()
        ],
    )
    if published:
        lines += ["", _agreement(study)]
    return "\n".join(lines)


def _details(study: Study) -> str:
    columns = [study.columns[place] for place in study.judged_by]
    titles = [title(column) for column in columns]
    lines = [
        "### Spearman's rho, regret and cost",
        "",
        f"Regret: percentage points between the best accuracy among these cells and the best among the {TOP} that rank "
        "highest; of cells that tie, the worst counts as the higher. Seconds: median over the cells of the passes that "
        "the proxy needs, with all that these yield for other proxies.",
        "",
    ]
    header = ["proxy", *(f"rho, {own}" for own in titles), *(f"regret, {own}" for own in titles), "seconds", "scored"]
    rows = [
        [
            f"`{name(one)}`",
            *_rhos_and_regrets(study, one, columns),
            _seconds(study.seconds(one)),
            f"{study.scored(one):,}",
        ]
        for one in study.rankings
    ]
    return "\n".join([*lines, *_rows_of_table(header, rows)])


def _rhos_and_regrets(study: Study, one: tuple[str, ...], columns: Sequence[str]) -> list[str]:
    found = [study.rankings[one][column] for column in columns]
    return [
        *(_with_interval(ranking.rho) for ranking in found),
        *(_with_interval(ranking.regret, digits=2) for ranking in found),
    ]


def _beyond(study: Study, choice: Choice) -> str:
    columns = [study.columns[place] for place in study.judged_by]
    header, rows = _choice_header(columns), _choice_rows(choice)
    return "\n".join(
        [
            "### Beyond the paper: rank sums",
            "",
            _choice_summary(choice),
            "",
            *_rows_of_table(header, [[f"`{row[0]}`", *row[1:]] for row in rows]),
        ]
    )


def _choice_summary(choice: Choice) -> str:
    left_out = f" Left out, since they rank as others do: {', '.join(choice.left_out)}." if choice.left_out else ""
    return (
        f"{choice.candidates:,} rankings, by single proxies and by sums of the ranks of 2 to 4, were compared on "
        f"{choice.chosen_on:,} cells by their mean tau; below are the best of them on the other "
        f"{choice.judged_on:,}, in the order of the first half. Gain: mean tau over that of the best single proxy "
        f"of the first half, both on the second half.{left_out}"
    )


def _choice_header(columns: Sequence[str]) -> list[object]:
    return ["ranked by", "chosen with", *(title(column) for column in columns), "gain"]


def _choice_rows(choice: Choice) -> list[list[object]]:
    shown = [*choice.best, choice.single, *(own for own in choice.given if own not in choice.best)]
    return [_choice_row(own) for own in shown]


def _choice_row(own: RankSum) -> list[object]:
    gain = f"{own.gain.value:+.3f} [{own.gain.low:+.3f}, {own.gain.high:+.3f}]" if len(own.proxies) > 1 else "-"
    return [name(own.proxies), f"{own.chosen:.3f}", *(_with_interval(figure) for figure in own.taus), gain]


def _agreement(study: Study) -> str:
    """Says which proxies are further from the paper than sampling explains."""
    apart = [
        f"`{name(one)}` ({', '.join(f'{gap:+.2f}' for gap in gaps)})"
        for one in _published.TAU
        if one in study.rankings
        for gaps in [_gaps(study, one)]
        if max(map(abs, gaps)) > _published.CLOSE
    ]
    if not apart:
        return f"All of the paper's proxies are within {_published.CLOSE:.2f} of its figures."
    return f"Further than {_published.CLOSE:.2f} from the paper on some dataset (ours less theirs): {', '.join(apart)}."


def _gaps(study: Study, one: tuple[str, ...]) -> list[float]:
    by_column = study.rankings[one]
    return [
        round(by_column[column].tau.value, 2) - theirs
        for column, theirs in zip(_published.COLUMNS, _published.TAU[one], strict=True)
    ]


def _of_paper(one: tuple[str, ...], place: int) -> str:
    return f"{_published.TAU[one][place]:.2f}" if one in _published.TAU else ""


def _with_interval(figure: Figure, digits: int = 3) -> str:
    if math.isnan(figure.value):
        return "-"
    value, low, high = (f"{own:.{digits}f}" for own in (figure.value, figure.low, figure.high))
    return f"{value} [{low}, {high}]"


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f}"


def _rows_of_table(header: Sequence[object], rows: Sequence[Sequence[object]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(str(cell) for cell in line)} |" for line in lines]


def _finite(value: Any) -> Any:
    """The value with null for what is not a number, which JSON has no word for."""
    if isinstance(value, dict):
        return {key: _finite(own) for key, own in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(own) for own in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
