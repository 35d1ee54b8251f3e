"""How many CPU cores there are to use, and how workers share them."""

from __future__ import annotations

import os
from pathlib import Path


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that this process may use: those it is bound to, or fewer if its control group has a quota.

    Args:
        cgroup: where the kernel tells the quota and its period in microseconds, "max 100000" or "150000 100000".
    """
    bound = len(os.sched_getaffinity(0))
    try:
        quota, period = cgroup.read_text(encoding="ascii").split()
    except (OSError, ValueError):  # no control groups, or the first version of them
        return bound
    return bound if quota == "max" else max(1, min(bound, int(quota) // int(period)))


def default_split(cores: int) -> tuple[int, int]:
    """Workers on the CPU, and threads of each, where neither is asked for: small layers do not fill many threads."""
    return cores, 1


def split(cores: int, workers: int | None, threads: int | None) -> tuple[int, int]:
    """Workers on the CPU, and threads of each: what is asked for, and the rest so that all cores have work."""
    if workers is None and threads is None:
        return default_split(cores)
    if workers is None:
        workers = max(1, cores // (threads or 1))
    return workers, threads or max(1, cores // workers)
