"""What happens to requests, to the log and to the file when the file cannot be used, and when the server is killed."""

import asyncio
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap

import pytest

from archscore_server.store import upkeep
from archscore_server.store._file import connect
from support.stores import CELLS, CONTEXT, PROXIES, files, scores_of, until

LOGGER = "archscore_server.store"


async def works_from_memory(store):
    """Whether puts and gets go on."""
    store.put(CONTEXT, CELLS[0], scores_of(0))
    assert await store.get(CONTEXT, CELLS[:2], PROXIES) == [scores_of(0), {}]


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.INFO, LOGGER)
    return lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def other_database(path):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE precious (data)")
    connection.commit()
    connection.close()


def other_schema(path):
    connection = connect(path, "rwc", busy_seconds=1)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


def text(path):
    path.write_text("precious\n" * 1_000)


@pytest.mark.parametrize("make", [other_database, other_schema, text])
async def test_what_is_no_store_is_left_alone(opened, path, counts, warnings, make):
    make(path)
    before = path.read_bytes()
    store = await opened(path, observer=counts, retry_seconds=0.01)
    assert store.degraded
    await works_from_memory(store)
    await asyncio.sleep(0.05)
    await store.close()
    assert path.read_bytes() == before
    assert files(path.parent) == [path.name]
    assert counts.states == [True, False]
    [warning] = warnings()
    assert str(path) in warning
    assert "until the server is started again" in warning


async def test_an_empty_file_becomes_a_store(opened, path):
    path.touch()
    store = await opened(path)
    assert not store.degraded


async def test_a_directory_that_comes_later(opened, tmp_path, counts, warnings):
    path = tmp_path / "later" / "scores.db"
    store = await opened(path, observer=counts, retry_seconds=0.05)
    assert store.degraded
    await works_from_memory(store)
    await asyncio.sleep(0.3)
    assert len(warnings()) == 1, "one for all tries"
    path.parent.mkdir()
    await until(lambda: not store.degraded)
    assert counts.states == [True, False, True]
    await store.close()
    assert len(await opened(path)) == 3, "what waited has been written"


@pytest.mark.parametrize("name", ["", "no/such/scores.db"])
async def test_a_path_that_cannot_be_opened(opened, tmp_path, warnings, name):
    store = await opened(tmp_path / name)
    assert store.degraded
    await works_from_memory(store)
    await store.close()
    assert "3 scores" in warnings()[-1], "says what is lost"
    assert files(tmp_path) == []


@pytest.mark.parametrize("name", [":memory:", "a b?mode=memory#%41", "file:x"])
async def test_names_that_mean_something_to_sqlite(opened, tmp_path, name):
    store = await opened(tmp_path / name)
    store.put(CONTEXT, CELLS[0], scores_of(0))
    await store.close()
    assert files(tmp_path) == [name]


async def test_corrupt_pages(opened, path, counts, warnings):
    store = await opened(path)
    for index in range(2_000):
        store.put(CONTEXT, CELLS[index], scores_of(index))
    await store.close()
    content = bytearray(path.read_bytes())
    content[4_096 * 3 :] = b"\xa5" * (len(content) - 4_096 * 3)
    path.write_bytes(content)

    store = await opened(path, observer=counts, retry_seconds=0.01)
    assert await store.get(CONTEXT, CELLS[:2_000], PROXIES) == [{}] * 2_000
    assert store.degraded
    await works_from_memory(store)
    await asyncio.sleep(0.05)
    await store.close()
    assert await store.get(CONTEXT, [CELLS[0]], PROXIES) == [scores_of(0)]
    assert counts.states[-1] is False
    assert len(warnings()) == 1
    assert path.read_bytes() == content


async def test_corrupt_pages_found_while_writing(opened, path, counts, warnings):
    store = await opened(path, observer=counts)
    store.put(CONTEXT, CELLS[0], scores_of(0))
    await until(lambda: counts.written == 3)
    connection = sqlite3.connect(path)
    connection.execute("DROP TABLE scores")
    connection.close()
    store.put(CONTEXT, CELLS[5], scores_of(5))
    await until(lambda: store.degraded)
    assert (counts.failures, counts.dropped) == (1, 3)
    await works_from_memory(store)
    await store.close()
    assert len(warnings()) == 1


