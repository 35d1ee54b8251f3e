"""Answers in the messages of the contract."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence, Set

from archscore.spaces import Description, SearchSpace
from archscore.v1 import scoring_pb2
from archscore_server import enums
from archscore_server.admission import max_bytes, max_work
from archscore_server.config import Limits
from archscore_server.engine import DatasetInfo, EvaluationConfig, Score
from archscore_server.engine import proxies as registry
from archscore_server.engine.datasets import GAUSSIAN
from archscore_server.pool import PoolInfo
from archscore_server.requests import default_config


def write_evaluation(
    message: scoring_pb2.Evaluation,
    scores: Mapping[str, Score],
    proxies: Sequence[str],
    fingerprint: scoring_pb2.Fingerprint,
    stored: Set[str],
) -> None:
    """Writes the scores of an architecture, in the order in which the proxies were asked for.

    Args:
        message: where; in place, since to copy a message takes longer than to fill it.
        scores: by proxy.
        proxies: as asked.
        fingerprint: what they depend on.
        stored: the proxies whose scores came from the store.
    """
    add, outcome_of = message.scores.add, enums.OUTCOME.write
    for name in proxies:
        score = scores[name]
        add(
            proxy=name,
            outcome=outcome_of(score.outcome),
            value=score.value,
            standard_error=score.standard_error,
            stored=name in stored,
        )
    message.fingerprint.CopyFrom(fingerprint)


def config_message(config: EvaluationConfig, space: SearchSpace) -> scoring_pb2.EvaluationConfig:
    """A config with every field set."""
    message = scoring_pb2.EvaluationConfig(
        dataset=config.dataset,
        batch_size=config.batch_size,
        resolution=config.resolution,
        num_classes=config.num_classes,
        seed=config.seed,
        repeats=config.repeats,
        init=enums.INIT.write(config.init),
        precision=enums.PRECISION.write(config.precision),
    )
    network = getattr(message, space.name)
    for field in dataclasses.fields(config.network):
        setattr(network, field.name, getattr(config.network, field.name))
    return message


def description_message(
    description: Description, config: EvaluationConfig, space: SearchSpace
) -> scoring_pb2.DescribeArchitectureResponse:
    """What an architecture's network consists of and costs."""
    layers = (
        scoring_pb2.Layer(
            name=layer.name,
            kind=layer.kind,
            in_channels=layer.in_channels,
            out_channels=layer.out_channels,
            kernel=layer.kernel,
            stride=layer.stride,
            groups=layer.groups,
            resolution=layer.resolution,
            weights=layer.weights,
            flops=layer.flops,
        )
        for layer in description.layers
    )
    return scoring_pb2.DescribeArchitectureResponse(
        canonical_encoding=description.canonical,
        connected=description.connected,
        parameters=description.parameters,
        flops=description.flops,
        parameters_with_residual_links=description.parameters_with_residual_links,
        flops_with_residual_links=description.flops_with_residual_links,
        layers=layers,
        config=config_message(config, space),
    )


def proxy_message(proxy: registry.Proxy) -> scoring_pb2.Proxy:
    """What the registry says of a proxy."""
    higher, lower = scoring_pb2.DIRECTION_HIGHER_IS_BETTER, scoring_pb2.DIRECTION_LOWER_IS_BETTER
    return scoring_pb2.Proxy(
        name=proxy.name,
        version=proxy.version,
        direction=higher if proxy.higher_is_better else lower,
        description=proxy.description,
        formula=proxy.formula,
        paper=proxy.paper,
        passes=[str(needed) for needed in proxy.passes],
        uses_labels=proxy.uses_labels,
    )


def space_message(space: SearchSpace) -> scoring_pb2.SearchSpace:
    """What is said of a search space."""
    return scoring_pb2.SearchSpace(
        name=space.name,
        description=space.description,
        example=space.example,
        resolution_multiple=space.resolution_multiple,
        default_config=config_message(default_config(space), space),
    )


def server_info_message(
    pool: PoolInfo, datasets: Sequence[DatasetInfo], limits: Limits, archscore_version: str
) -> scoring_pb2.GetServerInfoResponse:
    """What runs here."""
    return scoring_pb2.GetServerInfoResponse(
        archscore_version=archscore_version,
        torch_version=pool.torch_version,
        numpy_version=pool.numpy_version,
        devices=[scoring_pb2.Device(**dataclasses.asdict(device)) for device in pool.devices],
        datasets=[
            scoring_pb2.Dataset(name=GAUSSIAN),
            *(scoring_pb2.Dataset(**dataclasses.asdict(dataset)) for dataset in datasets),
        ],
        limits=scoring_pb2.Limits(
            **dataclasses.asdict(limits) | {"max_bytes": max_bytes(limits, pool), "max_work": max_work(limits, pool)}
        ),
    )
