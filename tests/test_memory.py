"""A thousand cells through the command line leave no trace in server or client."""

import random
import subprocess
import sys

import pytest

from archscore.spaces import nasbench201
from support.process import resident_bytes, server_process

CELLS = 1000
CONFIG = '{"batchSize": 16, "nasbench201": {"channels": 4, "cellsPerStage": 1}}'

#: What an allocator may keep back. A leak of 10 kB an architecture would be 9 MB.
SLACK = 8 * 2**20


@pytest.mark.slow
def test_memory_does_not_grow_past_the_first_hundred() -> None:
    rng = random.Random(0)
    cells = "\n".join(nasbench201.sample(rng).format() for _ in range(CELLS)) + "\n"
    command = [sys.executable, "-m", "archscore.cli", "score", "--proxies", "tcet,ssnr,naswot", "--config", CONFIG]
    with server_process("--workers", "1", "--threads", "1") as server:
        command += ["--json", "--file", "-", "--server", server.address]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write(cells)
            client.stdin.close()
            sizes = []
            for answered in range(1, CELLS + 1):
                assert client.stdout.readline()
                # The last answers leave the client early: it must still be running when it is measured.
                if answered in (100, 900):
                    sizes.append((server.resident_bytes(), resident_bytes(client.pid)))
            assert client.wait(timeout=60) == 0
        sizes.append((server.resident_bytes(), sizes[-1][1]))
    for later in sizes[1:]:
        for before, after in zip(sizes[0], later, strict=True):
            assert after <= before + SLACK, sizes
