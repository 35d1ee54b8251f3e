"""Work as predicted: what counts, and what it is a multiple of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from archscore.spaces import nasbench201
from archscore_server.engine import EvaluationConfig, Precision, proxies
from archscore_server.engine.statistics import Pass
from archscore_server.engine.work import _FORWARDS, predicted_work
from puppets import cell

CELL = cell(6111)
DISCONNECTED = nasbench201.parse("|nor_conv_1x1~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|")
CONFIG = EvaluationConfig()


def test_every_pass_has_a_cost() -> None:
    assert set(_FORWARDS) == set(Pass)
    assert all(predicted_work(CELL, [name], CONFIG) > 0 for name in proxies.names() if not proxies.get(name).static)


def test_what_needs_no_device_costs_nothing() -> None:
    assert predicted_work(CELL, ["flops", "parameters"], CONFIG) == 0
    assert predicted_work(DISCONNECTED, ["tcet"], CONFIG) == 0
    assert predicted_work(CELL, ["no_such_proxy"], CONFIG) == 0


@pytest.mark.parametrize(
    "dearer",
    [
        replace(CONFIG, batch_size=128),
        replace(CONFIG, repeats=2),
        replace(CONFIG, resolution=64),
        replace(CONFIG, precision=Precision.FLOAT64),
        replace(CONFIG, network=nasbench201.NetworkConfig(channels=32)),
    ],
)
def test_what_takes_longer_costs_more(dearer: EvaluationConfig) -> None:
    assert predicted_work(CELL, ["tcet"], dearer) > 1.5 * predicted_work(CELL, ["tcet"], CONFIG)


def test_passes_that_proxies_share_count_once() -> None:
    assert predicted_work(CELL, ["snip", "grad_norm"], CONFIG) == predicted_work(CELL, ["snip"], CONFIG)
    assert predicted_work(CELL, ["snip", "grasp"], CONFIG) > predicted_work(CELL, ["grasp"], CONFIG)
