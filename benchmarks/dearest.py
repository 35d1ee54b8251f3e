"""The dearest networks that the limits let in: what they take in memory and time, against what is predicted.

    python benchmarks/dearest.py --memory 12000000000 --steps 30 --check --json docs/benchmarks/dearest-cpu.json

Looks for the genomes and the cells of most work and of most memory that a server with the default limits admits on a
CPU, for `tcet` in the default config: every kind of block in many widths, each as deep as the limits allow, and from
the best of them on by mutation. Each is then evaluated in a process of its own. Spent are the bytes of tensors that are
alive at once, at most, as torch's dispatcher sees them, what the process grew by, and the time of its cores, which
other processes do not lengthen as they do the seconds. `--memory` is a worker's share of the machine's. `--scale`
lowers the limits on parameters, FLOPs and work, and the memory, to a part.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from _report import environment, progress
from _tensors import peak_bytes
from archscore.spaces import SPACES, NetworkError, nasbench201, zennas
from archscore_server.admission import MAX_WORK
from archscore_server.config import Limits
from archscore_server.engine import EvaluationConfig, init, passes, predicted_bytes
from archscore_server.engine import proxies as registry
from archscore_server.engine.memory import LARGEST_CELL, USABLE_MEMORY, all_within
from archscore_server.engine.networks import build
from archscore_server.engine.work import predicted_work
from archscore_server.pool._allocator import Allocator

PROXIES = ("tcet",)

_WIDTHS = (8, 32, 64, 128, 256, 512, 1024, 2048, 4096)
_STRIDES = (1, 2)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An architecture in the default config, but for its network."""

    space: str
    architecture: Any
    config: EvaluationConfig

    @property
    def work(self) -> int:
        """Multiply-accumulates, as predicted."""
        return predicted_work(self.architecture, PROXIES, self.config)

    @property
    def bytes(self) -> int:
        """Bytes of memory, as predicted."""
        return predicted_bytes(self.architecture, PROXIES, self.config)

    @property
    def size(self) -> Any:
        """Parameters, FLOPs and layers."""
        config = self.config
        return self.architecture.size(config.network, resolution=config.resolution, num_classes=config.num_classes)


@dataclass(frozen=True, slots=True)
class Room:
    """What is let in: the limits of a server, and the memory of a worker."""

    limits: Limits
    available: int

    @classmethod
    def of(cls, scale: float, memory: int) -> Room:
        """The default limits and a part of a memory; that part of those that are about how much is computed."""
        limits = Limits(max_work=MAX_WORK["cpu"])
        scaled = ("max_parameters", "max_flops", "max_work")
        part = {name: max(1, int(getattr(limits, name) * scale)) for name in scaled}
        return cls(replace(limits, **part), int(memory * USABLE_MEMORY * scale))

    def admits_size(self, candidate: Candidate) -> bool:
        """Whether a network keeps to all limits but the one on memory, which takes longer to tell."""
        try:
            size = candidate.size
        except NetworkError:
            return False
        limits = self.limits
        return bool(
            len(candidate.architecture.format()) <= limits.max_encoding_length
            and size.parameters <= limits.max_parameters
            and size.flops <= limits.max_flops
            and size.layers <= limits.max_layers
            and candidate.work <= (limits.max_work or 0)
        )

    def admits(self, candidate: Candidate) -> bool:
        """Whether a network keeps to all limits."""
        return self.admits_size(candidate) and candidate.bytes <= self.available


Measure = Callable[[Candidate], int]

#: What can be dear.
MEASURES: dict[str, Measure] = {"work": lambda one: one.work, "memory": lambda one: one.bytes}


def genome(*blocks: zennas.Block) -> Candidate:
    """A genome in the default config."""
    return Candidate("zennas", zennas.Genome(blocks), EvaluationConfig(network=zennas.NetworkConfig()))


def deep_genome(kind: str, width: int, middle: int, stride: int, depth: int) -> Candidate:
    """A genome of one kind of block: a stem that widens, then sub-layers that are all alike."""
    stem = zennas.Block("SuperConvK1BNRELU", zennas.IMAGE_CHANNELS, width, stride, None, 1)
    bottleneck = None if zennas.KINDS[kind].family == "conv" else middle
    return genome(stem, zennas.Block(kind, width, width, 1, bottleneck, depth))


