"""The file of tokens."""

import os
import stat
import subprocess
import sys

import pytest

from archscore_server.access import token_file, tokens
from archscore_server.access.errors import AccessError


def owner(file, token):
    return tokens.owner(token, token_file.read(file))


def test_added_listed_and_revoked(file):
    alice, bob = token_file.add(file, "alice"), token_file.add(file, "bob")
    assert list(token_file.read(file)) == ["alice", "bob"]
    assert (owner(file, alice), owner(file, bob)) == ("alice", "bob")
    token_file.revoke(file, "alice")
    assert (owner(file, alice), owner(file, bob)) == (None, "bob")
    again = token_file.add(file, "alice")
    assert again != alice
    assert (owner(file, alice), owner(file, again)) == (None, "alice")
    token_file.revoke(file, "alice")
    token_file.revoke(file, "bob")
    assert token_file.read(file) == {}
    assert list(file.parent.iterdir()) == [file]


def test_it_is_for_its_owner_alone(file):
    token_file.add(file, "alice")
    file.chmod(0o666)
    token_file.add(file, "bob")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_the_secret_is_not_in_it(file):
    token = token_file.add(file, "alice")
    assert token.split(".")[2] not in file.read_text()


def test_what_else_is_in_it_stays(file):
    file.write_text("# of the nightly search\n\n  \n# no line end")
    token = token_file.add(file, "alice")
    token_file.add(file, "ali")
    token_file.revoke(file, "ali")
    assert file.read_text().startswith("# of the nightly search\n\n  \n# no line end\nalice ")
    assert owner(file, token) == "alice"


def test_links_stay_links(file, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(file)
    token = token_file.add(link, "alice")
    assert link.is_symlink()
    assert owner(file, token) == "alice"


def test_a_name_is_given_once(file):
    token_file.add(file, "alice")
    before = file.read_bytes()
    with pytest.raises(AccessError, match="has a token alice already"):
        token_file.add(file, "alice")
    assert file.read_bytes() == before


def test_who_is_not_there_cannot_be_revoked(file):
    with pytest.raises(AccessError, match="cannot be read: No such file"):
        token_file.revoke(file, "alice")
    token_file.add(file, "bob")
    with pytest.raises(AccessError, match="no token alice"):
        token_file.revoke(file, "alice")
    assert list(token_file.read(file)) == ["bob"]


def test_many_at_once_lose_nothing(file):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from archscore_server.access import token_file\n"
        "sys.stdin.readline()\n"
        "for number in range(20):\n"
        "    token_file.add(Path(sys.argv[1]), f'{sys.argv[2]}-{number}')\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(file), str(i)], stdin=subprocess.PIPE, text=True)
        for i in range(4)
    ]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert sorted(token_file.read(file)) == sorted(f"{i}-{number}" for i in range(4) for number in range(20))
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("content", [b"alice\n", b"# fine\nalice sha256 00 11\n", "é".encode(), bytes(range(256))])
@pytest.mark.parametrize("change", [token_file.add, token_file.revoke])
def test_what_is_no_token_file_is_left_alone(file, content, change):
    file.write_bytes(content)
    with pytest.raises(AccessError, match="is no token file"):
        change(file, "bob")
    assert file.read_bytes() == content
    assert list(file.parent.iterdir()) == [file]


def test_a_fault_says_its_line_and_not_what_is_there(file):
    file.write_text("# fine\nalice sha256 00 11\n")
    with pytest.raises(AccessError, match=r"line 2: salt and hash") as caught:
        token_file.read(file)
    assert "00" not in str(caught.value).removeprefix(str(file))


def test_two_of_one_name_are_a_fault(file):
    token_file.add(file, "alice")
    file.write_text(file.read_text() * 2)
    with pytest.raises(AccessError, match="line 2: there are two tokens alice"):
        token_file.read(file)


def test_directories_that_are_not_there(file):
    with pytest.raises(AccessError, match="no cannot be opened: No such file"):
        token_file.add(file.parent / "no" / "tokens", "alice")


def test_what_cannot_be_written_is_as_before(file, monkeypatch):
    token_file.add(file, "alice")
    before = file.read_bytes()

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AccessError, match="cannot be written: No space left"):
        token_file.add(file, "bob")
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_owner_stays(file):
    token_file.add(file, "alice")
    os.chown(file, 1234, 1234)
    token_file.add(file, "bob")
    assert (file.stat().st_uid, file.stat().st_gid) == (1234, 1234)
