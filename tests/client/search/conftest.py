"""Records to compare."""

from __future__ import annotations

import pytest

from archscore.search import Measures, Record
from archscore.spaces import nasbench201


@pytest.fixture
def record():
    """Makes a record: scores are None where there are none."""

    def record(index, *, parent=None, parameters=1, stage=0, architecture=None, **scores):
        encoding = architecture or nasbench201.from_index(index).format()
        outcome = "ok" if all(value is not None for value in scores.values()) else "degenerate"
        return Record(index, stage, encoding, parent, Measures(parameters, 1, 1), scores, outcome)

    return record
