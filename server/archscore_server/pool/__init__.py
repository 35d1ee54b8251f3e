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
    OnResults,
    Pool,
    PoolInfo,
    PoolStartError,
    WorkerLostError,
)

__all__ = [
    "Batch",
    "BatchFailedError",
    "BatchReport",
    "DeviceInfo",
    "LossReason",
    "OnResults",
    "Pool",
    "PoolInfo",
    "PoolStartError",
    "WorkerLostError",
]
