"""What a study knows of a cell once it is scored, and what its scores depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

Scores: TypeAlias = Mapping[str, float | str]
"""By proxy: the value, or the outcome where there is none."""


@dataclass(frozen=True, slots=True)
class Row:
    """A cell that has been scored.

    Attributes:
        index: its place in the benchmark's official order.
        scores: its scores.
        seconds: what each pass took, by name; empty where that is not known.
    """

    index: int
    scores: Scores
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Failure:
    """A cell that could not be scored.

    Attributes:
        index: its place in the benchmark's official order.
        reason: what went wrong.
    """

    index: int
    reason: str


@dataclass(frozen=True, slots=True)
class ProxyInfo:
    """What a report needs to know of a proxy.

    Attributes:
        version: of its definition.
        higher_is_better: which way it ranks.
        passes: names of the passes that it needs.
    """

    version: int
    higher_is_better: bool
    passes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Setting:
    """What all scores of a study depend on: those of different settings do not compare.

    Attributes:
        seed: of the order in which cells are drawn.
        config: the resolved evaluation config, in the proto3 JSON mapping.
        proxies: what is asked for.
    """

    seed: int
    config: Mapping[str, Any]
    proxies: Mapping[str, ProxyInfo]

    def to_json(self) -> dict[str, Any]:
        """The setting in terms of JSON."""
        return {
            "seed": self.seed,
            "config": dict(self.config),
            "proxies": {
                name: {**asdict(info), "passes": list(info.passes)} for name, info in sorted(self.proxies.items())
            },
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Setting:
        """The setting that `to_json` wrote."""
        proxies = {
            name: ProxyInfo(info["version"], info["higher_is_better"], tuple(info["passes"]))
            for name, info in value["proxies"].items()
        }
        return cls(value["seed"], value["config"], proxies)

    def differences(self, other: Setting) -> list[str]:
        """Where another setting differs, in words."""
        return _differences("", self.to_json(), other.to_json())


def _differences(path: str, ours: Any, theirs: Any) -> list[str]:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = dict.fromkeys((*ours, *theirs))
        return [
            difference
            for key in keys
            for difference in _differences(f"{path}.{key}" if path else key, ours.get(key), theirs.get(key))
        ]
    return [] if ours == theirs else [f"{path} is {_shown(ours)}, not {_shown(theirs)}"]


def _shown(value: Any) -> str:
    return "missing" if value is None else "there" if isinstance(value, dict) else repr(value)
