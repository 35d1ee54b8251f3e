"""The arithmetic that scores are defined in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from archscore_server.engine.config import ConfigError, Precision

#: Compute capability from which on NVIDIA's GPUs have TF32; those before compute in float32 instead, silently.
_TF32_CAPABILITY = (8, 0)


@contextmanager
def arithmetic(precision: Precision, device: torch.device) -> Iterator[None]:
    """Computes as a precision says, whatever the process prefers: no bfloat16, one algorithm a shape, TF32 if asked."""
    tf32 = precision is Precision.TF32
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        if device.type == "cuda":
            with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=tf32):
                yield
        else:
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def has_tf32(device: torch.device) -> bool:
    """Whether a device has TF32."""
    # (torch built for AMD's GPUs calls them cuda, too)
    return (
        device.type == "cuda"
        and torch.version.cuda is not None
        and torch.cuda.get_device_capability(device) >= _TF32_CAPABILITY
    )


def check(precision: Precision, device: torch.device) -> None:
    """Makes sure that a device has a precision: scores of one meaning must not come from other arithmetic.

    Raises:
        ConfigError: it has not.
    """
    if precision is Precision.TF32 and not has_tf32(device):
        raise ConfigError(
            "precision", f"there is no TF32 on this device ({device.type}): NVIDIA GPUs from Ampere on have it"
        )
