"""How architectures are counted."""

from __future__ import annotations

from enum import StrEnum


class ArchitectureOutcome(StrEnum):
    """What became of one architecture of a request that was otherwise right."""

    OK = "ok"
    DEGENERATE = "degenerate"  # its logits do not depend on the input
    NON_FINITE = "non_finite"  # a proxy came out NaN or infinite
    INVALID = "invalid"  # its encoding is malformed, or has no network of the resolution asked
    TOO_LARGE = "too_large"  # it is over a limit
    FAILED = "failed"  # its evaluation failed
    EXPIRED = "expired"  # the deadline passed first
    CANCELLED = "cancelled"  # the client left first
    REFUSED = "refused"  # the queue was full, or the server stopped


#: Proxies of an architecture whose scores came out otherwise than the architecture as a whole.
ProxyOutcomes = tuple[tuple[str, ArchitectureOutcome], ...]
