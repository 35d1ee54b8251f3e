"""What every benchmark reports besides its figures."""

from __future__ import annotations

import datetime
import platform
import sys
from typing import Any

import numpy as np
import torch

from archscore._version import __version__
from archscore.study._machine import cpu_model


def environment(**more: object) -> dict[str, Any]:
    """What figures depend on besides the code.

    Args:
        more: what else this benchmark's depend on.
    """
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": cpu_model(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "archscore": __version__,
        **more,
    }


def progress(message: str) -> None:
    """Tells whoever waits; stdout is for the result."""
    print(message, file=sys.stderr, flush=True)
