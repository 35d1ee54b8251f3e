"""The arithmetic that scores are defined in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def ieee_float32(device: torch.device) -> Iterator[None]:
    """Computes in IEEE float32 inside, whatever the process prefers: no TF32, no bfloat16, one algorithm a shape."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        if device.type == "cuda":
            with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
                yield
        else:
            yield
    finally:
        torch.set_float32_matmul_precision(before)
