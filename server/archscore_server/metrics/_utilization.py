"""How busy GPUs are, as NVML says: NVIDIA's library, which comes with the driver.

Asked when the page is read, by its thread, so that a driver that hangs keeps nobody else waiting.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

_logger = logging.getLogger(__name__)


class Utilization(Collector):
    """Collects the utilisation of the pool's GPUs, as far as it can be had."""

    def __init__(self) -> None:
        """Knows of no GPUs."""
        self._gpus: dict[str, str] = {}
        self._nvml: Any = None
        self._loaded = False

    def watch(self, uuids: Sequence[str]) -> None:
        """Looks at these GPUs from now on."""
        self._gpus = {str(index): uuid for index, uuid in enumerate(uuids)}

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The family; without samples where nothing is known."""
        family = GaugeMetricFamily(
            "archscore_device_utilization_ratio",
            "Share of the last second, or less, in which a GPU was at work",
            labels=["device"],
        )
        if self._gpus and not self._loaded:
            self._load()
        if self._nvml:
            for device, uuid in self._gpus.items():
                ratio = self._ratio(uuid)
                if ratio is not None:
                    family.add_metric([device], ratio)
        yield family

    def _load(self) -> None:
        self._loaded = True
        try:
            import pynvml

            pynvml.nvmlInit()
        except Exception as error:  # noqa: BLE001 -- missing, or without a driver: it is not needed
            _logger.info("no utilisation of GPUs in metrics: %s", error)
        else:
            self._nvml = pynvml

    def _ratio(self, uuid: str) -> float | None:
        try:
            handle = self._nvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")
            return float(self._nvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100
        except Exception as error:  # noqa: BLE001 -- a part of a GPU has none, and a GPU may be lost
            _logger.debug("no utilisation of GPU %s: %s", uuid, error)
            return None
