"""Where batches run.

The scheduler sees the `Pool` protocol alone. `archscore_server.pool.local` runs batches in worker processes of this
machine. Nothing here imports torch: that is the workers' business.
"""

from archscore_server.pool._base import (
    Batch,
    BatchFailedError,
    BatchReport,
    DeviceInfo,
    LossReason,
    Memory,
    OnResults,
    Pool,
    PoolInfo,
    PoolStartError,
    WorkerLostError,
)
from archscore_server.pool._observer import NullPoolObserver, PoolObserver

__all__ = [
    "Batch",
    "BatchFailedError",
    "BatchReport",
    "DeviceInfo",
    "LossReason",
    "Memory",
    "NullPoolObserver",
    "OnResults",
    "Pool",
    "PoolInfo",
    "PoolObserver",
    "PoolStartError",
    "WorkerLostError",
]
