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


def share(cores: int, gpus: int, workers: int | None, threads: int | None) -> tuple[int, int]:
    """Workers, and threads of each: what is asked for, else one worker on each GPU, or as `split` says without any."""
    if not gpus:
        return split(cores, workers, threads)
    workers = workers or gpus
    return workers, threads or max(1, cores // workers)


def split(cores: int, workers: int | None, threads: int | None) -> tuple[int, int]:
    """Workers on the CPU, and threads of each: what is asked for, and the rest so that all cores have work."""
    if workers is None and threads is None:
        return default_split(cores)
    if workers is None:
        workers = max(1, cores // (threads or 1))
    return workers, threads or max(1, cores // workers)


def variables(threads: int) -> dict[str, str]:
    """What the environment of a process that computes must have before it loads torch."""
    return {
        # torch reads the number of threads when it loads; some of its libraries never ask again.
        "OMP_NUM_THREADS": str(threads),
        # Threads that wait for one another must sleep: spinning, they take the core that the other one needs, and on a
        # machine that does anything else besides an evaluation takes ten times as long.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
    }
