"""What must hold of every text that a parser is given, whatever it is."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any, Final, SupportsIndex

from google.rpc import code_pb2, status_pb2

from archscore.spaces import SPACES, Architecture, EncodingError, NetworkError, SearchSpace
from archscore_server.admission import admit
from archscore_server.config import Limits
from archscore_server.engine import EvaluationConfig
from fuzz.tally import ViolationError

#: Characters of a message and bytes of a status at most.
LONGEST_MESSAGE: Final = 300
LARGEST_STATUS: Final = 2_000

#: Characters that a parser may look at, for each character of its input and besides.
LOOKS_PER_CHARACTER: Final = 10
LOOKS: Final = 2_000

#: Networks of more layers are not listed: it takes long.
MOST_LAYERS: Final = 300

#: Resolutions and numbers of classes.
_SIZES: Final = ((32, 10), (1, 1), (16, 120), (2**31, 10_000), (32, 0), (0, 10), (32, 100))


def check(space_name: str, text: str, number: int = 0) -> str:
    """Parses a text and does with it what can be done.

    Args:
        space_name: whose parser.
        text: what it is given.
        number: chooses the network that an architecture's size is asked for.

    Returns:
        What came of it.

    Raises:
        ViolationError: something is not as it must be.
    """
    space, limits = SPACES[space_name], Limits()
    fault: EncodingError | None = None
    architecture: Architecture | None = None
    try:
        architecture = space.parse(text)
    except EncodingError as error:
        fault = error
        _check_fault(error, text)
    else:
        _check_architecture(space, architecture, number)
    admitted = _admitted(space, text, limits)
    if fault:
        _require(isinstance(admitted, status_pb2.Status), f"let in what is malformed: {fault}")
        return "malformed"
    if isinstance(admitted, status_pb2.Status):
        return "no network" if admitted.code == code_pb2.INVALID_ARGUMENT else "too large"
    _require(admitted == architecture, f"{admitted!r} was let in, not {architecture!r}")
    return "let in"


def check_work(space_name: str, text: str) -> float:
    """Counts the characters that a parser looks at.

    Returns:
        How many, for each character of the text.

    Raises:
        ViolationError: they grow faster than the text.
    """
    counting = CountingText(text)
    with contextlib.suppress(EncodingError):
        SPACES[space_name].parse(counting)
    _require(
        counting.looks <= LOOKS_PER_CHARACTER * len(text) + LOOKS,
        f"the parser looked at {counting.looks} characters of {len(text)}",
    )
    return counting.looks / max(1, len(text))


class CountingText(str):
    """A text that counts how much of it is looked at.

    Attributes:
        looks: characters that were copied, compared or searched.
    """

    looks = 0

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        part = super().__getitem__(key)
        self.looks += 1 + len(part)
        return part

    def startswith(self, prefix: str | tuple[str, ...], *bounds: Any) -> bool:  # type: ignore[override]
        self.looks += 1 + len(prefix)
        return super().startswith(prefix, *bounds)

    def find(self, sub: str, start: Any = None, end: Any = None) -> int:  # type: ignore[override]
        found = super().find(sub, start, end)
        self.looks += 1 + (found if found >= 0 else len(self)) - (start or 0)
        return found

    def lstrip(self, chars: str | None = None) -> str:  # type: ignore[override]
        self.looks += len(self)
        return super().lstrip(chars)

    def rstrip(self, chars: str | None = None) -> str:  # type: ignore[override]
        self.looks += len(self)
        return super().rstrip(chars)

    def __iter__(self) -> Any:
        self.looks += len(self)
        return super().__iter__()


def _check_fault(error: EncodingError, text: str) -> None:
    message = str(error)
    _require(0 <= error.position <= len(text), f"position {error.position} in a text of {len(text)} characters")
    _require(0 < len(message) <= LONGEST_MESSAGE, f"a message of {len(message)} characters: {message[:500]!r}")
    _require(message.isascii() and message.isprintable(), f"not one line of ASCII: {message!r}")
    _require(
        message == f"at position {error.position}: expected {error.expected}", f"a message that says else: {message}"
    )


def _check_architecture(space: SearchSpace, architecture: Architecture, number: int) -> None:
    canonical = architecture.format()
    again = space.parse(canonical)
    _require(again == architecture, f"{canonical!r} is another architecture than what it is the canonical form of")
    _require(hash(again) == hash(architecture), "equal architectures have different hashes")
    _require(again.format() == canonical, f"the canonical form of {canonical!r} is {again.format()!r}")
    _require(isinstance(architecture.connected, bool), "connected is no bool")
    networks = _networks(space)
    resolution, num_classes = _SIZES[number % len(_SIZES)]
    _check_size(architecture, networks[number % len(networks)], canonical, resolution, num_classes)


def _check_size(architecture: Architecture, network: Any, canonical: str, resolution: int, num_classes: int) -> None:
    try:
        size = architecture.size(network, resolution=resolution, num_classes=num_classes)
    except NetworkError as error:
        _require(len(str(error)) <= LONGEST_MESSAGE and str(error).isprintable(), f"a NetworkError that says {error!r}")
        return
    _require(min(size.parameters, size.flops, size.layers) > 0, f"{size} of a network")
    if size.layers > MOST_LAYERS:
        return
    described = architecture.describe(network, resolution=resolution, num_classes=num_classes)
    found = (described.canonical, described.parameters, described.flops, len(described.layers))
    expected = (canonical, size.parameters, size.flops, size.layers)
    _require(found == expected, f"described as {found}, and its size is {expected}")
    names = {layer.name for layer in described.layers}
    _require(len(names) == len(described.layers), "two layers of one name")


def _networks(space: SearchSpace) -> Sequence[Any]:
    if space.name == "zennas":
        return (space.network, dataclasses.replace(space.network, residual_links=True))
    return (space.network,)


def _admitted(space: SearchSpace, text: str, limits: Limits) -> Architecture | status_pb2.Status:
    answer = admit(space, text, "architecture.encoding", EvaluationConfig(network=space.network), limits)
    if not isinstance(answer, status_pb2.Status):
        _require(len(text) <= limits.max_encoding_length, f"let in {len(text)} characters")
        return answer
    size, code = answer.ByteSize(), code_pb2.Code.Name(answer.code)
    _require(code in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"), f"not let in with {code}")
    _require(size <= LARGEST_STATUS, f"a status of {size} bytes")
    _require(bool(answer.details), f"a status without details: {answer}")
    _require(answer.message.isprintable(), f"not one line: {answer.message!r}")
    return answer


def _require(holds: bool, problem: str) -> None:
    if not holds:
        raise ViolationError(problem)
