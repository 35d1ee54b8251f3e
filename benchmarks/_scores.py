"""Scores of many architectures, kept in a file so that a run that was cut off goes on where it was."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from _report import progress
from archscore.spaces import Architecture
from archscore.study._rows import Scores
from archscore_server.engine import Datasets, Evaluation, EvaluationConfig, evaluate_stacks, proxies

A = TypeVar("A", bound=Architecture)

_EVERY_SECONDS = 30.0


def score(
    architectures: Sequence[Architecture],
    names: Sequence[str],
    config: EvaluationConfig,
    *,
    path: Path | None = None,
    data: Datasets | None = None,
    device: str = "cpu",
) -> list[Scores]:
    """Scores architectures, unless the file has their scores already.

    Args:
        architectures: of one search space.
        names: proxies.
        config: what else scores depend on.
        path: JSON lines, first what the scores depend on, then one architecture a line, as soon as it is scored.
        data: where the config's dataset is found.
        device: where to compute.

    Raises:
        ValueError: the file holds scores of other proxies or another config.
    """
    setting = {"config": asdict(config), "proxies": {name: proxies.get(name).version for name in names}}

    def evaluations(missing: Sequence[Architecture]) -> Iterator[tuple[Architecture, Scores]]:
        for architecture, evaluation in _evaluations(missing, names, config, data, device):
            yield (
                architecture,
                {
                    name: own.outcome.value if own.value is None else own.value
                    for name, own in evaluation.scores.items()
                },
            )

    return keep(architectures, setting, evaluations, path=path)


def keep(
    architectures: Sequence[A],
    setting: Mapping[str, Any],
    evaluations: Callable[[Sequence[A]], Iterable[tuple[A, Scores]]],
    *,
    path: Path | None = None,
) -> list[Scores]:
    """Scores architectures in any way, unless the file has their scores already.

    Args:
        architectures: of one search space.
        setting: what the scores depend on, in terms of JSON.
        evaluations: scores architectures; yields each as soon as it is scored.
        path: JSON lines, first the setting, then one architecture a line, as soon as it is scored.

    Raises:
        ValueError: the file holds scores of another setting.
    """
    found = _read(path, json.loads(json.dumps(setting))) if path else {}
    missing = [own for own in architectures if own.format() not in found]
    progress(f"{len(architectures) - len(missing)} architectures are scored, {len(missing)} to go")
    start = latest = time.monotonic()
    for count, (architecture, scores) in enumerate(evaluations(missing), start=1):
        found[architecture.format()] = scores
        if path:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"architecture": architecture.format(), "scores": scores}) + "\n")
        now = time.monotonic()
        if now - latest > _EVERY_SECONDS or count == len(missing):
            latest = now
            progress(f"{count} of {len(missing)}, {(now - start) / count:.2f} s each")
    return [found[own.format()] for own in architectures]


def _evaluations(
    architectures: Sequence[Architecture],
    names: Sequence[str],
    config: EvaluationConfig,
    data: Datasets | None,
    device: str,
) -> Iterator[tuple[Architecture, Evaluation]]:
    if architectures:
        for stack in evaluate_stacks(architectures, names, config, data=data, device=device):
            for index, result in stack:
                if not isinstance(result, Evaluation):
                    raise result
                yield architectures[index], result


def _read(path: Path, setting: Mapping[str, Any]) -> dict[str, Scores]:
    """Scores by encoding; starts the file if there is none, and cuts off a line that was not finished."""
    if not path.exists():
        path.write_text(json.dumps(setting) + "\n", encoding="utf-8")
        return {}
    text = path.read_text(encoding="utf-8")
    complete = text[: text.rfind("\n") + 1]
    if complete != text:
        path.write_text(complete, encoding="utf-8")
    first, *lines = complete.splitlines() or [""]
    if not first or json.loads(first) != setting:
        raise ValueError(f"{path} holds scores of other proxies or another config")
    entries = map(json.loads, lines)
    return {entry["architecture"]: entry["scores"] for entry in entries}
