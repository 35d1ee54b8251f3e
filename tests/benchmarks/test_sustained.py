"""What sustained.py measures and makes of it."""

import json
import os

import pytest

import sustained


def row(service, engine, memory):
    return {"service": service, "engine": engine, "architectures": 100, "resident_bytes": memory}


STEADY = [row(10.2, 10.0, 1000)] * 6


def test_a_steady_service_as_fast_as_the_engine_passes() -> None:
    summary = sustained.summarise(STEADY)
    assert summary["engine_per_second"] == 10
    assert summary["throughput"] == pytest.approx(10 / 10.2)
    assert sustained.missed(summary) == []


def test_a_machine_that_slows_down_is_not_held_against_the_service() -> None:
    assert sustained.missed(sustained.summarise([*STEADY, *[row(20.4, 20.0, 1000)] * 6])) == []


@pytest.mark.parametrize(
    ("late", "name"),
    [
        ([row(12.0, 10.0, 1000)] * 3, "cost_last_over_first"),
        ([row(10.2, 10.0, 1200)], "memory_last_over_first"),
        ([row(12.0, 10.0, 1000)] * 20, "throughput"),
    ],
)
def test_what_gets_worse_is_missed(late, name) -> None:
    assert name in sustained.missed(sustained.summarise([*STEADY, *late]))


def test_memory_counts_children() -> None:
    own = sustained.resident_bytes(os.getpid())
    assert own > 2**20
    pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
    try:
        assert sustained.resident_bytes(os.getpid()) > sustained.resident_bytes(pid) > 0
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


@pytest.mark.slow
def test_a_short_run(tmp_path, capsys) -> None:
    path = tmp_path / "report.json"
    arguments = ["--architectures", "20", "--part", "10", "--workers", "1", "--json", str(path)]
    assert sustained.main(arguments) == 0
    report = json.loads(path.read_text())
    assert [part["architectures"] for part in report["parts"]] == [10, 10]
    assert "| service over engine |" in capsys.readouterr().out
