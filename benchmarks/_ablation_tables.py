"""The tables that `ablations.py` writes, from its report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from archscore.spaces.nasbench201 import NUM_CELLS
from archscore.study._published import COLUMNS, TAU

_SUMMARISED = (
    "CIFAR-10 images",
    "CIFAR-100 images",
    "train mode",
    "kernel: C = 3, N = 1, 3 seeds",
    "regions: one cell",
)
"""How the names of variants begin that the summary is about."""


def markdown(report: Mapping[str, Any]) -> str:
    """The tables of a report."""
    tables = [_summary(report["rows"], report["samples"]), *_variant_tables(report["rows"])]
    tables += [_sample_table(report["samples"]), _whole_table(report["whole_space"])]
    if report["published"]:
        tables.append(_published_table(report["published"]))
    return "\n\n".join(tables)


def _summary(found: Sequence[Mapping[str, Any]], sampled: Sequence[Mapping[str, Any]]) -> str:
    """Tau by the default on all cells of the study, and what the difference of a variant makes of it."""
    count = sampled[0]["cells"]
    by_default = {tuple(own["row"]): [figures["value"] for figures in own["tau"]["all"].values()] for own in sampled}
    lines = [
        "### In short",
        "",
        f"Kendall's tau on {' / '.join(_titles())}. With it: tau of the default on the {count} cells of the study,",
        "plus what the variant changed on the cells that have both. Gap: ours less the paper's.",
        "",
        f"| row | paper | default, {count} cells | gap | variant | with it | gap |",
        "|---|---|---|---|---|---|---|",
    ]
    for own in found:
        target = tuple(own["row"])
        if not own["variant"].startswith(_SUMMARISED):
            continue
        default = by_default[target]
        differences = [figure["difference"]["value"] for figure in own["tau"].values()]
        changed = [value + difference for value, difference in zip(default, differences, strict=True)]
        paper = TAU[target]
        lines.append(
            f"| {_code(target)} | {_three(paper, '.2f')} | {_three(default)} | {_gap(default, paper)} "
            f"| {own['variant']}, {own['cells']} cells | {_three(changed)} | {_gap(changed, paper)} |"
        )
    return "\n".join(lines)


def _three(values: Sequence[float], form: str = ".3f") -> str:
    return " / ".join(f"{value:{form}}" for value in values)


def _gap(ours: Sequence[float], theirs: Sequence[float]) -> str:
    return _three([own - other for own, other in zip(ours, theirs, strict=True)], "+.2f")


def _variant_tables(found: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    for target in dict.fromkeys(tuple(own["row"]) for own in found):
        lines = [
            f"### {_code(target)}",
            "",
            f"| variant | cells |{''.join(f' {name} | difference |' for name in _titles())}",
            "|---" * (2 + 2 * len(COLUMNS)) + "|",
        ]
        paper = "".join(f" {value:.2f} | |" for value in TAU[target])
        lines.append(f"| paper | {NUM_CELLS:,} |{paper}")
        own_rows = [own for own in found if tuple(own["row"]) == target]
        for count in sorted({own["cells"] for own in own_rows}, reverse=True):
            same = [own for own in own_rows if own["cells"] == count]
            default = "".join(f" {figure['default']:.3f} | |" for figure in same[0]["tau"].values())
            lines.append(f"| default | {count} |{default}")
            for own in same:
                figures = "".join(
                    f" {figure['tau']:.3f} | {_difference(figure['difference'])} |" for figure in own["tau"].values()
                )
                lines.append(f"| {own['variant']} | {count} |{figures}")
        yield "\n".join(lines)


def _sample_table(found: Sequence[Mapping[str, Any]]) -> str:
    count = found[0]["cells"]
    lines = [
        "### The sample",
        "",
        f"The default config on the {count} cells that the study had, and on the first and second half of them alone.",
        "",
        f"| proxy |{''.join(f' {name}: paper | all | halves |' for name in _titles())}",
        "|---" * (1 + 3 * len(COLUMNS)) + "|",
    ]
    for own in found:
        figures = ""
        for column, paper in zip(COLUMNS, TAU[tuple(own["row"])], strict=True):
            whole, first, second = (own["tau"][part][column] for part in ("all", "first half", "second half"))
            figures += (
                f" {paper:.2f} | {whole['value']:.3f} [{whole['low']:.3f}, {whole['high']:.3f}] |"
                f" {first['value']:.3f}, {second['value']:.3f} |"
            )
        lines.append(f"| {_code(own['row'])} |{figures}")
    return "\n".join(lines)


def _whole_table(found: Mapping[str, Mapping[str, float]]) -> str:
    lines = [
        "### All cells",
        "",
        f"The default config on all {NUM_CELLS:,} cells, as far as that was computed. There is no sample to err. With",
        "test accuracies, as in Table 1, and with validation accuracies.",
        "",
        f"| proxy |{''.join(f' {name}: paper | test | validation |' for name in _titles())}",
        "|---" * (1 + 3 * len(COLUMNS)) + "|",
    ]
    for proxy, own in found.items():
        figures = ""
        for column, paper in zip(COLUMNS, TAU[(proxy,)], strict=True):
            validation = own.get(column.replace("_test", "_valid"))
            figures += f" {paper:.2f} | {own[column]:.3f} | {'' if validation is None else f'{validation:.3f}'} |"
        lines.append(f"| `{proxy}` |{figures}")
    return "\n".join(lines)


def _published_table(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    counts = sorted({figure["cells"] for own in found.values() for figure in own.values()})
    lines = [
        "### Scores of others",
        "",
        f"Scores that were published with NASLib, of its own {' or '.join(map(str, counts))} cells, on images of",
        "the dataset of each column.",
        "",
        f"| proxy |{''.join(f' {name}: paper | NASLib |' for name in _titles())}",
        "|---" * (1 + 2 * len(COLUMNS)) + "|",
    ]
    for proxy, own in found.items():
        figures = "".join(
            f" {paper:.2f} | {own[column]['value']:.3f} [{own[column]['low']:.3f}, {own[column]['high']:.3f}] |"
            for column, paper in zip(COLUMNS, TAU[(proxy,)], strict=True)
        )
        lines.append(f"| `{proxy}` |{figures}")
    return "\n".join(lines)


def _code(target: Sequence[str]) -> str:
    return f"`{' + '.join(target)}`"


def _titles() -> Sequence[str]:
    return "CIFAR-10", "CIFAR-100", "ImageNet16-120"


def _difference(figure: Mapping[str, float]) -> str:
    return f"{figure['value']:+.3f} [{figure['low']:+.3f}, {figure['high']:+.3f}]"
