"""The reference scores, and how closely a score must match one (relative tolerances of the definitions)."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from archscore.spaces import SPACES, Architecture
from archscore_server.engine import EvaluationConfig, Init, Precision

GOLDEN = Path(__file__).parent / "golden" / "scores.json"

#: Fields of a case that are not part of its config.
_NOT_CONFIG = {"space", "encoding", "outcome", "scores", "layers", "non_finite", "standard_errors"}
_NETWORK = {"nasbench201": {"channels", "cells_per_stage"}, "zennas": {"residual_links"}}
#: The precisions that every device has, and the definitions are about.
PRECISIONS = (Precision.FLOAT32, Precision.FLOAT64)

_LOOSE = {"plain": 5e-2, "grasp": 1e-1, "zico": 1e-1}


def cases() -> list[dict[str, Any]]:
    """All cases."""
    loaded: list[dict[str, Any]] = json.loads(GOLDEN.read_text())
    return loaded


def architecture(case: dict[str, Any]) -> Architecture:
    """The case's architecture."""
    return SPACES[case["space"]].parse(case["encoding"])


def engine_config(case: dict[str, Any], precision: str) -> EvaluationConfig:
    """The case's config."""
    own = {key: case[key] for key in _NETWORK[case["space"]] if key in case}
    return EvaluationConfig(
        dataset=case.get("dataset", "gaussian"),
        batch_size=case["batch_size"],
        resolution=case["resolution"],
        num_classes=case["num_classes"],
        seed=case["seed"],
        repeats=case.get("repeats", 1),
        init=Init(case.get("init", "kaiming_normal")),
        precision=Precision(precision),
        network=replace(SPACES[case["space"]].network, **own),
    )


def case_id(case: dict[str, Any]) -> str:
    """A short name."""
    parts = [
        case["space"],
        "linked" if case.get("residual_links") else "",
        case.get("dataset", ""),
        case.get("init", ""),
        f"seed{case['seed']}",
        f"B{case['batch_size']}",
        f"R{case['resolution']}",
    ]
    return "-".join(part for part in parts if part)


def config(case: dict[str, Any], precision: str) -> dict[str, Any]:
    """The case's EvaluationConfig in the proto3 JSON mapping."""
    network = _NETWORK[case["space"]]
    fields = {key: value for key, value in case.items() if key not in _NOT_CONFIG | network}
    if "init" in fields:
        fields["init"] = f"INIT_{fields['init'].upper()}"
    own = {key: case[key] for key in network if key in case}
    return {**fields, "precision": f"PRECISION_{precision.upper()}", case["space"]: own}


def tolerance(proxy: str, precision: str) -> float:
    """How far, relatively, a score may be from another computation of it."""
    return 1e-6 if precision == "float64" else _LOOSE.get(proxy, 1e-2)
