"""Searches ZenNAS by several proxies: what each finds within 1M parameters, and what the others think of it.

    python benchmarks/search_zennas.py --output searches --json docs/benchmarks/search-zennas.json --document

Elimination search with the budget of the CIFAR experiments (1M parameters, 18 sub-layers, both with residual links),
by each proxy and seed; `random` is the same search by scores that say nothing. All genomes found are then scored by all
proxies. A run that was cut off goes on where it was; --extend keeps the searches of an earlier report by other proxies,
and --costs says beforehand how long it will take. No network is trained.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from _report import environment, progress
from archscore import Evaluation, Result
from archscore._requests import Architecture, Config
from archscore.search import Constraints, Elimination, History, Scorer, Settings, run_search
from archscore.spaces import zennas
from archscore.v1 import scoring_pb2
from archscore_server.engine.proxies import get
from archscore_server.scorer import EngineScorer

PROXIES = ("tcet_log", "ssnr", "zico", "zen", "naswot", "synflow", "te_score")
RANDOM = "random"
_ORDER = (*PROXIES, RANDOM)

_ROOT = Path(__file__).resolve().parents[1]
_PAGE = _ROOT / "docs" / "results-search.md"
_PLOT = _ROOT / "docs" / "images" / "search-zennas.png"
_BEGIN, _END = "<!-- begin: written by benchmarks/search_zennas.py -->", "<!-- end -->"
_DECADES = 1e3
"""Scores that differ by more are drawn on a logarithmic axis."""
_WITH_LINKS = zennas.NetworkConfig(residual_links=True)
_BUDGET = Constraints(
    max_parameters=zennas.CIFAR_BUDGET.max_parameters, max_sub_layers=zennas.CIFAR_BUDGET.max_sub_layers
)


class RandomScorer:
    """Scores genomes without looking at them, each as often as asked the same; an `archscore.search.Scorer`."""

    def __init__(self, seed: int) -> None:
        """Scores of another seed are others."""
        self._seed = seed

    def proxies(self) -> list[scoring_pb2.Proxy]:
        """`random` alone."""
        return [scoring_pb2.Proxy(name=RANDOM, direction=scoring_pb2.DIRECTION_HIGHER_IS_BETTER)]

    def score_many(
        self,
        architectures: Iterable[Architecture],
        proxies: str | Iterable[str],
        *,
        space: str | None = None,
        config: Config | None = None,
        chunk_size: int = 1,
        max_in_flight: int = 1,
        ordered: bool = True,
    ) -> Generator[Result, None, None]:
        """Scores between 0 and 1, in order, whatever else is asked."""
        del proxies, space, config, chunk_size, max_in_flight, ordered
        for position, architecture in enumerate(architectures):
            encoding = architecture if isinstance(architecture, str) else architecture.format()
            value = random.Random(f"{self._seed} {encoding}").random()
            score = scoring_pb2.ProxyScore(proxy=RANDOM, value=value, outcome=scoring_pb2.OUTCOME_OK)
            yield Result(position, architecture, Evaluation(scoring_pb2.Evaluation(scores=[score])), None)


def settings(proxy: str, seed: int, options: argparse.Namespace) -> Settings:
    """The search by a proxy."""
    return Settings(
        space=zennas.SPACE.name,
        evaluations=options.evaluations,
        proxies=(proxy,),
        strategy=Elimination(),
        constraints=_BUDGET,
        seed=seed,
        batch=options.batch,
        config=options.config,
    )


def searched(scorer: Scorer, proxy: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Searches by a proxy, or takes up the search that is there; what it found."""
    name = f"{proxy}-seed{seed}"

    def report(_record: object, history: History) -> None:
        count = len(history.records)
        if count % 50 == 0 or count == options.evaluations:
            best = history.best
            value = "no score yet" if best is None else f"{best.scores[proxy]:.6g}"
            progress(f"{name}: {count}/{options.evaluations}, best {value}, {history.seconds:.0f} s")

    history = run_search(
        scorer, settings(proxy, seed, options), directory=options.output / name, resume=True, on_record=report
    )
    best = history.best
    if best is None:
        raise RuntimeError(f"{name}: no genome has a score")
    return {
        "by": proxy,
        "seed": seed,
        "genome": best.architecture,
        "found_at": best.index + 1,
        "curve": list(_improvements(history, proxy)),
        "outcomes": dict(history.outcomes),
        "rejected": history.rejected,
        "seconds": round(history.seconds, 1),
    }


def _improvements(history: History, proxy: str) -> Iterator[tuple[int, float]]:
    """The evaluations, from 1, that were better than all before, and their scores."""
    sign = 1 if proxy == RANDOM or get(proxy).higher_is_better else -1
    best = -math.inf
    for record in history.records:
        value = record.scores[proxy]
        if value is not None and sign * value > best:
            best = sign * value
            yield record.index + 1, value


