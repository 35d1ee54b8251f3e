"""Which architectures are let in: those whose encodings can be read and whose networks keep to the server's limits.

All of it follows from the encoding, in milliseconds: no layer is listed and no tensor made.
"""

from __future__ import annotations

from typing import Final

from google.rpc import status_pb2

from archscore.spaces import Architecture, EncodingError, NetworkError, SearchSpace
from archscore_server import errors
from archscore_server.config import Limits
from archscore_server.engine import EvaluationConfig
from archscore_server.engine.memory import USABLE_MEMORY
from archscore_server.pool import PoolInfo

#: More characters than any token of any grammar has.
_LONGEST_TOKEN = 64

#: Multiply-accumulates that evaluating one network may take, if nothing else is set, by kind of device. The other
#: limits are each about one factor of the product, and would together leave far more open. On a GPU there is room for
#: what the default config leads to (all proxies over 64 seeds on the largest NAS-Bench-201 cell are 3.4e13). A core
#: would be at as much for a quarter of an hour, in which others wait for it: it may take a fifth of that at a time.
MAX_WORK: Final = {"cpu": 10_000_000_000_000, "cuda": 50_000_000_000_000}


def admit(
    space: SearchSpace, encoding: str, field: str, config: EvaluationConfig, limits: Limits
) -> Architecture | status_pb2.Status:
    """Reads an encoding, or says why its architecture is not let in.

    Args:
        space: its search space.
        encoding: as sent.
        field: path of the field that holds it, for errors.
        config: how the network would be evaluated.
        limits: what is let in.

    Returns:
        The architecture; or INVALID_ARGUMENT where the encoding is malformed or has no network of the resolution asked,
        RESOURCE_EXHAUSTED with ARCHITECTURE_TOO_LARGE where it is over a limit.
    """
    most = limits.max_encoding_length
    if len(encoding) > most:
        fault = _fault(space, encoding[:most])
        # A fault at the very end is the cut's.
        if fault and fault.position < most - _LONGEST_TOKEN:
            return errors.invalid_argument([(field, str(fault))])
        return errors.architecture_too_large("max_encoding_length", len(encoding), most)
    try:
        architecture = space.parse(encoding)
        size = architecture.size(config.network, resolution=config.resolution, num_classes=config.num_classes)
    except (EncodingError, NetworkError) as error:
        return errors.invalid_argument([(field, str(error))])
    for limit, value in (
        ("max_parameters", size.parameters),
        ("max_flops", size.flops),
        ("max_layers", size.layers),
    ):
        most = getattr(limits, limit)
        if value > most:
            return errors.architecture_too_large(limit, value, most)
    return architecture


def _fault(space: SearchSpace, encoding: str) -> EncodingError | None:
    try:
        space.parse(encoding)
    except EncodingError as error:
        return error
    return None


def max_bytes(limits: Limits, pool: PoolInfo) -> int:
    """Bytes that evaluating one network may take: what is set, or what a worker has; 0 where that is not known."""
    if limits.max_bytes is not None:
        return limits.max_bytes
    return min(int(USABLE_MEMORY * device.memory_bytes) // device.workers for device in pool.devices)


def max_work(limits: Limits, pool: PoolInfo) -> int:
    """Multiply-accumulates that evaluating one network may take: what is set, or what suits the workers."""
    return MAX_WORK[pool.device_kind] if limits.max_work is None else limits.max_work
