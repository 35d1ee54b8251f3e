"""Architectures per second of a worker pool on the CPU, for every way to share the cores among workers.

    python benchmarks/split_cores.py --json split.json

What `default_split` in `archscore_server.pool` rests on. All splits score the same cells in one run, taking turns; the
figures are medians over the repetitions. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from statistics import median

from archscore.spaces.nasbench201 import parse
from archscore_server.engine import EvaluationConfig
from archscore_server.pool import Batch
from archscore_server.pool._cores import usable_cores
from archscore_server.pool.local import LocalPool
from score_nasbench201 import CELLS

PROXIES = ("tcet",)


async def seconds(pool: LocalPool, batches: list[Batch]) -> float:
    """How long the pool takes for batches that all wait from the start."""
    started = time.perf_counter()
    await asyncio.gather(*(pool.run(batch, lambda _: None) for batch in batches))
    return time.perf_counter() - started


async def measure(splits: list[tuple[int, int]], repetitions: int) -> dict[tuple[int, int], list[float]]:
    """Architectures per second, by (workers, threads) and repetition."""
    pools = {split: LocalPool(device="cpu", workers=split[0], threads=split[1]) for split in splits}
    batches = [Batch((parse(cell),), PROXIES, EvaluationConfig()) for cell in CELLS]
    rates: dict[tuple[int, int], list[float]] = {split: [] for split in splits}
    try:
        for split, pool in pools.items():
            await pool.start()
            await seconds(pool, batches[: 2 * split[0]])
        for repetition in range(repetitions):
            for split, pool in pools.items():
                rates[split].append(len(batches) / await seconds(pool, batches))
                print(f"repetition {repetition + 1}: {split} {rates[split][-1]:.2f}/s", file=sys.stderr)
    finally:
        for pool in pools.values():
            await pool.stop()
    return rates


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured there")
    options = parser.parse_args()
    cores = usable_cores()
    splits = [(workers, cores // workers) for workers in range(1, cores + 1) if cores % workers == 0]
    rates = asyncio.run(measure(splits, options.repetitions))
    print(f"{cores} cores, {len(CELLS)} cells, {', '.join(PROXIES)}")
    for (workers, threads), own in rates.items():
        print(f"{workers} workers x {threads} threads: {median(own):.2f} architectures a second")
    if options.json:
        rows = [{"workers": split[0], "threads": split[1], "per_second": own} for split, own in rates.items()]
        options.json.write_text(json.dumps({"cores": cores, "cells": CELLS, "rates": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
