"""A scorer without a server or an engine: invented scores, and whatever a test wants to go wrong."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field

from archscore import ArchscoreError, Evaluation, Result
from archscore.spaces import Architecture
from archscore.v1 import scoring_pb2

OUTCOMES = {"degenerate": scoring_pb2.OUTCOME_DEGENERATE, "non_finite": scoring_pb2.OUTCOME_NON_FINITE}
Value = float | str | ArchscoreError


def invented(architecture: Architecture, proxy: str) -> Value:
    """A score that says nothing of the architecture."""
    return zlib.crc32(f"{architecture.format()} {proxy}".encode()) / 2**32


@dataclass
class FakeScorer:
    """Scores what it is given, as far ahead as it may.

    Attributes:
        value: the score by architecture and proxy, the name of an outcome without one, or an error of the architecture.
        ahead: architectures that are taken before the first of them is answered, at most; None for all it may.
        ends_after: answers after which `ends_with` is raised.
        ends_with: what ends a call.
        lower: proxies that rank the other way.
        asked: encodings and proxies, in the order asked.
        calls: proxies and config of each call.
    """

    value: Callable[[Architecture, str], Value] = invented
    ahead: int | None = None
    ends_after: int | None = None
    ends_with: BaseException = field(default_factory=KeyboardInterrupt)
    lower: tuple[str, ...] = ("ntk_condition_number",)
    asked: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    calls: list[tuple[tuple[str, ...], object]] = field(default_factory=list)

    def proxies(self) -> list[scoring_pb2.Proxy]:
        names = ("tcet", "tcet_log", "naswot", "linear_regions", "ntk_condition_number")
        directions = {
            name: scoring_pb2.DIRECTION_LOWER_IS_BETTER
            if name in self.lower
            else scoring_pb2.DIRECTION_HIGHER_IS_BETTER
            for name in names
        }
        return [scoring_pb2.Proxy(name=name, direction=direction) for name, direction in directions.items()]

    def score_many(
        self,
        architectures: Iterable[Architecture],
        proxies: Iterable[str],
        *,
        space: str | None = None,
        config: object = None,
        chunk_size: int = 64,
        max_in_flight: int = 4,
        ordered: bool = True,
    ) -> Generator[Result, None, None]:
        assert ordered
        names = tuple(proxies)
        self.calls.append((names, config))
        source = enumerate(architectures)
        window = chunk_size * max_in_flight if self.ahead is None else min(self.ahead, chunk_size * max_in_flight)
        while taken := list(itertools.islice(source, window)):
            for index, architecture in taken:
                if self.ends_after is not None and len(self.asked) >= self.ends_after:
                    raise self.ends_with
                self.asked.append((architecture.format(), names))
                yield self._result(index, architecture, names)

    def _result(self, index: int, architecture: Architecture, names: tuple[str, ...]) -> Result:
        message = scoring_pb2.Evaluation(fingerprint=scoring_pb2.Fingerprint(device_kind="cpu"))
        for name in names:
            value = self.value(architecture, name)
            if isinstance(value, ArchscoreError):
                return Result(index, architecture, None, value)
            if isinstance(value, str):
                message.scores.add(proxy=name, outcome=OUTCOMES[value])
            else:
                message.scores.add(proxy=name, outcome=scoring_pb2.OUTCOME_OK, value=value)
        return Result(index, architecture, Evaluation(message), None)
