"""What the system tells of memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from archscore_server.pool import _memory

MEMINFO = "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    400 kB\nHugePages_Total:       0\n"


@pytest.fixture
def meminfo(tmp_path: Path) -> Path:
    path = tmp_path / "meminfo"
    path.write_text(MEMINFO)
    return path


def limited(tmp_path: Path, limit: str) -> Path:
    cgroup = tmp_path / "cgroup"
    cgroup.mkdir()
    (cgroup / "memory.max").write_text(f"{limit}\n")
    (cgroup / "memory.current").write_text("700\n")
    (cgroup / "memory.stat").write_text("anon 300\ninactive_file 250\n")
    return cgroup


def test_a_control_group_with_a_limit(tmp_path: Path, meminfo: Path) -> None:
    assert _memory.of_host(meminfo, limited(tmp_path, "2000")) == (450, 2000)


def test_a_control_group_without_a_limit_is_the_machine(tmp_path: Path, meminfo: Path) -> None:
    assert _memory.of_host(meminfo, limited(tmp_path, "max")) == (600 * 1024, 1000 * 1024)


def test_no_control_group_is_the_machine(tmp_path: Path, meminfo: Path) -> None:
    assert _memory.of_host(meminfo, tmp_path / "none") == (600 * 1024, 1000 * 1024)


@pytest.mark.parametrize("text", ["", "MemTotal: much kB", "MemTotal: 1000 kB"])
def test_a_system_that_does_not_tell_has_its_pages(tmp_path: Path, text: str) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(text)
    used, size = _memory.of_host(meminfo, tmp_path / "none")
    assert used == 0
    assert size == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_this_machine_and_this_process() -> None:
    used, size = _memory.of_host()
    assert 0 < _memory.resident() < size
    assert 0 < used < size


def test_a_system_that_does_not_tell_of_processes(tmp_path: Path) -> None:
    assert _memory.resident(tmp_path / "none") == 0
