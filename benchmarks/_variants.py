"""Proxies under other configs and by other definitions than the default: what an ablation measures.

For NAS-Bench-201 alone. Definitions follow the papers' formulas, and settings those that the authors' programs have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from _scores import keep, score
from archscore.spaces.nasbench201 import EDGES, Cell, NetworkConfig
from archscore.study._rows import Scores
from archscore_server.engine import Datasets, EvaluationConfig, Init, Outcome, _numerics
from archscore_server.engine.data import dataset_of, minibatch, rng
from archscore_server.engine.networks import Mode, build
from archscore_server.engine.observation import Observation
from references import tangent_kernel

Definition = Callable[[Cell, EvaluationConfig, Datasets | None], float]
"""A score of a connected cell."""

#: Images of CIFAR-10 and CIFAR-100, as the data directory names them.
CIFAR10, CIFAR100 = "npz:cifar10_sample1024", "npz:cifar100_sample1024"

#: Nearly the 72 images that TE-NAS takes its kernel of.
_KERNEL_IMAGES = 64

#: What TE-NAS counts linear regions with: three minibatches of images of one channel, 3x3.
_REGION_MINIBATCHES, _REGION_SIDE = 3, 3


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to score cells that is not the default.

    Attributes:
        name: of its file of scores.
        what: how it differs from the default, in words.
        proxies: what is scored.
        config: what else scores depend on.
        definition: how the one proxy is computed, if not by the engine's definition.
    """

    name: str
    what: str
    proxies: tuple[str, ...]
    config: EvaluationConfig
    definition: Definition | None = None

    def score(self, cells: Sequence[Cell], directory: Path, data: Datasets | None) -> list[Scores]:
        """Scores of cells, kept in a file of the directory."""
        path = directory / f"{self.name}.jsonl"
        if self.definition is None:
            return score(cells, self.proxies, self.config, path=path, data=data)
        definition, (proxy,) = self.definition, self.proxies

        def evaluations(missing: Sequence[Cell]) -> Iterator[tuple[Cell, Scores]]:
            for cell in missing:
                yield cell, {proxy: _outcome(definition, cell, self.config, data)}

        setting = {"config": asdict(self.config), "proxies": {proxy: definition.__name__}}
        return keep(cells, setting, evaluations, path=path)


def _outcome(definition: Definition, cell: Cell, config: EvaluationConfig, data: Datasets | None) -> float | str:
    if not cell.connected:
        return Outcome.DEGENERATE.value
    value = definition(cell, config, data)
    return value if math.isfinite(value) else Outcome.NON_FINITE.value


def naswot_eval(cell: Cell, config: EvaluationConfig, data: Datasets | None) -> float:
    """NASWOT with codes from an eval-mode forward, as the toolkit of T-CET's authors has it."""
    device = torch.device("cpu")
    images = minibatch(config, config.seed, 0, dataset_of(config, data)).images
    with _numerics.arithmetic(config.precision, device), torch.no_grad():
        stack = build([cell], [config.seed], config, device)
        observed = Observation(stack, relus=True)
        inputs = torch.from_numpy(images.copy()).contiguous(memory_format=torch.channels_last)
        stack.forward(inputs, stack.weights(torch.float32), Mode.EVAL, observed)
    return float(observed.logdet_relus()()[0])


def larger_kernel(cell: Cell, config: EvaluationConfig, data: Datasets | None) -> float:
    """Condition number of the tangent kernel of 64 images, not 16."""
    del data
    network = config.network
    assert isinstance(network, NetworkConfig)
    return tangent_kernel.condition_number(
        cell,
        batched=False,
        channels=network.channels,
        cells_per_stage=network.cells_per_stage,
        batch_size=config.batch_size,
        resolution=config.resolution,
        num_classes=config.num_classes,
        seed=config.seed,
        images=_KERNEL_IMAGES,
    )


def thin_regions(cell: Cell, config: EvaluationConfig, data: Datasets | None) -> float:
    """Linear regions as TE-NAS counts them: of one cell alone, with one channel, on 3x3 images; mean over seeds."""
    del data
    return float(np.mean([_thin_regions(cell, config.batch_size, seed) for seed in config.seeds]))


@torch.no_grad()
def _thin_regions(cell: Cell, batch_size: int, seed: int) -> int:
    kernels = [_kernel(operation, rng(seed, k)) for k, operation in enumerate(cell.operations)]
    rows = []
    for number in range(_REGION_MINIBATCHES):
        images = rng(seed, 1_000_000 + number).standard_normal((batch_size, 1, _REGION_SIDE, _REGION_SIDE))
        codes: list[Tensor] = []
        nodes = [torch.from_numpy(images)]
        for target in (1, 2, 3):
            edges = (
                (nodes[source], operation, kernel)
                for (source, own), operation, kernel in zip(EDGES, cell.operations, kernels, strict=True)
                if own == target
            )
            nodes.append(sum((_edge(*edge, codes) for edge in edges), torch.zeros_like(nodes[0])))
        codes.append(_normalised(nodes[-1]) > 0)
        rows.append(torch.cat([code.flatten(1) for code in codes], dim=1))
    return len(np.unique(np.packbits(torch.cat(rows).numpy(), axis=1), axis=0))


