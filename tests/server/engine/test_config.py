"""Evaluation configs refuse what no evaluation can have."""

from typing import Any

import pytest

from archscore_server.engine import ConfigError, EvaluationConfig


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dataset", "mnist"),
        ("dataset", "npz:../x"),
        ("batch_size", 1),
        ("resolution", 0),
        ("num_classes", 1),
        ("num_classes", 10_001),
        ("seed", -1),
        ("seed", 2**32),
        ("repeats", 0),
    ],
)
def test_a_field_out_of_range_is_named(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=field) as caught:
        EvaluationConfig(**{field: value})
    assert caught.value.field == field


def test_the_last_seed_is_below_2_to_the_32() -> None:
    assert list(EvaluationConfig(seed=2**32 - 2, repeats=2).seeds) == [2**32 - 2, 2**32 - 1]
    with pytest.raises(ConfigError, match="2\\^32"):
        EvaluationConfig(seed=2**32 - 2, repeats=3)
