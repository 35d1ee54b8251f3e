"""A worker's side of the conversation, when the other side is gone."""

import subprocess
import sys

import pytest

from archscore_server.pool._messages import encode

SCRIPT = """
import time
from archscore_server.pool.worker import Channel

channel = Channel()
channel.receive()
{speak}
time.sleep(60)
"""


@pytest.mark.parametrize(
    "speak",
    [
        "channel.send('anything')",
        "channel.send_results([(0, 'first')])",
        "channel._sent_results = time.monotonic(); channel.send_results([(0, 'handed on by its thread')])",
        "channel.beat(0.01)",
    ],
    ids=["message", "results", "gathered results", "beat"],
)
def test_who_cannot_be_heard_ends_and_says_nothing(speak: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(speak=speak)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as worker:
        assert worker.stdin
        assert worker.stdout
        assert worker.stderr
        worker.stdout.close()
        worker.stdin.write(encode("go on"))  # and stdin stays open: only what is said can tell
        worker.stdin.flush()
        assert worker.stderr.read() == b""
        assert worker.wait(timeout=60) == 0