def families() -> Iterator[Callable[[int], Candidate]]:
    """Genomes by depth: every kind of block in many shapes."""
    for kind in zennas.KINDS:
        conv = zennas.KINDS[kind].family == "conv"
        for width in _WIDTHS:
            for middle in (width,) if conv else (max(8, width // 4), width, 4 * width):
                for stride in _STRIDES:

                    def of_depth(
                        depth: int, kind: str = kind, width: int = width, middle: int = middle, stride: int = stride
                    ) -> Candidate:
                        return deep_genome(kind, width, middle, stride, depth)

                    yield of_depth


def deepest(family: Callable[[int], Candidate], admits: Callable[[Candidate], bool], most: int) -> Candidate | None:
    """The deepest member of a family, of so many sub-layers at most, that is let in; None if none is."""
    least, beyond = 0, most + 1
    while beyond - least > 1:
        middle = (least + beyond) // 2
        if admits(family(middle)):
            least = middle
        else:
            beyond = middle
    return family(least) if least else None


def dearest_genome(room: Room, measure: Measure, rng: random.Random, steps: int) -> Candidate:
    """The dearest genome that is let in: the dearest that can be constructed, then the best of its mutants."""
    shallow = [(family, deepest(family, room.admits_size, room.limits.max_layers)) for family in families()]
    # Those that could be dearest first: what they would take if memory were no matter.
    hopeful = sorted(((one.work, number) for number, (_, one) in enumerate(shallow) if one), reverse=True)
    best, best_cost = None, -1
    for _, number in hopeful[:200]:
        family, bound = shallow[number]
        if bound is None or (measure is MEASURES["work"] and measure(bound) <= best_cost):
            continue
        depth = bound.architecture.blocks[1].sub_layers
        found = bound if room.admits(bound) else deepest(family, room.admits, depth)
        if found and measure(found) > best_cost:
            best, best_cost = found, measure(found)
    if best is None:
        raise SystemExit("no genome is let in: try a larger --scale")
    for _ in range(steps):
        mutant = replace(best, architecture=mutated(best.architecture, rng))
        if room.admits(mutant) and measure(mutant) > best_cost:
            best, best_cost = mutant, measure(mutant)
    return best


def mutated(found: zennas.Genome, rng: random.Random) -> zennas.Genome:
    """A genome that is a little larger in one place, and perhaps smaller in another."""
    blocks = list(found.blocks)
    place = rng.randrange(len(blocks))
    block = blocks[place]
    change = rng.choice(["out", "middle", "deeper", "another"])
    if change == "out":
        width = max(8, round(block.out_channels * rng.choice([0.8, 0.95, 1.05, 1.25])))
        blocks[place] = replace(block, out_channels=width)
        if place + 1 < len(blocks):
            blocks[place + 1] = replace(blocks[place + 1], in_channels=width)
    elif change == "middle" and block.bottleneck is not None:
        blocks[place] = replace(block, bottleneck=max(8, round(block.bottleneck * rng.choice([0.8, 0.95, 1.05, 1.25]))))
    elif change == "deeper":
        blocks[place] = replace(block, sub_layers=max(1, block.sub_layers + rng.choice([-1, 1, 2])))
    else:
        last = blocks[-1].out_channels
        width = rng.choice([8, 64, last])
        blocks.append(zennas.Block(f"SuperConvK{rng.choice([1, 3, 5, 7])}BNRELU", last, width, 1, None, 1))
    return zennas.Genome(tuple(blocks))


def dearest_cell(room: Room, measure: Measure) -> Candidate:
    """The largest cell, in the widest and deepest network that is let in."""
    found = []
    for cells_per_stage in range(1, room.limits.max_cells_per_stage + 1):

        def of_width(channels: int, cells_per_stage: int = cells_per_stage) -> Candidate:
            network = nasbench201.NetworkConfig(channels=channels, cells_per_stage=cells_per_stage)
            return Candidate("nasbench201", LARGEST_CELL, EvaluationConfig(network=network))

        widest = deepest(of_width, room.admits, room.limits.max_channels)
        if widest:
            found.append(widest)
    if not found:
        raise SystemExit("no cell is let in: try a larger --scale")
    return max(found, key=measure)


def evaluate(space: str, encoding: str, network: dict[str, int], threads: int, memory: int) -> dict[str, Any]:
    """What evaluating a network really takes. To be run in a process of its own, on a machine of so much memory."""
    torch.set_num_threads(threads)
    made = replace(SPACES[space].network, **network)
    config = EvaluationConfig(network=made)
    architecture: Any = SPACES[space].parse(encoding)
    needs = list(dict.fromkeys(need for name in PROXIES for need in registry.get(name).needs))

    def run(architecture: Any, config: EvaluationConfig) -> None:
        stack = build([architecture], [config.seed], config, torch.device("cpu"))
        passes.run(stack, needs, config)

    small = replace(config, batch_size=2, network=SPACES[space].network)
    run(SPACES[space].parse(SPACES[space].example), small)  # what the libraries take themselves is there now
    allocator = Allocator(memory)
    allocator.suit(large=not all_within([architecture], PROXIES, config, allocator.large))  # as a worker does
    before = _resident_peak()
    started, cores_started = time.perf_counter(), time.process_time()
    tensors = peak_bytes(lambda: run(architecture, config))
    return {
        "tensor_bytes": tensors,
        "resident_growth_bytes": _resident_peak() - before,
        "seconds": time.perf_counter() - started,
        "core_seconds": time.process_time() - cores_started,
    }


def _resident_peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured(candidate: Candidate, threads: int, memory: int) -> dict[str, Any]:
    """A candidate's figures: predicted, and from a process that evaluates it."""
    size = candidate.size
    network = {name: getattr(candidate.config.network, name) for name in candidate.config.network.__dataclass_fields__}
    encoding = candidate.architecture.format()
    argument = json.dumps([candidate.space, encoding, network, threads, memory])
    done = subprocess.run([sys.executable, __file__, "--evaluate", argument], stdout=subprocess.PIPE, check=True)
    return {
        "space": candidate.space,
        "encoding": encoding,
        "network": network,
        "encoding_length": len(encoding),
        "parameters": size.parameters,
        "flops": size.flops,
        "layers": size.layers,
        "predicted_bytes": candidate.bytes,
        "predicted_work": candidate.work,
        **json.loads(done.stdout),
    }


def exceeded(figures: dict[str, Any]) -> list[str]:
    """What of a measurement is over its prediction.

    A process may grow by more than its tensors: by the part of memory that predictions leave free, and by the streams
    that weights are drawn from. (Weights and minibatches themselves are not kept while tensors are measured.)
    """
    predicted = figures["predicted_bytes"]
    bounds = {
        "tensor_bytes": predicted,
        "resident_growth_bytes": int(predicted / USABLE_MEMORY) + init.CACHE_BYTES,
    }
    return [f"{name} {figures[name]:,} over {most:,}" for name, most in bounds.items() if figures[name] > most]


def report(found: dict[str, dict[str, Any]]) -> str:
    """The figures as a table."""
    columns = (
        ("encoding_length", "length", 1),
        ("parameters", "10^6 parameters", 1e6),
        ("flops", "10^9 FLOPs", 1e9),
        ("layers", "layers", 1),
        ("predicted_bytes", "predicted MiB", 2**20),
        ("tensor_bytes", "tensors MiB", 2**20),
        ("resident_growth_bytes", "process MiB", 2**20),
        ("predicted_work", "10^12 work", 1e12),
        ("seconds", "seconds", 1),
        ("core_seconds", "seconds of a core", 1),
    )
    lines = ["| | " + " | ".join(title for _, title, _ in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, figures in found.items():
        cells = (
            f"{figures[key]:,}" if unit == 1 and not key.endswith("seconds") else f"{figures[key] / unit:,.4g}"
            for key, _, unit in columns
        )
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Searches, measures, reports, and says whether anything was over its prediction."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--scale", type=float, default=1.0, metavar="PART", help="of limits and memory; default: 1")
    parser.add_argument("--memory", type=int, metavar="BYTES", help="a worker's; default: this machine's")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--steps", type=int, default=300, metavar="N", help="mutations that are tried")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured there")
    parser.add_argument("--check", action="store_true", help="exit 1 if anything takes more than predicted")
    parser.add_argument("--evaluate", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.evaluate:
        print(json.dumps(evaluate(*json.loads(options.evaluate))))
        return 0
    memory = options.memory or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    room = Room.of(options.scale, memory)
    found = {}
    for name, measure in MEASURES.items():
        progress(f"the genome of most {name}")
        candidate = dearest_genome(room, measure, random.Random(options.seed), options.steps)
        progress(f"{candidate.architecture.format()[:200]}: {candidate.work:.3g} multiply-accumulates")
        found[f"genome of most {name}"] = measured(candidate, options.threads, int(options.scale * memory))
    progress("the largest cell in the largest network")
    largest = dearest_cell(room, MEASURES["work"])
    found["cell in the largest network"] = measured(largest, options.threads, int(options.scale * memory))
    print(f"{options.scale:g} of the default limits, {room.available:,} bytes of memory, {options.threads} threads")
    print(report(found))
    over = [f"{name}: {line}" for name, figures in found.items() for line in exceeded(figures)]
    print("\n".join(over) or "nothing is over its prediction")
    if options.json:
        limits = {name: getattr(room.limits, name) for name in Limits.__dataclass_fields__}
        written = {
            "environment": environment(threads=options.threads),
            "scale": options.scale,
            "available_bytes": room.available,
            "limits": limits,
            "networks": found,
        }
        options.json.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    return int(options.check and bool(over))


if __name__ == "__main__":
    sys.exit(main())
