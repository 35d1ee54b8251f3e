"""What pass_costs.py makes of its figures."""

import pytest

import pass_costs
from archscore.spaces.nasbench201 import parse
from archscore_server.engine.proxies import get, names
from archscore_server.engine.statistics import STATISTICS


def test_a_pass_is_asked_for_all_that_it_yields() -> None:
    for own, proxies in pass_costs.pass_workloads().items():
        needed = {need for name in proxies for need in get(name).needs}
        assert needed == {name for name, yielding in STATISTICS.items() if yielding is own}


def test_every_proxy_is_measured_once() -> None:
    groups = pass_costs.proxy_workloads().values()
    assert sorted(name for members in groups for name in members) == names()


def test_the_ratios() -> None:
    seconds = {name: [[1.0, 9.0, 1.0], [1.0, 1.0, 1.0]] for name in pass_costs.workloads()}
    seconds[pass_costs.ALL] = [[3.0], [6.0]]
    seconds["ntk batched"] = [[0.5], [0.5]]
    ratios = pass_costs.summarise(seconds)["ratios"]
    assert ratios == pytest.approx(
        {"all_over_passes": 4.5 / 9, "all_over_one_by_one": 4.5 / len(names()), "ntk_over_faster_reference": 2.0}
    )


def test_the_references_agree_with_archscore() -> None:
    assert pass_costs.kernel_difference([parse("index:6111")]) < 1e-2
    workloads = pass_costs.workloads()
    # no gradient reaches some of its layers
    cell = parse("|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_1x1~1|+|nor_conv_3x3~0|none~1|none~2|")
    assert workloads["ntk batched"](cell) == pytest.approx(workloads["ntk loop"](cell), rel=1e-2)
