"""The commands that look after a store file."""

import asyncio
import csv
import dataclasses
import io
import json
import math
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner

from archscore._version import __version__
from archscore.spaces import zennas
from archscore_server.engine import EvaluationConfig, Outcome, Score, proxies
from archscore_server.store import Store
from archscore_server.store_cli import store as group
from support.stores import CELLS, CONTEXT, PROXIES, Clock, files, ok, scores_of

DAY = 86_400


def run(*arguments, code=0, **environment):
    result = CliRunner().invoke(group, [str(argument) for argument in arguments], env=environment)
    assert result.exit_code == code, result.output
    return result


async def put(path, put_into, clock=None):
    store = Store(path, clock=clock or Clock())
    await store.open()
    put_into(store)
    await store.close()


def fill(path, put_into, clock=None):
    asyncio.run(put(path, put_into, clock))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "scores.db"


@pytest.fixture
def filled(path):
    """Three cells on three days and a genome on the fourth: twelve scores."""
    clock = Clock()
    for index in range(3):
        fill(path, lambda store, index=index: store.put(CONTEXT, CELLS[index], scores_of(index)), clock)
        clock.now += DAY
    genome = zennas.parse(zennas.SPACE.example)
    config = EvaluationConfig(repeats=2, network=zennas.NetworkConfig(residual_links=True))
    scores = {"tcet": Score(Outcome.NON_FINITE), "snip": ok(1 / 3, math.inf), "synflow": ok(5e-324, 0.0)}
    fill(path, lambda store: store.put(dataclasses.replace(CONTEXT, config=config), genome, scores), clock)
    return path


def stored(path):
    """(architecture, proxy) of what is stored, in order."""
    lines = run("export", "--store", path, "--format", "jsonl").stdout.splitlines()
    return [(row["architecture"], row["proxy"]) for row in map(json.loads, lines)]


class TestStats:
    def test_what_is_stored(self, filled):
        output = run("stats", "--store", filled).stdout
        facts, table = output.split("\n\n")
        assert [line.split(maxsplit=1)[0] for line in facts.splitlines()] == [
            "file",
            "size",
            "scores",
            "architectures",
            "contexts",
            "oldest",
            "newest",
        ]
        assert "scores         12\n" in facts
        assert "architectures  4\n" in facts
        assert "contexts       2\n" in facts
        assert "oldest use     2027-01-15 08:00:00 UTC\n" in facts
        assert "newest use     2027-01-18 08:00:00 UTC" in facts
        assert [line.split() for line in table.splitlines()] == [
            ["space", "proxy", "version", "outcome", "scores"],
            ["nasbench201", "snip", "1", "ok", "3"],
            ["nasbench201", "synflow", "1", "ok", "3"],
            ["nasbench201", "tcet", "1", "ok", "3"],
            ["zennas", "snip", "1", "ok", "1"],
            ["zennas", "synflow", "1", "ok", "1"],
            ["zennas", "tcet", "1", "non_finite", "1"],
        ]

    def test_an_empty_store(self, path):
        fill(path, lambda store: None)
        assert "newest use     never" in run("stats", "--store", path).stdout

    def test_the_variable(self, filled):
        assert run("stats", ARCHSCORE_STORE=str(filled)).stdout == run("stats", "--store", filled).stdout


class TestExport:
    def test_csv(self, filled):
        rows = list(csv.DictReader(io.StringIO(run("export", "--store", filled).stdout)))
        assert len(rows) == 12
        assert rows[0] == {
            "space": "nasbench201",
            "architecture": CELLS[0].format(),
            "proxy": "snip",
            "proxy_version": "1",
            "outcome": "ok",
            "value": "0.125",
            "standard_error": "",
            "config": json.dumps(
                {
                    "batch_size": 64,
                    "dataset": "gaussian",
                    "dataset_sha256": None,
                    "init": "kaiming_normal",
                    "nasbench201": {"cells_per_stage": 5, "channels": 16},
                    "num_classes": 10,
                    "precision": "float32",
                    "repeats": 1,
                    "resolution": 32,
                    "seed": 0,
                },
                separators=(",", ":"),
            ),
            "minibatch_sha256": "ab" * 32,
            "device_kind": "cpu",
            "torch_version": "2.13",
            "archscore_version": __version__,
            "used": "1800000000",
        }
        snip, synflow, tcet = rows[-3:]
        assert float(snip["value"]) == 1 / 3
        assert float(synflow["value"]) == 5e-324
        assert (tcet["outcome"], tcet["value"]) == ("non_finite", "")

    def test_json_lines(self, filled, tmp_path):
        output = tmp_path / "out.jsonl"
        assert run("export", "--store", filled, "--format", "jsonl", "--output", output).output == ""

        def refuse(constant):
            raise AssertionError(f"{constant} is no JSON")

        rows = [json.loads(line, parse_constant=refuse) for line in output.read_text().splitlines()]
        by_csv = list(csv.DictReader(io.StringIO(run("export", "--store", filled).stdout)))
        assert [list(row) for row in rows] == [list(row) for row in by_csv]
        assert rows[0]["config"]["nasbench201"] == {"cells_per_stage": 5, "channels": 16}
        assert rows[-1]["value"] is None
        assert rows[-3]["value"] == 1 / 3
        assert rows[-3]["standard_error"] == "Infinity"
        assert rows[-3]["config"]["zennas"] == {"residual_links": True}

    def test_while_a_server_writes(self, path):
        async def serve():
            store = Store(path)
            await store.open()
            store.put(CONTEXT, CELLS[0], scores_of(0))
            await asyncio.sleep(0.8)
            rows = await asyncio.to_thread(stored, path)
            store.put(CONTEXT, CELLS[1], scores_of(1))
            await store.close()
            return rows

        assert asyncio.run(serve()) == [(CELLS[0].format(), proxy) for proxy in sorted(PROXIES)]
        assert len(stored(path)) == 6


