"""How many networks are evaluated side by side: by kind of device, or as `archscore-server tune` has measured.

What was measured is kept in a file of its own, which workers read when they load. Which size is fastest depends on the
machine and on the work, and on nothing else: scores do not depend on the size beyond rounding.

Pure Python: the command line reads and writes it, too.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from archscore.spaces import SPACES
from archscore_server.engine import proxies as registry
from archscore_server.engine.config import EvaluationConfig, Precision

#: Networks in a stack by kind of device, where nothing was measured. On a CPU the cache decides; on a GPU a network is
#: thousands of small launches.
DEFAULTS: Final = {"cpu": 1, "cuda": 32}

#: Stacks in the largest batches, at least. A GPU computes one while the last is read and answered; between batches it
#: waits.
STACKS_A_BATCH: Final = {"cpu": 1, "cuda": 4}

#: The most that a file may ask for.
MOST: Final = 4096

FILE_NAME: Final = "stack-sizes.json"

_FORMAT: Final = "archscore stack sizes"
_VERSION: Final = 1

_SPACE_OF_NETWORK: Final = {type(space.network): space.name for space in SPACES.values()}

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What computes.

    Attributes:
        device_kind: "cpu" or "cuda".
        device_name: what the maker calls it.
        threads: CPU threads of an operation.
        torch_version: of torch, with its build.
        kernels: instruction set of the kernels for CPUs; "" on a GPU, and where there are none.
    """

    device_kind: str
    device_name: str
    threads: int
    torch_version: str
    kernels: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is computed, as far as speed depends on it.

    Attributes:
        space: name of the search space.
        passes: names of the passes that run, sorted.
        batch_size: images in the minibatch.
        resolution: side of an image in pixels.
        num_classes: classes of the classifier.
        precision: arithmetic.
        network: fields of the space's NetworkConfig and their values, sorted.
    """

    space: str
    passes: tuple[str, ...]
    batch_size: int
    resolution: int
    num_classes: int
    precision: str
    network: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, proxies: Sequence[str], config: EvaluationConfig) -> Self:
        """The work of scoring with proxies under a config.

        Raises:
            KeyError: a proxy is not known.
        """
        return cls(
            space=_SPACE_OF_NETWORK[type(config.network)],
            passes=tuple(sorted({own.value for name in proxies for own in registry.get(name).passes})),
            batch_size=config.batch_size,
            resolution=config.resolution,
            num_classes=config.num_classes,
            precision=config.precision.value,
            network=tuple(sorted(dataclasses.asdict(config.network).items())),
        )


@dataclass(frozen=True, slots=True)
class Tuned:
    """What was found for a machine and a workload.

    Attributes:
        stack_size: the fastest.
        per_second: networks a second by stack size, the median of what was measured.
    """

    stack_size: int
    per_second: Mapping[int, float]


Entries = Mapping[tuple[Machine, Workload], Tuned]


class StackSizes:
    """The stack sizes that were measured."""

    def __init__(self, entries: Entries | None = None) -> None:
        """Takes what was measured."""
        self.entries: Entries = dict(entries or {})

    @classmethod
    def read(cls, directory: Path | None) -> Self:
        """What is kept in a directory: nothing if there is no file, and nothing but a warning if it cannot be used."""
        if directory is None:
            return cls()
        path = directory / FILE_NAME
        try:
            return cls(_parse(path.read_bytes()))
        except (FileNotFoundError, NotADirectoryError):
            return cls()
        except (OSError, ValueError, RecursionError) as error:
            _logger.warning("stack sizes in %s are not used: %s", path, error)
            return cls()

    def find(self, machine: Machine, workload: Workload) -> int | None:
        """The fastest for this very machine and workload, if it was measured."""
        found = self.entries.get((machine, workload))
        return found.stack_size if found else None

    def of(self, machine: Machine) -> list[int]:
        """All that were found on a machine, whatever for."""
        return [found.stack_size for (own, _), found in self.entries.items() if own == machine]


def record(directory: Path, machine: Machine, workload: Workload, tuned: Tuned) -> Path:
    """Adds to what is kept in a directory, which is made if need be. What cannot be used there is replaced.

    Whoever reads meanwhile sees the file as it was or as it is then.

    Returns:
        The file.

    Raises:
        OSError: it cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    entries = {**StackSizes.read(directory).entries, (machine, workload): tuned}
    path = directory / FILE_NAME
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=directory, prefix=f".{FILE_NAME}.", delete=False
    ) as file:
        try:
            file.write(_format(entries))
            file.flush()
            os.fsync(file.fileno())
            # Servers may run as another user than whoever tunes.
            os.fchmod(file.fileno(), 0o644)
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    return path


def default_directory() -> Path | None:
    """Where stack sizes are kept unless somebody says otherwise; None if this user has no such place."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # such values count as unset, says the XDG specification
        base = Path(os.path.expanduser("~")) / ".cache"  # noqa: PTH111 -- Path.home() raises where there is none
    return base / "archscore" if base.is_absolute() else None


def _format(entries: Entries) -> str:
    listed = [
        {
            "machine": dataclasses.asdict(machine),
            "workload": {**dataclasses.asdict(workload), "network": dict(workload.network)},
            "stack_size": tuned.stack_size,
            "per_second": {str(size): rate for size, rate in tuned.per_second.items()},
        }
        for (machine, workload), tuned in entries.items()
    ]
    return json.dumps({"format": _FORMAT, "version": _VERSION, "entries": listed}, indent=1) + "\n"


def _parse(text: bytes) -> Entries:
    """Reads a file.

    Raises:
        ValueError: it is not one of ours, or broken.
    """
    content = json.loads(text)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError("it is not a file of stack sizes")
    if content.get("version") != _VERSION:
        raise ValueError(f"its version is {content.get('version')!r}, not {_VERSION}")
    try:
        return dict(_entry(entry) for entry in content["entries"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"it is broken: {error!r}") from error


def _entry(entry: Any) -> tuple[tuple[Machine, Workload], Tuned]:
    fields = entry["workload"]
    machine = Machine(**entry["machine"])
    workload = Workload(
        **{**fields, "passes": tuple(fields["passes"]), "network": tuple(sorted(fields["network"].items()))}
    )
    hash((machine, workload))
    Precision(workload.precision)
    size = entry["stack_size"]
    if type(size) is not int or not 1 <= size <= MOST:
        raise ValueError(f"a stack size must be from 1 to {MOST}, is {size!r}")
    rates = {int(own): float(rate) for own, rate in entry["per_second"].items()}
    return (machine, workload), Tuned(size, rates)
