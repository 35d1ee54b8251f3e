"""What a search leaves on disk at its end: tables, plots and a summary."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from archscore.errors import UsageError
from archscore.search._checkpoint import write_atomically
from archscore.search._history import History, Ranked
from archscore.search._plots import plot_scores, plot_sizes

_INSTALL: Final = "pip install 'archscore[search]'"
_TEXT: Final = ("architecture", "outcome", "detail")


def write_results(history: History, directory: Path) -> list[str]:
    """Writes everything that can be written of a search.

    `summary.json` and `results.csv` always; `results.parquet` with pyarrow; `scores` and `sizes`, as .png and .svg,
    with matplotlib.

    Args:
        history: of the search.
        directory: where it goes; it is there already.

    Returns:
        What could not be written, and why, in words.
    """
    write_atomically(directory / "summary.json", json.dumps(summary(history), indent=1) + "\n")
    write_csv(history, directory / "results.csv")
    missing = []
    optional: tuple[tuple[str, Callable[[], object]], ...] = (
        ("results.parquet", lambda: write_parquet(history, directory / "results.parquet")),
        ("plots", lambda: write_plots(history, directory)),
    )
    for what, write in optional:
        try:
            write()
        except ImportError as error:
            missing.append(f"{what}: needs {error.name}, which {_INSTALL} installs")
        except UsageError as error:
            missing.append(f"{what}: {error}")
    return missing


def summary(history: History, best: int = 10) -> dict[str, Any]:
    """Settings, the best, and counts, as a JSON object.

    Args:
        history: of the search.
        best: how many of the best.
    """
    return {
        "settings": history.settings.to_json(),
        "best": [_entry(ranked) for ranked in history.ranking()[:best]],
        "evaluations": len(history.records),
        "outcomes": dict(history.outcomes),
        "rejected": history.rejected,
        "repeated": history.repeated,
        "exhausted": history.exhausted,
        "seconds": round(history.seconds, 3),
        "fingerprints": [{"from": index, **fingerprint} for index, fingerprint in history.fingerprints],
    }


def write_csv(history: History, path: Path) -> None:
    """Writes all evaluations in the order of the proposals, with a rank where there is one."""
    columns = table(history)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    write_atomically(path, text.getvalue())


def write_parquet(history: History, path: Path) -> None:
    """Writes the same table as Parquet, with the settings in its metadata.

    Raises:
        ImportError: pyarrow is not installed.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = table(history)
    proxies = {proxy for objective in history.objectives for proxy in objective.proxies}
    types = {
        name: pa.string() if name in _TEXT else pa.float64() if name in proxies or name == "fitness" else pa.int64()
        for name in columns
    }
    schema = pa.schema(list(types.items()), metadata={"archscore.search": json.dumps(history.settings.to_json())})
    draft = path.with_name(f"{path.name}.tmp")
    pq.write_table(pa.table(columns, schema=schema), draft)
    draft.replace(path)


def write_plots(history: History, directory: Path) -> None:
    """Draws `scores` and `sizes`, each as .png and .svg.

    Raises:
        ImportError: matplotlib is not installed.
        UsageError: nothing has a score.
    """
    for name, plot in (("scores", plot_scores), ("sizes", plot_sizes)):
        figure = plot(history)
        for suffix in ("png", "svg"):
            # Without a date, so that a search that is run again draws the same files.
            metadata = {"Date": None} if suffix == "svg" else None
            figure.savefig(directory / f"{name}.{suffix}", dpi=160, metadata=metadata)


def table(history: History) -> dict[str, list[Any]]:
    """The evaluations as columns. Fitness and rank, from 1, are those among the last stage."""
    ranked = {entry.record.index: (place, entry) for place, entry in enumerate(history.ranking(), start=1)}
    proxies = dict.fromkeys(proxy for objective in history.objectives for proxy in objective.proxies)
    columns: dict[str, list[Any]] = {}
    for record in history.records:
        place, entry = ranked.get(record.index, (None, None))
        has_score = entry is not None and entry.fitness > -math.inf
        row = {
            "index": record.index,
            "stage": record.stage,
            "architecture": record.architecture,
            "parent": record.parent,
            "parameters": record.measures.parameters,
            "flops": record.measures.flops,
            "layers": record.measures.layers,
            "sub_layers": record.measures.sub_layers,
            **{proxy: record.scores.get(proxy) for proxy in proxies},
            "fitness": entry.fitness if entry is not None and has_score else None,
            "rank": place if has_score else None,
            "outcome": record.outcome,
            "detail": record.detail,
        }
        for name, value in row.items():
            columns.setdefault(name, []).append(value)
    return columns


def scored(history: History) -> Iterator[Ranked]:
    """The records of the last stage that have a score, the best first."""
    return (entry for entry in history.ranking() if entry.fitness > -math.inf)


def _entry(ranked: Ranked) -> dict[str, Any]:
    fitness = ranked.fitness if math.isfinite(ranked.fitness) else None
    return {"fitness": fitness, **json.loads(ranked.record.to_line())}
