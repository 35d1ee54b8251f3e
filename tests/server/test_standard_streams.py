"""Descriptors 0 to 2 are never a client's."""

import subprocess
import sys

import pytest

CODE = """
import os, socket, subprocess, sys
from archscore_server import standard_streams
standard_streams.open_closed()
print("into nowhere, or to whom it should")
sys.stderr.write("the same")
with socket.socket() as opened, open(sys.argv[1], "w") as file:
    child = subprocess.run([sys.executable, "-c", "import os; [os.fstat(number) for number in range(3)]"])
    print(opened.fileno() > 2, child.returncode, file=file)
"""


@pytest.mark.parametrize("closed", ["", "<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_what_is_closed_leads_nowhere(closed, tmp_path):
    found = tmp_path / "found"
    script = f'exec "$0" "$@" {closed}'
    ended = subprocess.run(
        ["bash", "-c", script, sys.executable, "-c", CODE, found],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.read_text() == "True 0\n"
    assert ended.stdout == ("" if ">&-" in closed.replace("2>&-", "") else "into nowhere, or to whom it should\n")
    assert ended.stderr == ("" if "2>&-" in closed else "the same")
