"""How much memory a process uses, and the machine, as Linux tells."""

from __future__ import annotations

import os
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident(statm: Path = Path("/proc/self/statm")) -> int:
    """Bytes of this process in the memory of the machine; 0 if the system does not tell."""
    try:
        return int(statm.read_text(encoding="ascii").split()[1]) * _PAGE
    except (OSError, ValueError, IndexError):
        return 0


def of_host(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> tuple[int, int]:
    """Bytes in use, and bytes there are: of this control group where it has a limit, else of the machine.

    What a file cache would give back counts as free.
    """
    try:
        size = int((cgroup / "memory.max").read_text(encoding="ascii"))
        current = int((cgroup / "memory.current").read_text(encoding="ascii"))
        return current - _fields(cgroup / "memory.stat").get("inactive_file", 0), size
    except (OSError, ValueError):  # no limit ("max"), no control groups, or the first version of them
        pass
    try:
        fields = _fields(meminfo)
        size = 1024 * fields["MemTotal:"]
        return size - 1024 * fields["MemAvailable:"], size
    except (OSError, ValueError, KeyError):
        return 0, _PAGE * os.sysconf("SC_PHYS_PAGES")


def _fields(path: Path) -> dict[str, int]:
    """The first number of each line, by the word before it."""
    return {name: int(number) for name, number, *_ in map(str.split, path.read_text(encoding="ascii").splitlines())}
