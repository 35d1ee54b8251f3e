"""The registry: a proxy is a function and what is said about it.

Installed packages add to it: the modules that they name under the entry point group `archscore.proxies` are imported
when the registry is first read, in front ends and workers alike.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any, TypeVar

from archscore_server.engine.statistics import MINIBATCHES, STATISTICS, Pass

F = TypeVar("F", bound=Callable[..., Any])

#: The entry point group of modules that hold proxies.
GROUP = "archscore.proxies"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Proxy:
    """A zero-cost proxy.

    Attributes:
        name: the name that requests use.
        version: version of the definition; scores of different versions do not compare.
        higher_is_better: which way it ranks.
        description: what it measures, in a sentence.
        formula: how it is computed.
        paper: where it comes from.
        uses_labels: whether the score depends on the labels of the minibatch.
        needs: the statistics that it is computed from, in the order of `compute`'s parameters.
        static: whether it follows from the encoding alone; then `compute` takes a Size instead.
        compute: statistics in the order of `needs` -> one number per network, [A].
    """

    name: str
    version: int
    higher_is_better: bool
    description: str
    formula: str
    paper: str
    uses_labels: bool
    needs: tuple[str, ...]
    static: bool
    compute: Callable[..., Any]

    @property
    def passes(self) -> tuple[Pass, ...]:
        """The passes that yield what it needs, each once."""
        return tuple(dict.fromkeys(STATISTICS[need] for need in self.needs))

    @property
    def minibatches(self) -> int:
        """Minibatches of the config's dataset that must be there for these passes; at least 1."""
        return max((MINIBATCHES.get(needed, 1) for needed in self.passes), default=1)


class Registry:
    """Proxies by name, those of installed packages included."""

    def __init__(self) -> None:
        """No proxy yet."""
        self._proxies: dict[str, Proxy] = {}
        self._complete = False
        self._lock = threading.RLock()

    def add(self, proxy: Proxy) -> None:
        """Adds a proxy.

        Raises:
            ValueError: its name is taken.
        """
        taken = self._proxies.get(proxy.name)
        if taken:
            raise ValueError(f"there is a proxy {proxy.name!r} already, in {taken.compute.__module__}")
        self._proxies[proxy.name] = proxy

    def read(self) -> Mapping[str, Proxy]:
        """All proxies; the first call loads those of installed packages."""
        with self._lock:
            if not self._complete:
                self._complete = True  # before loading: a module may read the registry while it is imported
                self._load(entry_points(group=GROUP))
        return MappingProxyType(self._proxies)

    def _load(self, found: Iterable[EntryPoint]) -> None:
        """Imports what entry points name; of one that fails no proxy is kept."""
        # Sorted, so that which of two packages with one name wins does not depend on the order of sys.path.
        for origin, entry_point in sorted({_origin(entry_point): entry_point for entry_point in found}.items()):
            before = dict(self._proxies)
            try:
                entry_point.load()
            except Exception as error:  # whatever a package does, the others are there
                self._proxies = before
                _logger.warning("no proxies from %s: %s: %s", origin, type(error).__name__, error, exc_info=True)


_REGISTRY = Registry()


def _origin(entry_point: EntryPoint) -> str:
    distribution = entry_point.dist
    package = f"{distribution.name} {distribution.version}" if distribution else "an unknown package"
    return f"{package} ({entry_point.name} = {entry_point.value})"


def proxy(
    *,
    formula: str,
    paper: str,
    name: str | None = None,
    version: int = 1,
    higher_is_better: bool = True,
    uses_labels: bool = True,
) -> Callable[[F], F]:
    """Registers a function as a proxy.

    The function's parameters name the statistics that it needs, or it takes `size` alone and follows from the
    encoding. The first paragraph of its docstring says what it measures.

    Args:
        formula: how the score is computed.
        paper: authors, title, venue.
        name: the name that requests use; the function's by default.
        version: to be raised whenever the definition changes.
        higher_is_better: which way it ranks.
        uses_labels: whether the score depends on the labels of the minibatch.

    Raises:
        ValueError: the name is taken, a parameter is not a statistic, or there is no docstring.
    """

    def register(function: F) -> F:
        own_name = name or function.__name__
        parameters = tuple(inspect.signature(function).parameters)
        static = parameters == ("size",)
        unknown = [] if static else [parameter for parameter in parameters if parameter not in STATISTICS]
        description = " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())
        if unknown:
            raise ValueError(f"proxy {own_name!r} needs unknown statistics {unknown}: known are {list(STATISTICS)}")
        if not description:
            raise ValueError(f"proxy {own_name!r} has no docstring")
        _REGISTRY.add(
            Proxy(
                name=own_name,
                version=version,
                higher_is_better=higher_is_better,
                description=description,
                formula=formula,
                paper=paper,
                uses_labels=uses_labels,
                needs=() if static else parameters,
                static=static,
                compute=function,
            )
        )
        return function

    return register


def get(name: str) -> Proxy:
    """The proxy of that name.

    Raises:
        KeyError: there is none; the message names those there are.
    """
    try:
        return _REGISTRY.read()[name]
    except KeyError:
        raise KeyError(f"unknown proxy {name!r}: known are {', '.join(names())}") from None


def names() -> list[str]:
    """Names of all proxies, sorted."""
    return sorted(_REGISTRY.read())
