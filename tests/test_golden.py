"""One suite over the engine called directly and the service called over gRPC: the reference scores come out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from archscore import Client
from archscore.spaces import nasbench201
from archscore_server.engine import Datasets, EvaluationConfig, Init, Precision, evaluate
from archscore_server.engine import proxies as registry
from golden_cases import case_id, cases, config, tolerance
from support.process import server_process

CASES = cases("nasbench201")

#: What an implementation answers: proxy -> (outcome, value, standard error).
Answer = Mapping[str, tuple[str, float | None, float | None]]
Ask = Callable[[dict[str, Any], list[str], str], Answer]


def ask_engine(data: Datasets, device: str, case: dict[str, Any], proxies: list[str], precision: str) -> Answer:
    own = EvaluationConfig(
        dataset=case.get("dataset", "gaussian"),
        batch_size=case["batch_size"],
        resolution=case["resolution"],
        num_classes=case["num_classes"],
        seed=case["seed"],
        repeats=case.get("repeats", 1),
        init=Init(case.get("init", "kaiming_normal")),
        precision=Precision(precision),
        network=nasbench201.NetworkConfig(case["channels"], case["cells_per_stage"]),
    )
    [evaluation] = evaluate([nasbench201.parse(case["encoding"])], proxies, own, data=data, device=device)
    return {name: (s.outcome.value, s.value, s.standard_error) for name, s in evaluation.scores.items()}


@pytest.fixture(scope="session")
def client(golden_data: Path) -> Iterator[Client]:
    with (
        server_process("--workers", "1", "--data-dir", str(golden_data)) as server,
        Client(server.address) as connected,
    ):
        yield connected


@pytest.fixture(params=["engine", "service", pytest.param("cuda", marks=pytest.mark.gpu)])
def ask(request: pytest.FixtureRequest, golden_data: Path) -> Ask:
    """One of the ways to get a score."""
    if request.param == "engine":
        return partial(ask_engine, Datasets(golden_data), "cpu")
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
        return partial(ask_engine, Datasets(golden_data), "cuda")
    connected: Client = request.getfixturevalue("client")

    def ask_service(case: dict[str, Any], proxies: list[str], precision: str) -> Answer:
        evaluation = connected.score(case["encoding"], proxies, space=case["space"], config=config(case, precision))
        return {name: (s.outcome.value, s.value, s.standard_error) for name, s in evaluation.scores.items()}

    return ask_service


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_reference_scores(ask: Ask, case: dict[str, Any], precision: str) -> None:
    known = registry.names()
    proxies = [name for name in known if name in case["scores"]] if case["outcome"] == "OK" else known
    assert len(proxies) >= 20
    for name, (outcome, value, error) in ask(case, proxies, precision).items():
        if name not in case["scores"]:
            assert (outcome, value) == ("degenerate", None), name
            continue
        allowed = tolerance(name, precision)
        assert outcome == "ok", name
        assert value == pytest.approx(case["scores"][name], rel=allowed), name
        if case.get("repeats", 1) > 1:
            assert error == pytest.approx(case["standard_errors"][name], rel=allowed, abs=1e-300), name
        else:
            assert error is None
