"""Memory as predicted against memory as spent, on random architectures, proxies and configs.

    python benchmarks/memory_sweep.py --draws 200 --check --json docs/benchmarks/memory-cpu.json

Each draw is a random cell or genome, with the proxies of one pass, a random handful or all of them, in a random config.
Spent are the bytes of tensors that are alive at once, at most, as torch's dispatcher sees them. A prediction must
never be below, and at most a fifth above.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from _report import environment, progress
from _tensors import peak_bytes
from archscore.spaces import SPACES, Architecture, nasbench201, zennas
from archscore_server.engine import EvaluationConfig, Init, Precision, passes, predicted_bytes
from archscore_server.engine import proxies as registry
from archscore_server.engine.networks import build
from archscore_server.engine.statistics import Pass

#: What --check allows: predicted over spent, at most.
MOST = 1.2

#: Genomes are the start of the search after up to so many mutations, and below so many FLOPs: a draw takes seconds.
_MUTATIONS, _MOST_FLOPS = 12, 100_000_000


@dataclass(frozen=True, slots=True)
class Draw:
    """One point of the sweep."""

    space: str
    architecture: Architecture
    proxies: list[str]
    config: EvaluationConfig


def draw(rng: random.Random) -> Draw:
    """A random connected architecture with proxies and config."""
    space = rng.choice(sorted(SPACES))
    if space == "nasbench201":
        network: Any = nasbench201.NetworkConfig(channels=rng.choice([4, 8, 16]), cells_per_stage=rng.randint(1, 3))
        architecture: Any = nasbench201.sample(rng)
        while not architecture.connected:
            architecture = nasbench201.sample(rng)
    else:
        network = zennas.NetworkConfig(residual_links=rng.random() < 0.5)
        architecture = genome(rng)
    config = EvaluationConfig(
        batch_size=rng.choice([2, 7, 16, 40]),
        resolution=rng.choice([16, 32]),
        num_classes=rng.choice([2, 10, 120]),
        seed=rng.randrange(1000),
        init=rng.choice(list(Init)),
        precision=rng.choice([Precision.FLOAT32, Precision.FLOAT64]),
        network=network,
    )
    own = rng.choice(list(Pass))
    proxies = rng.choice(
        [
            [name for name in registry.names() if own in registry.get(name).passes],
            rng.sample(registry.names(), rng.randint(1, 6)),
            registry.names(),
        ]
    )
    if all(registry.get(name).static for name in proxies):
        proxies = [*proxies, "tcet"]
    return Draw(space, architecture, proxies, config)


def genome(rng: random.Random) -> zennas.Genome:
    """A random genome near the start of the search."""
    found = zennas.START
    for _ in range(rng.randint(0, _MUTATIONS)):
        mutant = found.mutate(rng)
        if mutant.size(zennas.NetworkConfig(), resolution=32, num_classes=10).flops <= _MOST_FLOPS:
            found = mutant
    return found


def spent_bytes(drawn: Draw) -> int:
    """What evaluating it really takes."""
    needs = list(dict.fromkeys(need for name in drawn.proxies for need in registry.get(name).needs))

    def run() -> None:
        stack = build([drawn.architecture], [drawn.config.seed], drawn.config, torch.device("cpu"))
        passes.run(stack, needs, drawn.config)

    return peak_bytes(run)


def holds(predicted: int, spent: int) -> bool:
    """Whether a prediction is not below what was spent, and not far above."""
    return spent <= predicted <= MOST * spent


def measure(draws: int, seed: int) -> list[dict[str, Any]]:
    """Predictions and truths."""
    rng = random.Random(seed)
    found = []
    for number in range(draws):
        drawn = draw(rng)
        predicted, spent = predicted_bytes(drawn.architecture, drawn.proxies, drawn.config), spent_bytes(drawn)
        found.append(
            {
                "space": drawn.space,
                "encoding": drawn.architecture.format(),
                "proxies": drawn.proxies,
                "batch_size": drawn.config.batch_size,
                "resolution": drawn.config.resolution,
                "precision": drawn.config.precision.value,
                "predicted": predicted,
                "spent": spent,
                "ratio": round(predicted / spent, 4),
            }
        )
        progress(f"draw {number + 1} of {draws}: {predicted / spent:.3f}")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, reports, and says whether every prediction holds."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--draws", type=int, default=200, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured there")
    parser.add_argument("--check", action="store_true", help="exit 1 if a prediction is too low or too high")
    options = parser.parse_args(argv)
    found = measure(options.draws, options.seed)
    ratios = sorted(one["ratio"] for one in found)
    wrong = [one for one in found if not holds(one["predicted"], one["spent"])]
    print(f"predicted over spent on {len(found)} draws: {ratios[0]} to {ratios[-1]}, median {median(ratios):.3f}")
    for one in wrong:
        print(f"too low, or too high: {json.dumps(one)}")
    if options.json:
        options.json.write_text(
            json.dumps({"environment": environment(), "seed": options.seed, "draws": found}, indent=1) + "\n",
            encoding="utf-8",
        )
    return int(options.check and bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
