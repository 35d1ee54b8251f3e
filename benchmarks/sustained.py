"""The service over ten thousand architectures: its throughput beside the engine's, and whether it stays as it began.

    python benchmarks/sustained.py --check --json docs/benchmarks/sustained-cpu.json

Small networks (4 channels, 1 cell a stage, 16 images), where what the service adds weighs most. Every thousand, the
service and the engine called directly in as many processes, prepared as workers are, score the same cells, one after
the other, and throughputs are compared by the median of the ratios. What an architecture costs at the end is compared
with the beginning by its ratio to the engine, which cancels the machine's moods; memory is that of the front end and
its workers together.

Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

from _report import environment, progress
from archscore import Client
from archscore.spaces import nasbench201
from overhead import address_of, archscore_process, cells

#: Least throughput beside the engine's, and how far what grows may be from 1, that --check allows.
THROUGHPUT_AT_LEAST, DRIFT_AT_MOST = 0.95, 0.10

PROXIES = ("tcet",)
CONFIG = {"batchSize": 16, "nasbench201": {"channels": 4, "cellsPerStage": 1}}
#: Architectures that a process of the engine is given at a time: so many that handing them over costs nothing.
CHUNK = 50
#: Parts of the run that are compared at its beginning and its end: a single one is at the mercy of the machine.
ENDS = 3


def _warm(threads: int) -> None:
    """Prepares a process as a worker prepares itself, its memory too: what is compared is the service alone."""
    import torch

    from archscore_server.pool._allocator import Allocator
    from archscore_server.pool._torch_engine import memory_bytes

    torch.set_num_threads(threads)
    Allocator(memory_bytes()).suit(large=False)
    _evaluate([nasbench201.SPACE.example])


def _evaluate(encodings: Sequence[str]) -> None:
    from archscore_server.engine import EvaluationConfig, evaluate

    network = nasbench201.NetworkConfig(channels=4, cells_per_stage=1)
    config = EvaluationConfig(batch_size=16, network=network)
    evaluate([nasbench201.parse(encoding) for encoding in encodings], PROXIES, config)


def resident_bytes(pid: int) -> int:
    """Memory of a process and of all that descend from it, each page once for each process that has it."""
    own = Path(f"/proc/{pid}")
    pages = int((own / "statm").read_text(encoding="ascii").split()[1])
    children = {
        int(child)
        for task in (own / "task").iterdir()
        for child in (task / "children").read_text(encoding="ascii").split()
    }
    return pages * 4096 + sum(resident_bytes(child) for child in children)


def measure(total: int, part: int, workers: int) -> list[dict[str, float]]:
    """For each part of the run: seconds of the service and of the engine, and the server's memory after it."""
    encodings = cells(total + 2 * CHUNK * workers, 0)
    warming, encodings = encodings[total:], encodings[:total]
    rows: list[dict[str, float]] = []
    with (
        ProcessPoolExecutor(workers, get_context("spawn"), _warm, (1,)) as pool,
        archscore_process("--workers", str(workers), "--threads", "1") as server,
        Client(address_of(server)) as client,
    ):

        def through_service(wanted: Sequence[str]) -> float:
            started = time.perf_counter()
            for result in client.score_many(wanted, PROXIES, space="nasbench201", config=CONFIG):
                if result.error:
                    raise result.error
            return time.perf_counter() - started

        def through_engine(wanted: Sequence[str]) -> float:
            started = time.perf_counter()
            list(pool.map(_evaluate, [wanted[start : start + CHUNK] for start in range(0, len(wanted), CHUNK)]))
            return time.perf_counter() - started

        through_service(warming)
        through_engine(warming)
        for start in range(0, total, part):
            wanted = encodings[start : start + part]
            sides = {"service": through_service, "engine": through_engine}
            order = list(sides) if len(rows) % 2 else list(reversed(sides))
            row = {name: sides[name](wanted) for name in order}
            rows.append({**row, "architectures": len(wanted), "resident_bytes": resident_bytes(server.pid)})
            progress(
                f"{start + len(wanted):,} of {total:,}: service {len(wanted) / row['service']:.1f}/s, "
                f"engine {len(wanted) / row['engine']:.1f}/s, {rows[-1]['resident_bytes'] / 2**20:.0f} MiB"
            )
    return rows


def summarise(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Throughputs, their ratio, and how cost and memory at the end compare with the beginning."""
    relative = [row["service"] / row["engine"] for row in rows]
    memory = [row["resident_bytes"] for row in rows]
    ends = min(ENDS, len(rows) // 2)
    return {
        "service_per_second": median(row["architectures"] / row["service"] for row in rows),
        "engine_per_second": median(row["architectures"] / row["engine"] for row in rows),
        "throughput": 1 / median(relative),
        "cost_last_over_first": median(relative[-ends:]) / median(relative[:ends]),
        "memory_last_over_first": memory[-1] / memory[0],
    }


def missed(summary: dict[str, float]) -> list[str]:
    """What is not as it must be."""
    found = [] if summary["throughput"] >= THROUGHPUT_AT_LEAST else ["throughput"]
    flat = ("cost_last_over_first", "memory_last_over_first")
    return found + [name for name in flat if not summary[name] <= 1 + DRIFT_AT_MOST]


def table(summary: dict[str, float]) -> str:
    """Markdown."""
    return "\n".join(
        [
            "| | | target |",
            "|---|---|---|",
            f"| service, architectures a second | {summary['service_per_second']:.1f} | |",
            f"| engine, architectures a second | {summary['engine_per_second']:.1f} | |",
            f"| service over engine | {summary['throughput']:.3f} | at least {THROUGHPUT_AT_LEAST} |",
            f"| cost, last over first | {summary['cost_last_over_first']:.3f} | at most {1 + DRIFT_AT_MOST:.2f} |",
            f"| memory, last over first | {summary['memory_last_over_first']:.3f} | at most {1 + DRIFT_AT_MOST:.2f} |",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, reports, and says whether the targets are reached."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--architectures", type=int, default=10_000, metavar="N")
    parser.add_argument("--part", type=int, default=1_000, metavar="N", help="architectures between two looks")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="one thread each")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured there")
    parser.add_argument("--check", action="store_true", help="exit 1 if a target is missed")
    options = parser.parse_args(argv)
    if options.architectures < 2 * options.part:
        parser.error("--architectures must be at least twice --part")
    rows = measure(options.architectures, options.part, options.workers)
    summary = summarise(rows)
    print(table(summary))
    if options.json:
        report: dict[str, Any] = {
            "environment": environment(workers=options.workers),
            "config": CONFIG,
            "summary": summary,
            "parts": rows,
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if not options.check:
        return 0
    for name in missed(summary):
        progress(f"missed: {name} is {summary[name]:.3f}")
    return int(bool(missed(summary)))


if __name__ == "__main__":
    sys.exit(main())
