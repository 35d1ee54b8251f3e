"""Statistics per layer against the reference figures."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from archscore.spaces import SPACES, nasbench201
from archscore_server.engine import Datasets, EvaluationConfig, Precision, passes
from archscore_server.engine.data import dataset_of
from archscore_server.engine.networks import build
from archscore_server.engine.statistics import STATISTICS, Labels, Pass, Saliency
from golden_cases import PRECISIONS, architecture, case_id, cases, engine_config

CASES = [case for case in cases() if case.get("layers")]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_layers(golden_data: Path, case: dict[str, Any], precision: Precision) -> None:
    config = engine_config(case, precision)
    stack = build([architecture(case)], [config.seed], config, torch.device("cpu"))
    dataset = dataset_of(config, Datasets(golden_data))
    statistics = passes.run(stack, ["snip", "logdet_eval", "logdet_train"], config, dataset)
    present = stack.present[0]
    assert [layer.weights for layer in stack.layers[0]] == [layer["weights"] for layer in case["layers"]]
    snip = statistics["snip"]
    assert isinstance(snip, Saliency)
    found = {
        "saliency_sum": snip.total[0],
        "saliency_std": snip.deviation[0],
        "logdet_eval": statistics["logdet_eval"][0],
        "logdet_train": statistics["logdet_train"][0],
    }
    for name, values in found.items():
        expected = [layer[name] for layer in case["layers"]]
        tolerance = 1e-6 if precision is Precision.FLOAT64 else 1e-1
        np.testing.assert_allclose(values[present], expected, rtol=tolerance, atol=1e-12, err_msg=name)
        assert not values[~present].any(), "a slot without a layer has 0"


def test_networks_with_seeds_of_their_own_share_a_stack() -> None:
    config = EvaluationConfig(
        batch_size=16, precision=Precision.FLOAT64, network=nasbench201.NetworkConfig(channels=4, cells_per_stage=1)
    )
    cells = [nasbench201.from_index(index) for index in (6111, 6111, 77)]
    seeds = [3, 4, 3]
    needs = list(STATISTICS)
    together = passes.run(build(cells, seeds, config, torch.device("cpu")), needs, config)
    for a, (cell, seed) in enumerate(zip(cells, seeds, strict=True)):
        alone = passes.run(build([cell], [seed], config, torch.device("cpu")), needs, config)
        for name in needs:
            own, of_all = alone[name], together[name]
            if isinstance(of_all, Saliency):
                pairs = [(of_all.total[a], own.total[0]), (of_all.deviation[a], own.deviation[0])]
            elif isinstance(of_all, Labels):
                pairs = [(of_all.values[a], own.values[0])]
            else:
                pairs = [(of_all[a], own[0])]
            for values, expected in pairs:
                np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-12, err_msg=name)


#: Forward runs of each pass. ZICO's first gradient is TRAIN's.
FORWARDS = {
    Pass.WEIGHTS: 0,
    Pass.TRAIN: 1,
    Pass.EVAL: 1,
    Pass.SYNFLOW: 1,
    Pass.HESSIAN: 1,
    Pass.ZICO: 1,
    Pass.JACOBIAN: 1,
    Pass.NTK: 1,
    Pass.ZEN: 2,
}


@pytest.mark.parametrize("space", ["nasbench201", "zennas"])
def test_a_pass_never_runs_twice(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = EvaluationConfig(batch_size=4, resolution=8, network=SPACES[space].network)
    encodings = {"nasbench201": "index:6111", "zennas": "SuperConvK3BNRELU(3,8,1,1)"}
    stack = build([SPACES[space].parse(encodings[space])], [0], config, torch.device("cpu"))
    forwards = []

    def counted(*arguments: Any, **options: Any) -> torch.Tensor:
        forwards.append(arguments)
        return type(stack).forward(stack, *arguments, **options)

    monkeypatch.setattr(stack, "forward", counted)
    passes.run(stack, list(STATISTICS), config)
    assert set(FORWARDS) == set(Pass)
    assert len(forwards) == sum(FORWARDS.values())


def test_the_seconds_of_each_pass_are_told() -> None:
    config = EvaluationConfig(batch_size=4, resolution=8, network=SPACES["nasbench201"].network)
    stack = build([nasbench201.from_index(6111)], [0], config, torch.device("cpu"))
    told = []
    started = time.perf_counter()
    passes.run(stack, ["snip", "logdet_train", "logdet_eval"], config, on_pass=lambda *one: told.append(one))
    assert [name for name, _ in told] == [Pass.TRAIN, Pass.EVAL]
    assert all(seconds > 0 for _, seconds in told)
    assert sum(seconds for _, seconds in told) <= time.perf_counter() - started
