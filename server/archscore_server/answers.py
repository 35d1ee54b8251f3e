"""Answers out of the store as they were written last.

To copy their bytes takes a fraction of the time that it takes to look scores up and to write them.
"""

from __future__ import annotations

from archscore_server.recent import ByEncoding, Recent
from archscore_server.requests import ScoringRequest
from archscore_server.results import Result

#: Bytes of an answer above which it is not kept: many proxies were asked for.
_MAX_BYTES = 512

#: Seconds after which scores are looked up again, which is what the store knows of their use.
_SECONDS = 60.0


class Answers:
    """Those given lately, by proxies and config: an evaluation depends on nothing else but its architecture."""

    def __init__(self) -> None:
        """None yet."""
        self._recent: Recent[Result] = Recent(_SECONDS)

    def to(self, request: ScoringRequest) -> ByEncoding[Result]:
        """Those to a request like this one, by encoding."""
        return self._recent.under((request.proxies, request.config))

    def keep(self, answers: ByEncoding[Result], encoding: str, written: bytes, result: Result) -> None:
        """Keeps a result as it was just written, a serialized ArchitectureResult, unless it is a long one."""
        if len(written) <= _MAX_BYTES:
            answers.add(encoding, Result(written, result.outcome, result.exceptions))
