"""What becomes of one architecture of a request."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from google.rpc import code_pb2, status_pb2

from archscore_server import errors
from archscore_server.engine import Outcome, Score
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


def evaluated(scores: Mapping[str, Score], stored: Set[str] = frozenset(), *, lasting: bool = False) -> Result:
    """That of an architecture that has scores.

    Args:
        scores: all that were asked for.
        stored: the proxies of those that came from the store.
        lasting: whether all came from there that can.
    """
    outcome = ArchitectureOutcome.OK
    for score in scores.values():
        if score.outcome is Outcome.OK:
            continue
        if score.outcome is Outcome.DEGENERATE:
            outcome = ArchitectureOutcome.DEGENERATE
            break
        outcome = ArchitectureOutcome.NON_FINITE
    exceptions: ProxyOutcomes = ()
    if outcome is not ArchitectureOutcome.OK:
        outcomes = {name: ArchitectureOutcome(score.outcome.value) for name, score in scores.items()}
        exceptions = tuple((name, own) for name, own in outcomes.items() if own is not outcome)
    return Result(scores, outcome, exceptions, stored, lasting)


def stopped() -> Result:
    """That of an architecture that was not evaluated before the server stopped."""
    return Result(errors.draining().status, ArchitectureOutcome.REFUSED)


def not_admitted(status: status_pb2.Status) -> Result:
    """That of an architecture that is not let in."""
    too_large = status.code == code_pb2.RESOURCE_EXHAUSTED
    return Result(status, ArchitectureOutcome.TOO_LARGE if too_large else ArchitectureOutcome.INVALID)
