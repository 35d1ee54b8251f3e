"""Search spaces: encodings as strings and as values, and what the networks they stand for cost.

A space is one module here that ends in a `SPACE`; `SPACES` lists them by the name that requests use.
Standard library only.
"""

from collections.abc import Mapping
from types import MappingProxyType

from archscore.spaces import nasbench201, zennas
from archscore.spaces._base import (
    Architecture,
    Description,
    EncodingError,
    Layer,
    NetworkError,
    SearchSpace,
    Size,
)

__all__ = ["SPACES", "Architecture", "Description", "EncodingError", "Layer", "NetworkError", "SearchSpace", "Size"]

SPACES: Mapping[str, SearchSpace] = MappingProxyType({space.name: space for space in (nasbench201.SPACE, zennas.SPACE)})
