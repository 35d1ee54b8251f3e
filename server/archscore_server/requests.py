"""Requests as the rest of the server sees them: checked, resolved, and free of protobuf.

A fault of the request raises RequestError with every fault found; faults of one architecture are not looked for here.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from archscore.spaces import SPACES, SearchSpace
from archscore.v1 import scoring_pb2
from archscore_server import enums, errors
from archscore_server.config import Limits
from archscore_server.datasets import Catalogue
from archscore_server.engine import ConfigError, DatasetInfo, EvaluationConfig
from archscore_server.engine import proxies as registry
from archscore_server.engine.datasets import KNOWN, is_known
from archscore_server.enums import EnumField
from archscore_server.errors import Violations, quote
from archscore_server.scheduler import Priority

#: Per search space, the counts in its message of EvaluationConfig and the limit on each. A search space has a message
#: of its own name there, with the fields of its NetworkConfig; another one enters here.
_NETWORK_COUNTS: Mapping[str, Mapping[str, str]] = {
    "nasbench201": {"channels": "max_channels", "cells_per_stage": "max_cells_per_stage"},
    "zennas": {},
}

#: The counts that every config has: least value, and the limit.
_COUNTS: Mapping[str, tuple[int, str]] = {
    "batch_size": (2, "max_batch_size"),
    "resolution": (1, "max_resolution"),
    "num_classes": (2, "max_num_classes"),
    "repeats": (1, "max_repeats"),
}

#: The limits on architectures that a request must keep to on its own.
_ARCHITECTURES = ("max_architectures_per_request", "max_queued_architectures", "max_in_flight_per_client")

_NUM_SEEDS = 2**32

#: Requests found right that are remembered, without their architectures, and bytes of a config above which they are
#: not: it has megabytes of fields that nobody knows.
_MAX_RIGHT = 64
_MAX_CONFIG_BYTES = 512

E = TypeVar("E", bound=Any)


@dataclass(frozen=True, slots=True)
class ScoringRequest:
    """What all architectures of a request have in common.

    Attributes:
        space: their search space.
        proxies: names of the proxies, as asked.
        config: the resolved config.
        priority: how urgent.
    """

    space: SearchSpace
    proxies: tuple[str, ...]
    config: EvaluationConfig
    priority: Priority


class Encodings:
    """The encodings of a request, taken out of its message a part at a time: most may be taken back before their turn.

    They cost more to take out, one by one, than all of the message costs to decode.
    """

    __slots__ = ("_architectures",)

    def __init__(self, architectures: Sequence[scoring_pb2.Architecture]) -> None:
        """Takes the field of the message."""
        self._architectures = architectures

    def __len__(self) -> int:
        """How many there are."""
        return len(self._architectures)

    def __getitem__(self, index: int) -> str:
        """One of them."""
        return self._architectures[index].encoding

    def part(self, positions: range) -> list[str]:
        """Those at consecutive positions."""
        return [architecture.encoding for architecture in self._architectures[positions.start : positions.stop]]


class ScoringRequests:
    """Checks requests to score, once for all that have the same in common: a search sends thousands of them."""

    def __init__(self, limits: Limits, catalogue: Catalogue) -> None:
        """Takes what may be asked for.

        Args:
            limits: of the server.
            catalogue: the datasets at hand, which do not change once they are known.
        """
        self._limits = limits
        self._catalogue = catalogue
        self._right: OrderedDict[Hashable, ScoringRequest] = OrderedDict()

    def check(
        self, request: scoring_pb2.ScoreArchitectureRequest | scoring_pb2.ScoreArchitecturesRequest
    ) -> ScoringRequest:
        """Checks everything about a request but its encodings.

        Raises:
            RequestError: the request is at fault, or its dataset is not here.
        """
        violations = Violations()
        if isinstance(request, scoring_pb2.ScoreArchitectureRequest):
            space = _space("architecture.space", request.architecture.space, violations)
        else:
            space = _common_space(request.architectures, self._limits, violations)
        if violations or space is None:
            return self._check(request, space, violations)
        config = request.config.SerializeToString()
        key = (space.name, tuple(request.proxies), config, request.priority)
        right = self._right.get(key)
        if right is None:
            right = self._check(request, space, violations)
            if len(config) <= _MAX_CONFIG_BYTES:
                self._right[key] = right
            if len(self._right) > _MAX_RIGHT:
                self._right.popitem(last=False)
        return right

    def _check(
        self,
        request: scoring_pb2.ScoreArchitectureRequest | scoring_pb2.ScoreArchitecturesRequest,
        space: SearchSpace | None,
        violations: Violations,
    ) -> ScoringRequest:
        _check_proxies(request.proxies, violations)
        priority = _enum("priority", request.priority, enums.PRIORITY, violations)
        # Where something is wrong already, the count decides nothing.
        minibatches = 1 if violations else max(registry.get(name).minibatches for name in request.proxies)
        config = _resolve(request.config, space, self._limits, self._catalogue, minibatches, violations)
        # Without a space, the line above has raised.
        return ScoringRequest(cast(SearchSpace, space), tuple(request.proxies), config, cast(Priority, priority))


def describe_request(
    request: scoring_pb2.DescribeArchitectureRequest, limits: Limits, catalogue: Catalogue
) -> tuple[SearchSpace, EvaluationConfig]:
    """Checks everything about a request to describe but its encoding.

    Raises:
        RequestError: the request is at fault, or its dataset is not here.
    """
    violations = Violations()
    space = _space("architecture.space", request.architecture.space, violations)
    config = _resolve(request.config, space, limits, catalogue, 1, violations)
    return cast(SearchSpace, space), config


def default_config(space: SearchSpace) -> EvaluationConfig:
    """The config that a request without one gets."""
    return EvaluationConfig(network=space.network)


def _space(field: str, name: str, violations: Violations) -> SearchSpace | None:
    if name in SPACES:
        return SPACES[name]
    problem = f"unknown search space {quote(name)}" if name else "must be set"
    violations.add(field, f"{problem}: known are {', '.join(sorted(SPACES))}")
    return None


def _common_space(
    architectures: Sequence[scoring_pb2.Architecture], limits: Limits, violations: Violations
) -> SearchSpace | None:
    """The one search space of all architectures."""
    # More would be refused again and again, since a request is admitted whole.
    limit = min(_ARCHITECTURES, key=lambda name: getattr(limits, name))
    most = getattr(limits, limit)
    if not 1 <= len(architectures) <= most:
        description = f"must be from 1 to {most} architectures ({limit}), are {len(architectures)}"
        violations.add("architectures", description)
    names = {architecture.space for architecture in architectures}
    if len(names) == 1 and names <= SPACES.keys():
        return SPACES[names.pop()]
    common: SearchSpace | None = None
    for index, architecture in enumerate(architectures[:most]):
        if violations.full:
            break
        if common and architecture.space == common.name:
            continue
        field = f"architectures[{index}].space"
        space = _space(field, architecture.space, violations)
        if space and common:
            description = f"a request is about one search space: this is {space.name}, another is {common.name}"
            violations.add(field, description)
        common = common or space
    return common


def _check_proxies(names: Sequence[str], violations: Violations) -> None:
    if not names:
        violations.add("proxies", "must name at least one proxy")
    known = registry.names()
    known_ones = f": known are {', '.join(known)}"
    seen: set[str] = set()
    for index, name in enumerate(names):
        if violations.full:
            break
        if name not in known:
            violations.add(f"proxies[{index}]", f"unknown proxy {quote(name)}{known_ones}")
            known_ones = ""  # once is enough, and statuses must be short
        elif name in seen:
            violations.add(f"proxies[{index}]", f"{name} is asked for more than once")
        seen.add(name)


def _resolve(
    config: scoring_pb2.EvaluationConfig,
    space: SearchSpace | None,
    limits: Limits,
    catalogue: Catalogue,
    minibatches: int,
    violations: Violations,
) -> EvaluationConfig:
    """The config with every field resolved, once nothing is wrong with it or with the rest of the request.

    Args:
        config: as asked.
        space: the search space, if it is known.
        limits: what may be asked for.
        catalogue: the datasets at hand.
        minibatches: how many minibatches the proxies read.
        violations: the faults of the rest of the request, to which those of the config are added.

    Raises:
        RequestError: there are faults, or the dataset cannot be used.
    """
    dataset = catalogue.find(config.dataset)
    values = _scalars(config, dataset)
    values["init"] = _enum("config.init", config.init, enums.INIT, violations)
    values["precision"] = _enum("config.precision", config.precision, enums.PRECISION, violations)
    _check_scalars(values, limits, violations)
    if dataset:
        _check_dataset(values, dataset, minibatches, violations)
    if space:
        _check_resolution(values["resolution"], space, violations)
        values["network"] = _network(config, space, limits, violations)
    violations.raise_if_any()
    catalogue.require(values["dataset"])
    try:
        return EvaluationConfig(**values)
    except ConfigError as error:
        raise errors.RequestError(errors.invalid_argument([(f"config.{error.field}", error.description)])) from error


def _scalars(config: scoring_pb2.EvaluationConfig, dataset: DatasetInfo | None) -> dict[str, Any]:
    defaults = EvaluationConfig(**dataset.config_fields) if dataset else EvaluationConfig()
    values = {
        name: getattr(config, name) if config.HasField(name) else getattr(defaults, name)
        for name in ("dataset", "batch_size", "resolution", "num_classes", "seed", "repeats")
    }
    return {**values, "dataset_sha256": defaults.dataset_sha256}


def _check_scalars(values: Mapping[str, Any], limits: Limits, violations: Violations) -> None:
    if not is_known(values["dataset"]):
        violations.add("config.dataset", f"unknown dataset {quote(values['dataset'])}: known are {KNOWN}")
    for name, (least, limit) in _COUNTS.items():
        _check_count(f"config.{name}", values[name], least, getattr(limits, limit), violations)
    past_last_seed = values["seed"] + values["repeats"]
    if values["seed"] >= _NUM_SEEDS:
        violations.add("config.seed", f"must be below 2^32, is {values['seed']}")
    elif past_last_seed > _NUM_SEEDS:
        violations.add("config.repeats", f"seed + repeats must be at most 2^32, is {past_last_seed}")


def _check_dataset(values: Mapping[str, Any], dataset: DatasetInfo, minibatches: int, violations: Violations) -> None:
    conflicts = dataset.conflicts(
        resolution=values["resolution"],
        num_classes=values["num_classes"],
        batch_size=values["batch_size"],
        minibatches=minibatches,
    )
    for field, description in conflicts:
        violations.add(f"config.{field}", description)


def _check_resolution(resolution: int, space: SearchSpace, violations: Violations) -> None:
    multiple = space.resolution_multiple
    if resolution % multiple:
        violations.add("config.resolution", f"must be a multiple of {multiple} in {space.name}, is {resolution}")


def _network(config: scoring_pb2.EvaluationConfig, space: SearchSpace, limits: Limits, violations: Violations) -> Any:
    """The NetworkConfig of the space; its default where something is wrong."""
    for descriptor, _ in config.ListFields():
        if descriptor.message_type and descriptor.name != space.name:
            violations.add(f"config.{descriptor.name}", f"does not go with search space {space.name}")
    values = {descriptor.name: value for descriptor, value in getattr(config, space.name).ListFields()}
    for name, limit in _NETWORK_COUNTS[space.name].items():
        count = values.get(name, getattr(space.network, name))
        _check_count(f"config.{space.name}.{name}", count, 1, getattr(limits, limit), violations)
    return space.network if violations else dataclasses.replace(space.network, **values)


def _check_count(field: str, count: int, least: int, most: int, violations: Violations) -> None:
    if not least <= count <= most:
        violations.add(field, f"must be from {least} to {most}, is {count}")


def _enum(field: str, number: int, enum: EnumField[E], violations: Violations) -> E | None:
    try:
        return enum.read(number)
    except ValueError as error:
        violations.add(field, str(error))
        return None
