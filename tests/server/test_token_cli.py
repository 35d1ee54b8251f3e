"""The commands that look after a token file."""

import re
import stat

import pytest
from click.testing import CliRunner

from archscore_server import cli
from archscore_server.access import token_file, tokens


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tokens"


def run(*arguments, code=0, **environment):
    arguments = [str(argument) for argument in ("token", *arguments)]
    result = CliRunner().invoke(cli.main, arguments, env=environment)
    assert result.exit_code == code, result.output
    return result


def test_a_token_is_printed_once_and_alone(path):
    result = run("add", "alice", "--tokens", path)
    assert re.fullmatch(r"archscore\.alice\.[A-Za-z0-9_-]{43}\n", result.stdout)
    assert result.stderr == ""
    assert tokens.owner(result.stdout.strip(), token_file.read(path)) == "alice"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert result.stdout.strip() not in path.read_text()


def test_listed_and_revoked(path):
    secret = run("add", "alice", ARCHSCORE_TOKENS=str(path)).stdout.strip()
    run("add", "bob", ARCHSCORE_TOKENS=str(path))
    assert run("list", "--tokens", path).stdout == "alice\nbob\n"
    result = run("revoke", "alice", "--tokens", path)
    assert (result.stdout, result.stderr) == ("", "")
    assert run("list", "--tokens", path).stdout == "bob\n"
    assert tokens.owner(secret, token_file.read(path)) is None


def test_a_name_that_is_there_is_refused(path):
    run("add", "alice", "--tokens", path)
    before = path.read_bytes()
    result = run("add", "alice", "--tokens", path, code=2)
    assert result.stdout == ""
    assert "has a token alice already" in result.stderr
    assert path.read_bytes() == before


@pytest.mark.parametrize("command", ["add", "revoke"])
@pytest.mark.parametrize("name", ["", "a b", "a.b", "a" * 65, "é"])
def test_what_is_no_name(path, command, name):
    result = run(command, "--tokens", path, "--", name, code=2)
    assert "1 to 64" in result.stderr
    assert not path.exists()


def test_who_is_not_there_cannot_be_revoked(path):
    assert "cannot be read: No such file" in run("revoke", "alice", "--tokens", path, code=2).stderr
    assert "cannot be read: No such file" in run("list", "--tokens", path, code=2).stderr
    run("add", "bob", "--tokens", path)
    assert "no token alice" in run("revoke", "alice", "--tokens", path, code=2).stderr


@pytest.mark.parametrize("arguments", [["add", "alice"], ["list"], ["revoke", "alice"]])
def test_something_else(path, arguments):
    assert "--tokens" in run(*arguments, code=2).stderr
    path.write_text("precious\n")
    assert "is no token file: line 1" in run(*arguments, "--tokens", path, code=2).stderr
    assert path.read_text() == "precious\n"
