"""What a stored score depends on besides architecture and proxy, and how all of it is written down."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from dataclasses import dataclass

from archscore.spaces import SPACES, Architecture
from archscore_server.engine import EvaluationConfig

_SPACE_OF_ARCHITECTURE = {type(space.parse(space.example)): space.name for space in SPACES.values()}
_SPACE_OF_NETWORK = {type(space.network): space.name for space in SPACES.values()}


@dataclass(frozen=True, slots=True)
class Context:
    """What scores have in common that may stand in for one another.

    Attributes:
        config: the resolved config.
        minibatch_sha256: the images and labels that it stands for.
        device_kind: what kind of device computed.
        torch_version: torch's; only major.minor is kept of it.
    """

    config: EvaluationConfig
    minibatch_sha256: str
    device_kind: str
    torch_version: str

    def __post_init__(self) -> None:
        """Drops what the key does not hold, so that equal keys are equal contexts."""
        object.__setattr__(self, "torch_version", major_minor(self.torch_version))


def major_minor(version: str) -> str:
    """The first two numbers of a version such as 2.13.0+cpu."""
    return ".".join(version.partition("+")[0].split(".")[:2])


def config_json(config: EvaluationConfig) -> str:
    """A config in JSON, always the same text for equal configs; the network's part is named after its search space."""
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    network = fields.pop("network")
    fields[_SPACE_OF_NETWORK[type(network)]] = dataclasses.asdict(network)
    return json.dumps(fields, sort_keys=True, separators=(",", ":"))


@functools.lru_cache(maxsize=1024)
def digest(context: Context) -> str:
    """A hash of everything in a context."""
    parts = [config_json(context.config), context.minibatch_sha256, context.device_kind, context.torch_version]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def space_of(architecture: Architecture) -> str:
    """The name of an architecture's search space."""
    return _SPACE_OF_ARCHITECTURE[type(architecture)]
