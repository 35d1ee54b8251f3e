"""What a search allows of an architecture, and how large architectures are for that."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Measures:
    """How large the network of an architecture is, with its residual links, whatever it is scored with.

    Attributes:
        parameters: all trainable values.
        flops: multiply-accumulates for one image.
        layers: convolutions and linear layers.
        sub_layers: sub-layers of all blocks of a ZenNAS genome together; None in spaces that have none.
    """

    parameters: int
    flops: int
    layers: int
    sub_layers: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """Upper limits, counted as in `Measures`; None is no limit.

    Attributes:
        max_parameters: all trainable values.
        max_flops: multiply-accumulates for one image.
        max_layers: convolutions and linear layers.
        max_sub_layers: sub-layers of all blocks of a ZenNAS genome together.
    """

    max_parameters: int | None = None
    max_flops: int | None = None
    max_layers: int | None = None
    max_sub_layers: int | None = None

    def __post_init__(self) -> None:
        """Refuses limits that nothing can keep to, with a ValueError."""
        for name, limit in self.limits.items():
            if limit < 1:
                raise ValueError(f"{name} must be at least 1, is {limit}")

    @property
    def limits(self) -> dict[str, int]:
        """The limits that there are, by name."""
        return {name: limit for name, limit in asdict(self).items() if limit is not None}

    def excess(self, measures: Measures) -> float:
        """The largest share of a limit that is used: at most 1 if all are kept to, 0 if there are none."""
        shares = [0.0]
        for field in fields(self):
            limit: int | None = getattr(self, field.name)
            if limit is not None:
                used: int | None = getattr(measures, field.name.removeprefix("max_"))
                shares.append((used or 0) / limit)
        return max(shares)

    def __str__(self) -> str:
        """The limits in words."""
        words = [f"{limit:,} {name.removeprefix('max_').replace('_', '-')}" for name, limit in self.limits.items()]
        return f"at most {' and '.join(words)}" if words else "any size"

    def to_json(self) -> dict[str, Any]:
        """The limits as a JSON object."""
        return self.limits
