"""What becomes of one architecture of a request."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from google.rpc import status_pb2

from archscore_server.engine import Score
from archscore_server.metrics import ArchitectureOutcome, ProxyOutcomes


@dataclass(slots=True)  # not frozen: thousands a second are made
class Result:
    """What became of one architecture, wherever it was in the request.

    Attributes:
        answer: its scores by proxy, the same as a serialized ArchitectureResult without index, or why it has none.
        outcome: how it is counted.
        exceptions: proxies whose scores are counted as something else than `outcome`.
        stored: the proxies whose scores came from the store.
        lasting: whether all scores came from there that can, so that the next one who asks gets the same answer.
    """

    answer: Mapping[str, Score] | bytes | status_pb2.Status
    outcome: ArchitectureOutcome
    exceptions: ProxyOutcomes = ()
    stored: Set[str] = frozenset()
    lasting: bool = False


#: A result, and the position of its architecture in the request.
Numbered = tuple[int, Result]