def described(found: Mapping[str, Any]) -> dict[str, Any]:
    """What was found, and how large it is with residual links."""
    genome = zennas.parse(found["genome"])
    size = genome.size(_WITH_LINKS, resolution=32, num_classes=10)
    return {**found, "parameters": size.parameters, "flops": size.flops, "sub_layers": genome.sub_layers}


def scores(
    scorer: EngineScorer, genomes: Sequence[str], proxies: Sequence[str], config: Mapping[str, Any]
) -> list[dict[str, float | None]]:
    """Scores of genomes by proxies; None where there is none."""
    if not proxies:
        return [{} for _ in genomes]
    found = []
    results = scorer.score_many(genomes, proxies, space=zennas.SPACE.name, config=config, chunk_size=1, max_in_flight=1)
    for number, result in enumerate(results, start=1):
        if result.error is not None:
            raise result.error
        assert result.evaluation is not None
        found.append({proxy: score.value for proxy, score in result.evaluation.scores.items()})
        progress(f"scored {number}/{len(genomes)} of the genomes found")
    return found


def ranks(scored: Sequence[Mapping[str, float | None]], proxy: str) -> list[float]:
    """The rank of each genome by a proxy, 1 being the best; ties share the mean of theirs."""
    sign = 1 if get(proxy).higher_is_better else -1
    values = [-math.inf if own[proxy] is None else sign * float(own[proxy] or 0.0) for own in scored]
    return [
        sum(other > value for other in values) + (sum(other == value for other in values) + 1) / 2 for value in values
    ]


