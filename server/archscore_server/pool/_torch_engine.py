"""What a worker evaluates with: the engine, on torch.

The front end imports this too, to name it to its workers: torch is imported where the engine is loaded.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from archscore.spaces import Architecture, nasbench201
from archscore_server import glibc
from archscore_server.engine import ArchitectureTooLargeError, Datasets, Evaluation, EvaluationConfig, kernels
from archscore_server.engine.memory import all_within
from archscore_server.engine.stack_sizes import DEFAULTS, Machine, StackSizes, Workload
from archscore_server.engine.statistics import Pass
from archscore_server.pool._allocator import Allocator
from archscore_server.pool._base import Memory
from archscore_server.pool._memory import of_host, resident
from archscore_server.pool._messages import Hello

_WARM_UP = EvaluationConfig(
    batch_size=2, resolution=8, network=nasbench201.NetworkConfig(channels=4, cells_per_stage=1)
)


_logger = logging.getLogger(__name__)


class TorchEngine:
    """The engine on one device of this process."""

    def __init__(
        self,
        device: str,
        threads: int,
        data_dir: Path | None,
        *,
        stack_size: int | None = None,
        cache_dir: Path | None = None,
    ) -> None:
        """Loads torch and warms up with one small evaluation.

        Args:
            device: "cpu" or "cuda". The pool lets a process see one GPU.
            threads: CPU threads of an operation.
            data_dir: directory with the real datasets.
            stack_size: networks evaluated side by side; None takes what was measured, or else what suits the device.
            cache_dir: where what was measured is kept, if anywhere.

        Raises:
            RuntimeError: there is no such device.
        """
        import numpy as np
        import torch

        from archscore_server.engine._numerics import has_tf32

        if device == "cpu" and not kernels.available():
            _logger.warning("no kernels for CPUs: the package was built without a C compiler, and takes longer")
        if device == "cuda" and not torch.cuda.is_available():
            raise RuntimeError(f"CUDA is not available: torch {torch.__version__} sees no GPU")
        torch.set_num_threads(threads)
        torch.set_num_interop_threads(1)
        self._device = device
        self._data = Datasets(data_dir)
        self._pass_seconds: defaultdict[str, float] = defaultdict(float)
        uuid = ""
        if device == "cuda":
            properties = torch.cuda.get_device_properties(0)
            memory = properties.total_memory
            uuid = str(getattr(properties, "uuid", ""))  # not in all versions of torch
        else:
            memory = memory_bytes()
        self._machine = machine(device, threads)
        self._stack_size = stack_size
        self._sizes = StackSizes.read(cache_dir) if stack_size is None else StackSizes()
        tuned = self._sizes.of(self._machine)
        _logger.debug("%d stack sizes were measured on this machine", len(tuned))
        self.hello = Hello(
            torch.__version__,
            np.__version__,
            device,
            self._machine.device_name,
            memory,
            uuid,
            tf32=has_tf32(torch.device(device)),
            stack_size=stack_size or max([DEFAULTS[device], *tuned]),
        )
        self._allocator = Allocator(memory) if device == "cpu" else None
        for _ in self.evaluate_stacks([nasbench201.parse(nasbench201.SPACE.example)], ["tcet"], _WARM_UP):
            pass

    def evaluate_stacks(
        self, architectures: Sequence[Architecture], proxies: Sequence[str], config: EvaluationConfig
    ) -> Iterator[Sequence[tuple[int, Evaluation | ArchitectureTooLargeError]]]:
        """Evaluates a batch, stack by stack."""
        from archscore_server.engine import evaluate_stacks

        stack_size = self._stack_size or self._sizes.find(self._machine, Workload.of(proxies, config))
        if self._allocator:
            limit = self._allocator.large
            within = all_within(architectures, proxies, config, limit, stack_size=stack_size or DEFAULTS["cpu"])
            self._allocator.suit(large=not within)
        self._pass_seconds.clear()
        if self._device == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats()
        return evaluate_stacks(
            architectures,
            proxies,
            config,
            data=self._data,
            device=self._device,
            stack_size=stack_size,
            on_pass=self._passed,
        )

    @property
    def pass_seconds(self) -> Mapping[str, float]:
        """Seconds that each pass took, by name, since the last batch began."""
        return self._pass_seconds

    def memory(self) -> Memory:
        """The memory in use."""
        if self._device != "cuda":
            used, size = of_host()
            return Memory(resident=resident(), device_used=used, device_size=size)
        import torch

        free, size = torch.cuda.mem_get_info()
        return Memory(
            resident=resident(),
            device_used=size - free,
            device_size=size,
            allocated=torch.cuda.max_memory_allocated(),
            reserved=torch.cuda.memory_reserved(),
        )

    def check(self) -> None:
        """Raises if the CUDA context is broken: such an error sticks until the process ends."""
        if self._device == "cuda":
            import torch

            torch.cuda.synchronize()

    def rest(self) -> None:
        """Gives back memory that torch and the C library keep for the next batch."""
        if self._device == "cuda":
            import torch

            torch.cuda.empty_cache()
        glibc.give_back()

    def _passed(self, name: Pass, seconds: float) -> None:
        self._pass_seconds[name.value] += seconds


def gpu_names() -> list[str]:
    """The GPUs that torch sees."""
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def machine(device: str, threads: int) -> Machine:
    """What computes on a device of this process, "cpu", "cuda" or "cuda:1"."""
    import torch

    kind = torch.device(device).type
    name = torch.cuda.get_device_name(device) if kind == "cuda" else _cpu_name()
    return Machine(
        device_kind=kind,
        device_name=name,
        threads=threads,
        torch_version=torch.__version__,
        kernels=kernels.chosen() if kind == "cpu" else "",
    )


def memory_bytes() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), os.uname().machine)
