"""The toolkit of T-CET's authors, `alethiometer` on PyPI, called the way its users call it.

It is not a dependency: `install` puts it into a directory of its own, `load` imports it from there. What its proxies
compute is left as it is. Its network must be contiguous (NCHW): its hooks call `view` on activations, which tensors in
channels_last order refuse.

Its seven proxies here run unpatched under torch 2 and NumPy 2. Only the import needs help: the package imports its data
sets, and with them torchvision, h5py and Pillow, which no proxy uses; an empty module takes their place.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

VERSION = "1.1.2"

# archscore's name -> the toolkit's. nwot_relu runs in eval mode where archscore's naswot runs in train mode, and the
# SNRs have the unbiased standard deviation: the work is the same, the values differ slightly.
PROXIES = {
    "grad_norm": "grad_norm",
    "snip": "snip",
    "synflow": "synflow",
    "naswot": "nwot_relu",
    "layerwise_naswot": "lnwot",
    "ssnr": "snr_snip_none",
    "tcet": "tcet_snip_none",
}

Score: TypeAlias = Callable[[nn.Module, Sequence[str], Tensor, Tensor], dict[str, float]]


def install(directory: Path) -> None:
    """Installs the toolkit into a directory, unless it is there; without its dependencies, see the module docstring."""
    if (directory / f"alethiometer-{VERSION}.dist-info").is_dir():
        return
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    patience = ["--retries", "1", "--timeout", "15"]  # a machine may have no network
    subprocess.run([*command, *patience, "--target", str(directory), f"alethiometer=={VERSION}"], check=True)


def load(directory: Path, device: str = "cpu") -> Score:
    """Imports the toolkit that `install` has put into a directory.

    Args:
        directory: where it is.
        device: where it is told to compute.

    Returns:
        A function (network, proxies, images, labels) -> values: it scores an NCHW network on that device with proxies,
        by archscore's names, in one call of the toolkit, on the minibatch images [B, 3, R, R] and labels [B].
    """
    datasets: Any = ModuleType("alethiometer.datasets")
    datasets.get_cifar_dataloaders = datasets.get_mnist_dataloaders = None
    sys.modules["alethiometer.datasets"] = datasets
    package = directory / "alethiometer"
    spec = importlib.util.spec_from_file_location(
        "alethiometer", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"no alethiometer in {directory}")
    toolkit = importlib.util.module_from_spec(spec)
    sys.modules["alethiometer"] = toolkit
    spec.loader.exec_module(toolkit)

    def score(network: nn.Module, proxies: Sequence[str], images: Tensor, labels: Tensor) -> dict[str, float]:
        loader = [(images, labels)]  # its users pass a DataLoader, of which it takes the first minibatch
        metrics = [PROXIES[proxy] for proxy in proxies]
        values = toolkit.calc_zc_metrics(metrics, network, loader, torch.device(device))
        return {proxy: float(values[metric]) for proxy, metric in zip(proxies, metrics, strict=True)}

    return score
