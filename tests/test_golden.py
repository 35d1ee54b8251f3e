"""One suite over the engine called directly and the service called over gRPC: the reference scores come out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
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
Ask = Callable[[dict[str, Any], str], Answer]


def ask_engine(data: Datasets, device: str, case: dict[str, Any], precision: str) -> Answer:
    names, own = registry.names(), engine_config(case, precision)
    [evaluation] = evaluate([architecture(case)], names, own, data=data, device=device)
    return {name: (s.outcome.value, s.value, s.standard_error) for name, s in evaluation.scores.items()}


def ask_service(client: Client, case: dict[str, Any], precision: str) -> Answer:
    asked = {"space": case["space"], "config": config(case, precision)}
    evaluation = client.score(case["encoding"], registry.names(), **asked)
    return {name: (s.outcome.value, s.value, s.standard_error) for name, s in evaluation.scores.items()}


@pytest.fixture(scope="module", autouse=True)
def service(request: pytest.FixtureRequest, golden_data: Path) -> Iterator[dict[tuple[str, str], Future[Answer]]]:
    """What the service answers, by case and precision: it is asked all that is tested at once, as the engine starts."""
    items = (item for item in request.session.items if isinstance(item, pytest.Function))
    asked = [item.callspec.params for item in items if item.function is test_reference_scores]
    asked = [own for own in asked if own["ask"] == "service"]
    if not asked:
        yield {}
        return
    with (
        server_process("--workers", "1", "--threads", "1", "--data-dir", str(golden_data)) as server,
        Client(server.address) as client,
        ThreadPoolExecutor(1) as thread,
    ):
        yield {
            (case_id(own["case"]), own["precision"]): thread.submit(ask_service, client, own["case"], own["precision"])
            for own in asked
        }
        thread.shutdown(cancel_futures=True)


@pytest.fixture(params=["engine", "service", pytest.param("cuda", marks=pytest.mark.gpu)])
def ask(request: pytest.FixtureRequest, golden_data: Path, service: dict[tuple[str, str], Future[Answer]]) -> Ask:
    """One of the ways to get the scores of all proxies."""
    if request.param == "service":
        return lambda case, precision: service[case_id(case), precision].result()
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return partial(ask_engine, Datasets(golden_data), "cpu" if request.param == "engine" else "cuda")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_reference_scores(ask: Ask, case: dict[str, Any], precision: str) -> None:
    non_finite = case.get("non_finite", [])
    if case["outcome"] == "OK":
        assert {*case["scores"], *non_finite} == set(registry.names()), "every proxy has a reference score"
    for name, (outcome, value, error) in ask(case, precision).items():
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