def kept(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The searches of an earlier report by proxies that are not searched by now.

    Raises:
        ValueError: they were others than these would have been.
    """
    earlier = json.loads(options.json.read_text(encoding="utf-8"))
    for name, own in (
        ("config", options.config),
        ("evaluations", options.evaluations),
        ("batch", options.batch),
        ("constraints", _BUDGET.limits),
    ):
        if earlier[name] != own:
            raise ValueError(f"the earlier searches have other {name}: {earlier[name]}")
    return [own for own in earlier["found"] if own["by"] not in options.proxies]


def costs(scorer: EngineScorer, options: argparse.Namespace) -> dict[str, float]:
    """CPU seconds that an evaluation takes, mean over random genomes within the budget."""
    rng = random.Random(0)
    genomes = [zennas.sample(rng) for _ in range(options.costs)]
    found = {}
    for proxy in (proxy for proxy in options.proxies if proxy != RANDOM):
        list(scorer.score_many(genomes[:1], proxy, config=options.config))
        before = time.process_time()
        for result in scorer.score_many(genomes, proxy, config=options.config):
            if result.error is not None:
                raise result.error
        found[proxy] = round((time.process_time() - before) / len(genomes), 3)
        progress(f"{proxy}: {found[proxy]:.3f} s")
    return found


def markdown(report: Mapping[str, Any]) -> str:
    """The tables of a report."""
    found = report["found"]
    names = list(dict.fromkeys(own["by"] for own in found))
    proxies = [name for name in names if name != RANDOM]
    by_proxy = {proxy: ranks(report["scores"], proxy) for proxy in proxies}
    lines = [
        f"| found by | {' | '.join(proxies)} | parameters | MFLOPs | sub-layers |",
        "|---" * (len(proxies) + 4) + "|",
    ]
    for name in names:
        rows = [row for row, own in enumerate(found) if own["by"] == name]
        cells = [_mean(by_proxy[proxy][row] for row in rows) for proxy in proxies]
        own = [found[row] for row in rows]
        sizes = (
            ", ".join(f"{each['parameters']:,}" for each in own),
            ", ".join(f"{each['flops'] / 1e6:.0f}" for each in own),
            ", ".join(str(each["sub_layers"]) for each in own),
        )
        lines.append(f"| {name} | {' | '.join(cells)} | {' | '.join(sizes)} |")
    lines += ["", "| found by | seed | evaluation | score | genome |", "|---|---|---|---|---|"]
    for own in found:
        score = own["curve"][-1][1]
        lines.append(f"| {own['by']} | {own['seed']} | {own['found_at']} | {score:.6g} | `{own['genome']}` |")
    return "\n".join(lines)


def _mean(values: Iterator[float]) -> str:
    numbers = list(values)
    return f"{sum(numbers) / len(numbers):.1f}"


def document(report: Mapping[str, Any]) -> None:
    """Puts tables and plot of a report into the documentation."""
    before, _, rest = _PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not end:
        raise RuntimeError(f"{_PAGE} has no place for the tables: {_BEGIN} ... {_END}")
    tables = f"{_BEGIN}\n\n![What each search found]({_PLOT.relative_to(_PAGE.parent)})\n\n{markdown(report)}\n\n"
    _PAGE.write_text(f"{before}{tables}{_END}{after}", encoding="utf-8")
    draw(report, _PLOT)


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Draws the curves of all searches, and the ranks that proxies give to what the others found."""
    from matplotlib.figure import Figure

    found = report["found"]
    names = list(dict.fromkeys(own["by"] for own in found))
    proxies = [name for name in names if name != RANDOM]
    columns = 3
    rows = math.ceil((len(names) + 1) / columns)
    figure = Figure(figsize=(3.1 * columns, 2.7 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for proxy, axes in zip(names, panels, strict=False):
        for own in (each for each in found if each["by"] == proxy):
            numbers, values = zip(*own["curve"], strict=True)
            axes.step(
                [*numbers, report["evaluations"]],
                [*values, values[-1]],
                where="post",
                linewidth=1.8,
                label=f"seed {own['seed']}",
            )
        spread = [abs(value) for own in found if own["by"] == proxy for _, value in own["curve"]]
        if min(spread) > 0 and max(spread) > _DECADES * min(spread):
            axes.set_yscale("log")
        axes.set_title(f"{proxy}, best so far", loc="left", fontsize=10)
        axes.set_xlabel("evaluations")
        axes.grid(color="#e3e7ea", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    for axes in panels[len(names) + 1 :]:
        axes.set_axis_off()
    by_proxy = {proxy: ranks(report["scores"], proxy) for proxy in proxies}
    grid = [
        [_mean_rank(by_proxy[proxy], [row for row, own in enumerate(found) if own["by"] == name]) for proxy in proxies]
        for name in names
    ]
    axes = panels[len(names)]
    axes.imshow(grid, cmap="viridis_r", aspect="auto", vmin=1, vmax=len(found))
    for row, line in enumerate(grid):
        for column, rank in enumerate(line):
            dark = rank > len(found) / 2
            axes.text(column, row, f"{rank:.0f}", ha="center", va="center", fontsize=7, color="w" if dark else "k")
    axes.set_xticks(range(len(proxies)), proxies, rotation=60, fontsize=8, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_title("rank by (across) of found by (down)", loc="left", fontsize=10)
    figure.savefig(path, dpi=130)


def _mean_rank(own: Sequence[float], rows: Sequence[int]) -> float:
    return sum(own[row] for row in rows) / len(rows)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=Path("searches"), metavar="DIR", help="where searches are kept")
    parser.add_argument("--proxies", default=",".join(_ORDER), metavar="A,B", help="(default: %(default)s)")
    parser.add_argument("--evaluations", type=int, default=1000, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--seeds", default="0,1", metavar="A,B", help="of the searches (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="of the searches (default: %(default)s)")
    parser.add_argument("--config", type=json.loads, default={}, metavar="JSON", help="an EvaluationConfig")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N", help="of torch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--costs", type=int, metavar="N", help="only measure, on N genomes, what an evaluation takes")
    parser.add_argument("--extend", action="store_true", help="keep what the file of --json has by other proxies")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    parser.add_argument("--document", action="store_true", help=f"write {_PAGE.relative_to(_ROOT)} and its plot")
    options = parser.parse_args(argv)
    if options.extend and not options.json:
        parser.error("--extend goes with --json")
    options.proxies = options.proxies.split(",")
    options.seeds = [int(seed) for seed in options.seeds.split(",")]
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Searches, scores what was found, reports."""
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    scorer = EngineScorer(device=options.device)
    if options.costs:
        measured = costs(scorer, options)
        total = sum(measured.values()) * options.evaluations * len(options.seeds)
        print(json.dumps({"cpu_seconds_per_evaluation": measured, "cpu_hours_of_all": round(total / 3600, 1)}))
        return 0
    earlier = kept(options) if options.extend else []
    # Seed by seed, so that a run that is cut off has all proxies of the first.
    found = [
        described(searched(RandomScorer(seed) if proxy == RANDOM else scorer, proxy, seed, options))
        for seed in options.seeds
        for proxy in options.proxies
    ]
    found += earlier
    order = list(dict.fromkeys([*PROXIES, *(own["by"] for own in found)]))
    found.sort(key=lambda own: (own["by"] == RANDOM, order.index(own["by"])))
    by = [name for name in dict.fromkeys(own["by"] for own in found) if name != RANDOM]
    report = {
        "environment": environment(device=options.device),
        "config": options.config,
        "evaluations": options.evaluations,
        "batch": options.batch,
        "constraints": _BUDGET.limits,
        "found": found,
        "scores": scores(scorer, [own["genome"] for own in found], by, options.config),
    }
    print(markdown(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if options.document:
        document(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
