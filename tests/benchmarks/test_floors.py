"""What floors.py counts and makes of its figures."""

import pytest
import torch

import floors
from archscore.spaces.nasbench201 import NetworkConfig, parse
from archscore_server.engine import EvaluationConfig, evaluate, kernels


def test_demand_counts_products_and_convolutions() -> None:
    a, b = torch.ones(8, 16), torch.ones(16, 4)
    found = floors.demand(lambda: torch.relu(a @ b))
    assert found == floors.Demand(2 * 8 * 16 * 4, 4 * (8 * 16 + 16 * 4 + 8 * 4))
    image, weight = torch.ones(1, 3, 8, 8), torch.ones(5, 3, 3, 3)
    found = floors.demand(lambda: torch.nn.functional.conv2d(image, weight, padding=1))
    assert found == floors.Demand(2 * 5 * 3 * 9 * 64, 4 * (3 * 64 + 5 * 27 + 5 * 64))


def test_the_floor_is_what_takes_longer() -> None:
    ceilings = {"operations_per_second": 10.0, "bytes_per_second": 100.0}
    assert floors.Demand(50, 100).floor(ceilings) == 5
    assert floors.Demand(5, 100).floor(ceilings) == 1


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["aten::mkldnn_convolution", "aten::conv2d"], "convolutions"),
        (["aten::mkldnn_convolution", "aten::conv2d", "_Pool"], "pooling"),
        (["aten::mul_", "_PoolBackward"], "pooling"),
        (["aten::copy_", "aten::to", "kind: Gram"], "codes and Gram matrices"),
        (["aten::native_batch_norm"], "BatchNorm"),
        (["kernel: unjoin", "_JoinBackward"], "BatchNorm, sums, ReLU and codes in one"),
        (["kernel: convolve", "_Conv3x3"], "convolutions"),
        (["aten::add"], "sums of edges"),
        (["aten::log"], floors.OTHER),
    ],
)
def test_operators_are_told_apart(names, kind) -> None:
    assert floors.kind_of(names) == kind


def test_shares_of_an_evaluation_add_up() -> None:
    config = EvaluationConfig(batch_size=4, resolution=8, network=NetworkConfig(channels=4, cells_per_stage=1))
    cell = parse("|nor_conv_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|")
    both = ("weights", "convolutions", "pooling", "log-determinants", floors.BETWEEN)
    with kernels.off():
        shares = floors.shares(lambda: evaluate([cell], ["tcet"], config))
    assert sum(shares.values()) == pytest.approx(1)
    for kind in (*both, "BatchNorm", "ReLU"):
        assert shares[kind] > 0
    if kernels.available():
        shares = floors.shares(lambda: evaluate([cell], ["tcet"], config))
        assert sum(shares.values()) == pytest.approx(1)
        assert shares["BatchNorm"] == 0
        for kind in (*both, "BatchNorm, sums, ReLU and codes in one"):
            assert shares[kind] > 0


@pytest.mark.parametrize("name", ["tcet", "tcet" + floors.BY_TORCH])
def test_a_workload_is_scored_by_what_its_name_says(monkeypatch, name) -> None:
    if name not in floors.workloads():
        pytest.skip("the kernels were not built: no C compiler")
    seen = []
    monkeypatch.setattr(floors, "evaluate", lambda *_, **__: seen.append(kernels.available()))
    floors.scoring([parse(floors.CELLS[0])], name, torch.device("cpu"))()
    assert seen == [kernels.available() and not name.endswith(floors.BY_TORCH)]


def test_ceilings_are_medians_and_the_table_has_every_workload(monkeypatch) -> None:
    monkeypatch.setitem(floors._MATRIX, "cpu", 32)
    monkeypatch.setattr(floors, "_COPIED", 1024)
    ceilings = floors.Ceilings(torch.device("cpu"))
    ceilings.measure()
    ceilings.measure()
    rates = ceilings.rates()
    assert set(rates) == {"operations_per_second", "bytes_per_second"}
    demand = floors.Demand(rates["operations_per_second"], 0)
    measured = {"ceilings": rates, "times": {"tcet": [[4.0, 2.0, 3.0]]}, "demands": {"tcet": [demand]}}
    summary = floors.summarise(measured)
    assert summary["tcet"]["reached"] == pytest.approx(1 / 3)
    assert "| tcet | 3.000 |" in floors.table(rates, summary)
    assert "| ReLU | 10.0% |" in floors.shares_table({"tcet": {"ReLU": 0.1}})
