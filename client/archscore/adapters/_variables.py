"""Search spaces as a fixed set of named variables, for libraries that know nothing but variables.

A cell of NAS-Bench-201 is six choices. Genomes of ZenNAS have any number of blocks; those that are reached here have
the layout of `archscore.spaces.zennas.START`, a stem, four stages and a tail, with one or two blocks to a stage: 34
variables, of which those of a second block mean nothing while it has no sub-layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from archscore.errors import UsageError
from archscore.spaces import Architecture, nasbench201, zennas

CHANNEL_MULTIPLE: Final = 8
"""What channels of genomes are a multiple of."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of some names, in no order."""

    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Count:
    """An integer, both bounds included."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Channels:
    """A number of channels, of which the logarithm counts; both bounds included, and both multiples of 8."""

    low: int
    high: int

    def rounded(self, channels: float) -> int:
        """The multiple of 8 next to a number between the bounds."""
        return round(channels / CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE


Variable: TypeAlias = Choice | Count | Channels
Take: TypeAlias = Callable[[str], Any]
"""Gives the value of a variable: a name, an integer or a number of channels. Asked for those that mean something."""


@dataclass(frozen=True, slots=True)
class Variables:
    """A search space.

    Attributes:
        by_name: all variables.
        build: makes the architecture of their values.
    """

    by_name: Mapping[str, Variable]
    build: Callable[[Take], Architecture]


def variables_of(space: str) -> Variables:
    """The variables of a search space.

    Raises:
        UsageError: there is no such search space.
    """
    if space not in _SPACES:
        raise UsageError(f"no variables for search space {space!r}: there are for {', '.join(_SPACES)}")
    return _SPACES[space]


_EDGES: Final = tuple(f"edge{source}{target}" for source, target in nasbench201.EDGES)


def _cell(take: Take) -> nasbench201.Cell:
    return nasbench201.Cell(tuple(str(take(name)) for name in _EDGES))


_WIDTH: Final = Channels(8, 256)
_BOTTLENECK: Final = Channels(8, 128)
_TAIL_WIDTH: Final = Channels(8, 512)
_MAX_SUB_LAYERS: Final = 3
"""Of a block. Deeper stages have two, as they have after a mutation, which splits blocks of 6 and more."""

_STEM, *_STAGES, _TAIL = zennas.START.blocks


def _genome_variables() -> dict[str, Variable]:
    variables: dict[str, Variable] = {"stem.out": _WIDTH}
    for stage in range(1, len(_STAGES) + 1):
        for block, least in ((1, 1), (2, 0)):
            variables |= {
                f"stage{stage}.block{block}.sub_layers": Count(least, _MAX_SUB_LAYERS),
                f"stage{stage}.block{block}.kind": Choice(zennas.SEARCHED_KINDS),
                f"stage{stage}.block{block}.out": _WIDTH,
                f"stage{stage}.block{block}.bottleneck": _BOTTLENECK,
            }
    return variables | {"tail.out": _TAIL_WIDTH}


def _genome(take: Take) -> zennas.Genome:
    channels: int = take("stem.out")
    blocks = [zennas.Block(_STEM.kind, zennas.IMAGE_CHANNELS, channels, _STEM.stride, None, _STEM.sub_layers)]
    for stage, start in enumerate(_STAGES, start=1):
        for block, stride in ((1, start.stride), (2, 1)):
            name = f"stage{stage}.block{block}"
            sub_layers: int = take(f"{name}.sub_layers")
            if not sub_layers:
                continue
            kind, out, bottleneck = (take(f"{name}.{field}") for field in ("kind", "out", "bottleneck"))
            blocks.append(zennas.Block(kind, channels, out, stride, bottleneck, sub_layers))
            channels = out
    blocks.append(zennas.Block(_TAIL.kind, channels, take("tail.out"), _TAIL.stride, None, _TAIL.sub_layers))
    return zennas.Genome(tuple(blocks))


_SPACES: Final[Mapping[str, Variables]] = MappingProxyType(
    {
        nasbench201.SPACE.name: Variables(
            MappingProxyType({name: Choice(nasbench201.OPERATIONS) for name in _EDGES}), _cell
        ),
        zennas.SPACE.name: Variables(MappingProxyType(_genome_variables()), _genome),
    }
)