def _kernel(operation: str, generator: np.random.Generator) -> Tensor | None:
    """Weights of an edge with one channel, kaiming_normal."""
    sides = {"nor_conv_1x1": 1, "nor_conv_3x3": 3}
    if operation not in sides:
        return None
    side = sides[operation]
    return torch.from_numpy(generator.standard_normal((1, 1, side, side)) * math.sqrt(2 / side**2))


def _edge(x: Tensor, operation: str, kernel: Tensor | None, codes: list[Tensor]) -> Tensor:
    """What an edge puts out; adds the code of its ReLU, if it has one."""
    if kernel is not None:
        codes.append(x > 0)
        return _normalised(F.conv2d(x.relu(), kernel, padding=kernel.shape[-1] // 2))
    if operation == "avg_pool_3x3":
        return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    return x if operation == "skip_connect" else torch.zeros_like(x)


def _normalised(x: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, training=True)


def variants(default: EvaluationConfig) -> list[Variant]:
    """All that are measured, in the order in which they are scored.

    Args:
        default: the config that they differ from.
    """
    four = ("naswot", "layerwise_naswot", "ssnr", "tcet")
    kernel = ("ntk_condition_number",)
    real = replace(default, dataset=CIFAR10)
    shallow = replace(default, network=NetworkConfig(16, 1))
    tiny = replace(default, network=NetworkConfig(3, 1), repeats=3)
    torch_init = replace(default, init=Init.PYTORCH)
    return [
        Variant("cifar10", "CIFAR-10 images", four, real),
        Variant("cifar10-grasp", "CIFAR-10 images", ("grasp",), real),
        Variant("tiny-ntk", "C = 3, N = 1, 3 seeds", kernel, tiny),
        Variant("tiny-cifar10-ntk", "C = 3, N = 1, 3 seeds, CIFAR-10 images", kernel, replace(tiny, dataset=CIFAR10)),
        Variant(
            "thin-regions",
            "one cell, one channel, 3,000 images of 3x3, 3 seeds",
            ("linear_regions",),
            replace(default, batch_size=1000, repeats=3),
            thin_regions,
        ),
        Variant("naswot-eval", "eval mode", ("naswot",), default, naswot_eval),
        Variant("cifar10-naswot-eval", "eval mode, CIFAR-10 images", ("naswot",), real, naswot_eval),
        Variant("cifar100", "CIFAR-100 images", four, replace(default, dataset=CIFAR100, num_classes=100)),
        Variant("seed1", "seed 1", four, replace(default, seed=1)),
        Variant("pytorch", "PyTorch's init", four, torch_init),
        Variant("pytorch-grasp", "PyTorch's init", ("grasp",), torch_init),
        Variant("seed2", "seed 2", four, replace(default, seed=2)),
        Variant("cifar10-seed1-grasp", "CIFAR-10 images, seed 1", ("grasp",), replace(real, seed=1)),
        Variant(
            "cifar10-pytorch-grasp", "CIFAR-10 images, PyTorch's init", ("grasp",), replace(real, init=Init.PYTORCH)
        ),
        Variant(
            "cifar10-pytorch-seed1-grasp",
            "CIFAR-10 images, PyTorch's init, seed 1",
            ("grasp",),
            replace(real, init=Init.PYTORCH, seed=1),
        ),
        Variant(
            "cifar100-pytorch-grasp",
            "CIFAR-100 images, PyTorch's init",
            ("grasp",),
            replace(default, dataset=CIFAR100, num_classes=100, init=Init.PYTORCH),
        ),
        Variant("shallow", "N = 1", (*four, "grasp"), shallow),
        Variant("shallow-ntk", "N = 1", kernel, shallow),
        Variant("cifar10-ntk", "CIFAR-10 images", kernel, real),
        Variant(
            "tiny-large-ntk",
            "C = 3, N = 1, 64 images",
            kernel,
            replace(tiny, repeats=1),
            larger_kernel,
        ),
        Variant("batch32", "batch 32", four, replace(default, batch_size=32)),
        Variant(
            "cifar10-batch128",
            "batch 128, CIFAR-10 images",
            ("naswot", "layerwise_naswot"),
            replace(real, batch_size=128),
        ),
    ]
