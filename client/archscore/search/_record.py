"""What a search remembers of an evaluation: plain values, one line of its log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from archscore.search._constraints import Measures

if TYPE_CHECKING:
    from archscore._results import Result

OK: Final = "ok"
FAILED: Final = "failed"
"""The outcome of an architecture that could not be scored; other outcomes are those of its first score without one."""


@dataclass(frozen=True, slots=True)
class Record:
    """One evaluation of a search.

    Attributes:
        index: its place among all evaluations of the search, from 0; proposals have the same order.
        stage: the stage of a screening, from 0; 0 in other searches.
        architecture: the canonical encoding.
        parent: index of the evaluation whose architecture it was mutated from; None if it was drawn afresh.
        measures: how large it is, with residual links.
        scores: value by proxy; None where there is none.
        outcome: "ok", or why it ranks below all others: "degenerate", "non_finite", "unknown", or "failed".
        detail: what is wrong, in words; empty if nothing is.
    """

    index: int
    stage: int
    architecture: str
    parent: int | None
    measures: Measures
    scores: Mapping[str, float | None]
    outcome: str = OK
    detail: str = ""

    def to_line(self) -> str:
        """The record as a line of JSON, without what is empty."""
        fields: dict[str, Any] = {
            "index": self.index,
            "stage": self.stage,
            "architecture": self.architecture,
            "parent": self.parent,
            **{name: value for name, value in asdict(self.measures).items() if value is not None},
            "scores": dict(self.scores),
            "outcome": self.outcome,
        }
        if self.detail:
            fields["detail"] = self.detail
        return json.dumps(fields, allow_nan=False)

    @classmethod
    def from_line(cls, line: str) -> Record:
        """Reads what `to_line` wrote.

        Raises:
            ValueError: the line is something else.
        """
        try:
            fields = json.loads(line)
            measures = Measures(fields["parameters"], fields["flops"], fields["layers"], fields.get("sub_layers"))
            return cls(
                index=fields["index"],
                stage=fields["stage"],
                architecture=fields["architecture"],
                parent=fields["parent"],
                measures=measures,
                scores=fields["scores"],
                outcome=fields["outcome"],
                detail=fields.get("detail", ""),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a record of a search: {error!r}") from None


def outcome_of(result: Result, proxies: tuple[str, ...]) -> tuple[dict[str, float | None], str, str]:
    """Scores, outcome and detail of a result."""
    if result.error is not None:
        return dict.fromkeys(proxies), FAILED, str(result.error)
    found = result.evaluation.scores if result.evaluation is not None else {}
    scores: dict[str, float | None] = {}
    outcome, details = OK, []
    for proxy in proxies:
        score = found.get(proxy)
        scores[proxy] = None if score is None else score.value
        if scores[proxy] is None:
            problem = FAILED if score is None else str(score.outcome)
            outcome = problem if outcome == OK else outcome
            details.append(f"{proxy}: {problem}")
    return scores, outcome, "; ".join(details)
