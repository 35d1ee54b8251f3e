"""Verdicts on evaluations: the same as the predictions, one by one, and nobody waits for another's."""

import asyncio
import random
import threading
from dataclasses import replace

import pytest
from google.rpc import error_details_pb2

from archscore.spaces import nasbench201, zennas
from archscore_server import budget
from archscore_server.budget import Budget
from archscore_server.config import Limits
from archscore_server.engine import EvaluationConfig, Init, Precision, predicted_bytes
from archscore_server.engine.work import predicted_work
from archscore_server.pool import DeviceInfo, PoolInfo
from support.serving import details

CONFIG = EvaluationConfig()
GENOMES = replace(CONFIG, network=zennas.NetworkConfig())
CELLS = [nasbench201.from_index(index) for index in range(0, 15_000, 1_500)]


class Workers:
    """A pool of which nothing is known but its memory."""

    def __init__(self, memory_bytes: int = 2**40, stack_size: int = 1) -> None:
        self.info = PoolInfo("2", "1", (DeviceInfo("cpu", "puppet", 1, 1, memory_bytes),), stack_size=stack_size)


def limit_of(refusal: object) -> str | None:
    return refusal and details(refusal)[error_details_pb2.ErrorInfo].metadata["limit"]


@pytest.mark.parametrize("limit", ["max_bytes", "max_work"])
async def test_cells_are_judged_one_by_one_where_not_all_pass(limit):
    predict = {"max_bytes": predicted_bytes, "max_work": predicted_work}[limit]
    values = [predict(cell, ("tcet",), CONFIG) for cell in CELLS if cell.connected]
    most = sorted(values)[len(values) // 2]
    evaluations = [(cell, ("tcet",)) for cell in CELLS if cell.connected]
    refusals = await Budget(Limits(**{limit: most}), Workers()).refusals(evaluations, CONFIG)
    assert list(map(limit_of, refusals)) == [limit if value > most else None for value in values]
    assert None in refusals


async def test_proxies_are_judged_each_on_their_own():
    cell = CELLS[-1]
    most = predicted_bytes(cell, ("snip",), CONFIG)
    evaluations = [(cell, ("snip",)), (cell, ("grasp",)), (cell, ("snip",))]
    refusals = await Budget(Limits(max_bytes=most), Workers()).refusals(evaluations, CONFIG)
    assert list(map(limit_of, refusals)) == [None, "max_bytes", None]


async def test_memory_is_that_of_the_form_that_the_workers_stacks_have():
    largest = nasbench201.Cell(("nor_conv_3x3",) * 6)
    alone, stacked = (predicted_bytes(largest, ("naswot",), CONFIG, stack_size=size) for size in (1, 8))
    for stack_size, needed in ((1, alone), (8, stacked)):
        for most in (needed, needed - 1):
            asked = Budget(Limits(max_bytes=most), Workers(stack_size=stack_size))
            [refusal] = await asked.refusals([(largest, ("naswot",))], CONFIG)
            assert (refusal is None) == (most == needed)


@pytest.mark.parametrize(
    "dearer",
    [
        replace(CONFIG, batch_size=128),
        replace(CONFIG, resolution=64),
        replace(CONFIG, num_classes=10_000),
        replace(CONFIG, repeats=2),
        replace(CONFIG, precision=Precision.FLOAT64),
        replace(CONFIG, network=nasbench201.NetworkConfig(channels=32)),
    ],
)
async def test_what_passes_under_one_config_may_not_under_another(dearer):
    largest = nasbench201.Cell(("nor_conv_3x3",) * 6)
    limits = Limits(
        max_work=predicted_work(largest, ("tcet",), CONFIG), max_bytes=predicted_bytes(largest, ("tcet",), CONFIG)
    )
    asked = Budget(limits, Workers())
    assert await asked.refusals([(largest, ("tcet",))], CONFIG) == [None]
    assert await asked.refusals([(largest, ("tcet",))], replace(CONFIG, init=Init.NORMAL, seed=1)) == [None]
    assert await asked.refusals([(largest, ("tcet",))], dearer) != [None]
    assert await asked.refusals([(largest, ("tcet",))], CONFIG) == [None]


async def test_unknown_memory_bounds_nothing():
    assert await Budget(Limits(), Workers(0)).refusals([(zennas.START, ("tcet",))], GENOMES) == [None]


async def test_requests_take_turns_and_leave_the_event_loop_alone(monkeypatch):
    """A prediction does not end before the event loop has done something else; the short request overtakes."""
    go_on = threading.Semaphore(0)

    def predict(*_: object) -> int:
        assert go_on.acquire(timeout=10)
        return 0

    monkeypatch.setattr(budget, "predicted_work", predict)
    monkeypatch.setattr(budget, "_TURN", 0.0)
    rng = random.Random(0)
    many = [(zennas.START.mutate(rng), ("tcet",)) for _ in range(20)]
    asked = Budget(Limits(), Workers(0))
    large = asyncio.create_task(asked.refusals(many, GENOMES))
    small = asyncio.create_task(asked.refusals(many[:2], GENOMES))
    for _ in range(5):
        go_on.release()
    assert await asyncio.wait_for(small, 10) == [None] * 2
    assert not large.done()
    for _ in range(20):
        go_on.release()
    assert await asyncio.wait_for(large, 10) == [None] * 20
