"""Answers out of the store as they were written last.

To copy their bytes takes a fraction of the time that it takes to look scores up and to write them.
"""

from __future__ import annotations

from typing import NamedTuple

from archscore.v1 import scoring_pb2
from archscore_server.metrics import ArchitectureOutcome, ProxyOutcomes
from archscore_server.recent import ByEncoding, Recent
from archscore_server.requests import ScoringRequest

#: Bytes of an answer above which it is not kept: many proxies were asked for.
_MAX_BYTES = 512

#: Seconds after which scores are looked up again, which is what the store knows of their use.
_SECONDS = 60.0


class Answer(NamedTuple):
    """One architecture's.

    Attributes:
        evaluation: the message of the contract, serialized, all of whose scores came from the store.
        outcome: how it is counted.
        exceptions: proxies whose scores are counted as something else.
    """

    evaluation: bytes
    outcome: ArchitectureOutcome
    exceptions: ProxyOutcomes


class Answers:
    """Those given lately, by proxies and config: an evaluation depends on nothing else but its architecture."""

    def __init__(self) -> None:
        """None yet."""
        self._recent: Recent[Answer] = Recent(_SECONDS)

    def to(self, request: ScoringRequest) -> ByEncoding[Answer]:
        """Those to a request like this one, by encoding."""
        return self._recent.under((request.proxies, request.config))

    def keep(
        self,
        answers: ByEncoding[Answer],
        encoding: str,
        evaluation: scoring_pb2.Evaluation,
        outcome: ArchitectureOutcome,
        exceptions: ProxyOutcomes,
    ) -> None:
        """Keeps one that was just written, unless it is a long one."""
        if evaluation.ByteSize() <= _MAX_BYTES:
            answers.add(encoding, Answer(evaluation.SerializeToString(), outcome, exceptions))
