"""The client works with the oldest versions that it declares, as it does with those of today."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import archscore.testing
import puppet_server
from puppet_server import score_of

FLOOR_PYTHON = os.environ.get("ARCHSCORE_FLOOR_PYTHON")
CLIENT = Path(__file__).parents[2] / "client"

SCRIPT = """
import asyncio, json, sys
from importlib.metadata import version
from archscore import AsyncClient, Client, InvalidRequestError
from archscore.spaces import nasbench201

config = {"batchSize": 8, "nasbench201": {"channels": 4, "cellsPerStage": 1}}
cells = [nasbench201.from_index(6111), "|bad|", "index:77"]

async def ask_async(target):
    async with AsyncClient(target) as client:
        return [r async for r in client.score_many(cells, ["snip"], space="nasbench201", config=config)]

with Client(sys.argv[1]) as client:
    results = list(client.score_many(cells, ["snip"], space="nasbench201", config=config))
    description = client.describe(cells[0], config=config)
    known = [proxy.name for proxy in client.proxies()]
    spaces = [space.name for space in client.spaces()]
    info = client.server_info()
    try:
        client.score(cells[0], ["nothing"])
    except InvalidRequestError as error:
        refusal = str(error)
again = asyncio.run(ask_async(sys.argv[1]))
print(json.dumps({
    "versions": {name: version(name) for name in ("grpcio", "grpcio-status", "protobuf", "googleapis-common-protos")},
    "values": [result["snip"] if result.error is None else None for result in results],
    "again": [result["snip"] if result.error is None else None for result in again],
    "error": str(results[1].error),
    "parameters": description.parameters,
    "known": known,
    "spaces": spaces,
    "server": info.archscore_version,
    "refusal": refusal,
}))
"""


at_floor = pytest.mark.skipif(
    FLOOR_PYTHON is None, reason="ARCHSCORE_FLOOR_PYTHON names no Python with the oldest versions"
)
today_and_at_floor = pytest.mark.parametrize(
    "python", [pytest.param(sys.executable, id="today"), pytest.param(FLOOR_PYTHON, id="floor", marks=at_floor)]
)

NAMES = [f"cell{number}" for number in range(20)]

# The blocking client, with all its pauses: streams, and a call that starts while the server is away.
OUTAGE = """
import logging, sys
from archscore import Client

logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(message)s")
with Client(sys.argv[1], timeout=60) as client:
    if sys.argv[2:]:
        for result in client.score_many(sys.argv[2:], ["tcet"], chunk_size=5, max_in_flight=2):
            print(result.architecture, result["tcet"], flush=True)
    else:
        print("before", client.server_info().archscore_version, flush=True)
        sys.stdin.readline()
        print("after", client.server_info(timeout=60).archscore_version, flush=True)
"""

CLOSING = """
import asyncio, sys
from archscore import AsyncClient, UsageError

async def main():
    client = AsyncClient(sys.argv[1])
    results = client.score_many(["a", "b"], ["tcet"])
    await anext(results)
    await client.close()
    try:
        await asyncio.wait_for(anext(results), 20)
    except UsageError as error:
        print(error)

asyncio.run(main())
"""


@contextlib.contextmanager
def running(python: str, script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Runs a script with the client in a process of its own; what it says on stderr fails the test."""
    command = [python, "-W", "error", "-c", script, *arguments]
    environment = {"PYTHONPATH": os.pathsep.join([str(CLIENT), *(sys.path if python == sys.executable else [])])}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:
        try:
            yield process
            assert process.stderr.read() == ""
            assert process.wait(60) == 0
        finally:
            process.kill()


def wait_for_warning(process: subprocess.Popen[str]) -> None:
    """Waits until the client has tried in vain for a while."""
    for line in process.stdout:
        if line.startswith("trying again"):
            return
    pytest.fail(f"the client did not warn: {process.stderr.read()}")


@today_and_at_floor
def test_streams_outlive_a_server_that_is_killed(python: str) -> None:
    with contextlib.ExitStack() as stack:
        server, target = stack.enter_context(puppet_server.process(hangs_after=3))
        process = stack.enter_context(running(python, OUTAGE, target, *NAMES))
        given = [process.stdout.readline().split() for _ in range(3)]
        server.kill()
        server.wait()
        wait_for_warning(process)
        stack.enter_context(puppet_server.process(int(target.rpartition(":")[2])))
        given += [line.split() for line in process.stdout]
        assert given == [[name, str(score_of(name, "tcet"))] for name in NAMES]


@today_and_at_floor
def test_a_call_waits_for_a_server_that_is_killed(python: str) -> None:
    with contextlib.ExitStack() as stack:
        server, target = stack.enter_context(puppet_server.process())
        process = stack.enter_context(running(python, OUTAGE, target))
        assert process.stdout.readline() == "before 1.2.3\n"
        server.kill()
        server.wait()
        process.stdin.write("\n")
        process.stdin.flush()
        wait_for_warning(process)
        stack.enter_context(puppet_server.process(int(target.rpartition(":")[2])))
        assert process.stdout.read() == "after 1.2.3\n"


@today_and_at_floor
def test_closing_the_asynchronous_client_ends_what_is_in_flight(python: str) -> None:
    with puppet_server.process(hangs_after=1) as (_, target), running(python, CLOSING, target) as process:
        assert process.stdout.read() == "the client is closed\n"


@at_floor
def test_the_client_at_its_floor() -> None:
    assert FLOOR_PYTHON is not None
    with archscore.testing.server(threads=1) as server:
        answer = subprocess.run(
            [FLOOR_PYTHON, "-W", "error", "-c", SCRIPT, server.address],
            capture_output=True,
            text=True,
            check=False,
            env={"PYTHONPATH": str(CLIENT)},
        )
    assert answer.returncode == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert found["versions"] == {
        "grpcio": "1.68.1",
        "grpcio-status": "1.68.1",
        "protobuf": "5.28.1",
        "googleapis-common-protos": "1.66.0",
    }
    for first, bad, last in (found["values"], found["again"]):
        assert first > 0
        assert bad is None
        assert last > 0
    assert "position 1" in found["error"]
    assert found["parameters"] > 0
    assert "tcet" in found["known"]
    assert found["spaces"] == ["nasbench201", "zennas"]
    assert found["server"]
    assert "tcet" in found["refusal"], "an unknown proxy names the known ones"