async def test_locked_by_another_process(opened, path, counts, warnings, caplog):
    store = await opened(path, observer=counts, retry_seconds=0.1)
    locker = sqlite3.connect(path, isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    store.put(CONTEXT, CELLS[0], scores_of(0))
    await until(lambda: counts.failures == 2)
    assert store.degraded
    assert len(warnings()) == 1
    await works_from_memory(store)
    locker.execute("ROLLBACK")
    locker.close()
    await until(lambda: not store.degraded)
    assert counts.states == [True, False, True]
    assert counts.dropped == 0
    assert "works again" in caplog.text
    await store.close()
    assert len(await opened(path)) == 3


async def test_closing_while_locked_takes_no_longer_than_it_may(opened, path, warnings):
    store = await opened(path)
    locker = sqlite3.connect(path, isolation_level=None)
    locker.execute("BEGIN EXCLUSIVE")
    store.put(CONTEXT, CELLS[0], scores_of(0))
    async with asyncio.timeout(10):
        await store.close()
    locker.close()
    assert "3 scores" in warnings()[-1]


async def test_closing_while_sqlite_is_stuck(opened, path, monkeypatch, warnings):
    """A statement that would never end is interrupted."""
    monkeypatch.setattr("archscore_server.store._store._CLOSE_SECONDS", 0.1)
    store = await opened(path)
    stuck = asyncio.create_task(store._in_thread(endless, store._database))
    async with asyncio.timeout(10):
        await store.close()
        with pytest.raises(Exception, match="interrupted"):
            await stuck


def endless(database):
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    database._connection.execute(numbers).fetchone()


async def test_what_waits_is_bounded(opened, tmp_path, counts, monkeypatch):
    store = await opened(tmp_path / "no" / "scores.db", observer=counts)
    for index in range(15_000):
        store.put(CONTEXT, CELLS[index], scores_of(index, [*PROXIES, "grasp", "fisher", "jacob_cov", "zen"]))
    assert counts.dropped == 15_000 * 7 - 99_995
    assert len((await store.get(CONTEXT, [CELLS[14_999]], PROXIES))[0]) == 3, "memory has it all the same"


def run_python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_a_full_disk(path):
    """Reads go on, one warning is logged, and what waited is written when there is room again."""
    result = run_python(
        """
        import asyncio, logging, resource, sys
        from pathlib import Path
        from archscore_server.store import Store
        from support.stores import CELLS, CONTEXT, Counts, PROXIES, scores_of, until

        async def main():
            counts = Counts()
            store = Store(Path(sys.argv[1]), max_in_memory=1, retry_seconds=0.1, observer=counts)
            await store.open()
            store.put(CONTEXT, CELLS[0], scores_of(0))
            await until(lambda: counts.written == 3)
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
            for index in range(1, 3_000):
                store.put(CONTEXT, CELLS[index], scores_of(index))
            await until(lambda: counts.failures >= 2)
            assert store.degraded
            assert await store.get(CONTEXT, [CELLS[0]], PROXIES) == [scores_of(0)]
            assert await store.get(CONTEXT, [CELLS[2_999]], PROXIES) == [scores_of(2_999)]
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
            await until(lambda: not store.degraded)
            await store.close()
            assert counts.states == [True, False, True] and counts.dropped == 0, vars(counts)
            assert len(store) == 9_000

        logging.basicConfig(level="WARNING", format="%(message)s")
        asyncio.run(main())
        """,
        path,
    )
    assert result.returncode == 0, result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="must become a user who may not write the file")
def test_a_file_that_may_only_be_read(path):
    result = run_python(
        """
        import asyncio, logging, os, sys
        from pathlib import Path
        from archscore_server.store import Store
        from support.stores import CELLS, CONTEXT, Counts, PROXIES, scores_of, until

        async def main(path):
            store = Store(path)
            await store.open()
            store.put(CONTEXT, CELLS[0], scores_of(0))
            await store.close()
            os.chmod(path.parent, 0o755)
            os.chdir(path.parent)
            os.setuid(65_534)
            counts = Counts()
            store = Store(Path(path.name), retry_seconds=0.1, observer=counts)
            await store.open()
            store.put(CONTEXT, CELLS[1], scores_of(1))
            await until(lambda: store.degraded)
            assert await store.get(CONTEXT, [CELLS[1]], PROXIES) == [scores_of(1)]
            await asyncio.sleep(0.3)
            await store.close()
            assert counts.dropped == 3

        logging.basicConfig(level="WARNING", format="%(message)s")
        asyncio.run(main(Path(sys.argv[1])))
        """,
        path,
    )
    assert result.returncode == 0, result.stderr
    assert len(result.stderr.splitlines()) == 2, "cannot be written, and what was lost when it was closed"


def cells_before_the_last_second(path):
    """Puts scores in a process that is killed after a while, and returns the cells put more than a second before."""
    code = """
        import asyncio, sys, time
        from pathlib import Path
        from archscore_server.store import Store
        from support.stores import CELLS, CONTEXT, scores_of

        async def main():
            store = Store(Path(sys.argv[1]))
            await store.open()
            for index, cell in enumerate(CELLS):
                store.put(CONTEXT, cell, scores_of(index))
                print(index, time.monotonic(), flush=True)
                await asyncio.sleep(0.0002)

        asyncio.run(main())
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        try:
            lines = [process.stdout.readline()]
            started = float(lines[0].split()[1])
            while float(lines[-1].split()[1]) < started + 2.2:
                lines.append(process.stdout.readline())
        finally:
            process.send_signal(signal.SIGKILL)
        killed = float(lines[-1].split()[1])
    durable = [int(line.split()[0]) for line in lines if float(line.split()[1]) < killed - 1]
    assert len(durable) > 10
    return durable


async def test_killed_in_the_middle(opened, path):
    """The file opens clean and has all that was put more than a second before."""
    durable = cells_before_the_last_second(path)
    reader = upkeep.open_for_reading(path)
    assert upkeep.stats(reader, path).scores >= 3 * len(durable), "what the dead server left can be looked at"
    reader.close()
    store = await opened(path)
    assert not store.degraded
    found = await store.get(CONTEXT, [CELLS[index] for index in durable], PROXIES)
    assert found == [scores_of(index) for index in durable]
    await store.close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert connection.execute("SELECT count(*) FROM scores").fetchone() == (len(store),)
    connection.close()
