"""The client works with the oldest versions that it declares."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from support.process import server_process

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


@pytest.mark.skipif(FLOOR_PYTHON is None, reason="ARCHSCORE_FLOOR_PYTHON names no Python with the oldest versions")
def test_the_client_at_its_floor() -> None:
    assert FLOOR_PYTHON is not None
    with server_process("--workers", "1") as server:
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
