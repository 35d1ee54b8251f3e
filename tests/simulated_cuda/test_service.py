"""The service on a GPU, from the request to the metrics: two workers share the device."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from archscore import AsyncClient
from archscore_server.app import Server
from archscore_server.config import Settings
from archscore_server.engine import evaluate, kernels
from archscore_server.pool import PoolObserver, local
from archscore_server.pool.local import LocalPool
from simulated_cuda.test_engine import CELLS, CONFIG
from simulated_cuda.workers import load

ROOT = Path(__file__).parents[2]


async def test_cells_are_scored_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def probe_gpus() -> list[str]:
        return ["Simulated"]

    def make_pool(settings: Settings, observer: PoolObserver) -> LocalPool:
        return LocalPool(device="cuda", workers=2, threads=1, load=load, observer=observer)

    monkeypatch.setattr(local, "probe_gpus", probe_gpus)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(ROOT / own) for own in ("tests", "benchmarks")))
    with kernels.off():
        expected = evaluate(CELLS, ["tcet"], CONFIG, stack_size=3)
    server = Server(Settings(port=0, metrics_port=0), make_pool)
    async with asyncio.timeout(120):
        await server.start()
        try:
            async with AsyncClient(f"127.0.0.1:{server.port}") as client:
                info = await client.server_info()
                config = {"batchSize": 8, "resolution": 16, "nasbench201": {"channels": 4, "cellsPerStage": 1}}
                found = [own async for own in client.score_many(CELLS, ["tcet"], config=config)]
        finally:
            await server.stop()
    assert [(own.kind, own.name, own.workers) for own in info.devices] == [("cuda", "Simulated", 2)]
    for own, reference in zip(found, expected, strict=True):
        assert own.evaluation is not None, own.error
        assert own.evaluation.scores["tcet"].value == pytest.approx(reference.scores["tcet"].value, rel=1e-4)
    value = server.metrics.registry.get_sample_value
    assert value("archscore_device_memory_size_bytes", {"device": "0"}) == 2**34
    for name in ("train", "eval"):
        assert (value("archscore_compute_seconds_total", {"pass": name}) or 0) > 0
