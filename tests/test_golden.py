"""One suite over the engine called directly and the service called over gRPC: the reference scores come out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from archscore import Client
from archscore_server.engine import Datasets, evaluate
from archscore_server.engine import proxies as registry
from golden_cases import PRECISIONS, architecture, case_id, cases, config, engine_config, tolerance
from support.process import server_process

CASES = cases()

#: What an implementation answers: proxy -> (outcome, value, standard error).
Answer = Mapping[str, tuple[str, float | None, float | None]]
Ask = Callable[[dict[str, Any], list[str], str], Answer]


def ask_engine(data: Datasets, device: str, case: dict[str, Any], proxies: list[str], precision: str) -> Answer:
    [evaluation] = evaluate([architecture(case)], proxies, engine_config(case, precision), data=data, device=device)
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


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_reference_scores(ask: Ask, case: dict[str, Any], precision: str) -> None:
    non_finite = case.get("non_finite", [])
    if case["outcome"] == "OK":
        assert {*case["scores"], *non_finite} == set(registry.names()), "every proxy has a reference score"
    for name, (outcome, value, error) in ask(case, registry.names(), precision).items():
        if name not in case["scores"]:
            expected = "non_finite" if name in non_finite else "degenerate"
            assert (outcome, value, error) == (expected, None, None), name
            continue
        allowed = tolerance(name, precision)
        assert outcome == "ok", name
        assert value == pytest.approx(case["scores"][name], rel=allowed), name
        if case.get("repeats", 1) > 1:
            assert error == pytest.approx(case["standard_errors"][name], rel=allowed, abs=1e-12), name
        else:
            assert error is None