class TestPrune:
    def test_keep(self, filled):
        assert run("prune", "--store", filled, "--keep", "6").output == "removed 6 scores, 6 are left\n"
        genome = zennas.parse(zennas.SPACE.example).format()
        assert stored(filled) == [(text, proxy) for text in (CELLS[2].format(), genome) for proxy in sorted(PROXIES)]

    def test_unused_for(self, filled, monkeypatch):
        monkeypatch.setattr("time.time", lambda: Clock().now + 3 * DAY)
        run("prune", "--store", filled, "--unused-for", "1.5")
        assert len(stored(filled)) == 6
        assert CELLS[1].format() not in dict(stored(filled))

    def test_proxies(self, filled):
        run("prune", "--store", filled, "--proxy", "snip", "--proxy", "synflow")
        assert {proxy for _, proxy in stored(filled)} == {"tcet"}

    def test_options_narrow_one_another(self, filled):
        assert "removed 2 " in run("prune", "--store", filled, "--proxy", "snip", "--keep", "2").output
        assert (CELLS[2].format(), "snip") in stored(filled)
        assert (CELLS[0].format(), "tcet") in stored(filled)

    def test_other_versions_of_proxies(self, filled, monkeypatch):
        monkeypatch.setattr("archscore_server.store.upkeep.version", lambda name: "2.13.1+cpu")
        assert "removed 0 " in run("prune", "--store", filled, "--other-versions").output
        get = proxies.get
        newer = dataclasses.replace(get("snip"), version=2)
        monkeypatch.setattr(proxies, "get", lambda name: newer if name == "snip" else get(name))
        assert "removed 4 " in run("prune", "--store", filled, "--other-versions").output
        assert {proxy for _, proxy in stored(filled)} == {"tcet", "synflow"}

    def test_other_versions_spare_proxies_that_are_not_installed_here(self, filled, monkeypatch):
        monkeypatch.setattr("archscore_server.store.upkeep.version", lambda name: "2.13.1+cpu")
        monkeypatch.setattr(proxies, "names", lambda: ["tcet"])
        assert "removed 0 " in run("prune", "--store", filled, "--other-versions").output

    def test_other_versions_of_torch(self, filled, monkeypatch):
        monkeypatch.setattr("archscore_server.store.upkeep.version", lambda name: "2.14.0")
        assert run("prune", "--store", filled, "--other-versions").output == "removed 12 scores, 0 are left\n"

    def test_the_file_shrinks(self, path):
        fill(path, lambda store: [store.put(CONTEXT, CELLS[index], scores_of(index)) for index in range(5_000)])
        before = path.stat().st_size
        assert "removed 14,997 " in run("prune", "--store", path, "--keep", "3").output
        assert path.stat().st_size < before / 10
        connection = sqlite3.connect(path)
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("SELECT count(*) FROM architectures").fetchone()[0] <= 3
        connection.close()

    def test_a_server_goes_on(self, filled):
        async def serve():
            store = Store(filled)
            await store.open()
            await store.get(CONTEXT, CELLS[:3], PROXIES)
            await asyncio.to_thread(run, "prune", "--store", filled, "--keep", "0")
            store.put(CONTEXT, CELLS[9], scores_of(9))
            await store.close()
            return store.degraded, len(store)

        assert asyncio.run(serve()) == (False, 3)
        assert stored(filled) == [(CELLS[9].format(), proxy) for proxy in sorted(PROXIES)]

    def test_nothing_said_removes_nothing(self, filled):
        assert "Say what to remove" in run("prune", "--store", filled, code=2).stderr
        assert len(stored(filled)) == 12


COMMANDS = [["stats"], ["export"], ["prune", "--keep", "0"]]


@pytest.mark.parametrize("command", COMMANDS)
class TestNoStore:
    def test_missing(self, command, tmp_path):
        path = tmp_path / "missing.db"
        assert f"Error: there is no store {path}" in run(*command, "--store", path, code=2).stderr
        assert files(tmp_path) == []

    def test_not_said(self, command):
        assert "--store" in run(*command, code=2).stderr

    @pytest.mark.parametrize("content", [b"", b"precious\n" * 1_000])
    def test_something_else(self, command, path, content):
        path.write_bytes(content)
        assert f"{path} is no store" in run(*command, "--store", path, code=2).stderr
        assert path.read_bytes() == content
        assert files(path.parent) == [path.name]

    def test_another_database(self, command, path):
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE scores (used)")
        connection.commit()
        connection.close()
        content = path.read_bytes()
        assert "something else" in run(*command, "--store", path, code=2).stderr
        assert path.read_bytes() == content

    def test_another_schema(self, command, filled):
        connection = sqlite3.connect(filled)
        connection.execute("PRAGMA user_version = 99")
        connection.close()
        assert "schema 99" in run(*command, "--store", filled, code=2).stderr

    def test_damaged(self, command, path):
        fill(path, lambda store: [store.put(CONTEXT, CELLS[index], scores_of(index)) for index in range(2_000)])
        content = bytearray(path.read_bytes())
        content[4_096 * 3 :] = b"\xa5" * (len(content) - 4_096 * 3)
        path.write_bytes(content)
        error = run(*command, "--store", path, code=1).stderr
        assert error.startswith(f"Error: {path}: ")
        assert "Traceback" not in error


@pytest.mark.parametrize("command", [["stats"], ["export"]])
def test_looking_changes_nothing(filled, command):
    before = filled.read_bytes()
    run(*command, "--store", filled)
    assert filled.read_bytes() == before
