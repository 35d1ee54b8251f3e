"""The tokens in force follow their file."""

import logging
import os

import pytest

from archscore_server.access import token_file
from archscore_server.access.errors import AccessError
from archscore_server.access.token_watch import TokenWatch


@pytest.fixture
def usable():
    """What the watch said about the file."""
    return []


@pytest.fixture
def watch(file, usable):
    """A watch that has not been started."""
    return TokenWatch(file, usable.append)


def errors(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]


def test_changes_are_noticed_at_once(file, watch, usable):
    alice = token_file.add(file, "alice")
    watch.start()
    assert watch.owner(alice) == "alice"
    for number in range(50):
        bob = token_file.add(file, "bob")
        assert watch.owner(bob) == "bob", number
        token_file.revoke(file, "bob")
        assert watch.owner(bob) is None, number
        assert watch.owner(alice) == "alice"
    assert set(usable) == {True}


def test_it_is_read_only_when_it_has_changed(file, watch, monkeypatch):
    alice = token_file.add(file, "alice")
    watch.start()
    reads = []
    read = token_file.read
    monkeypatch.setattr(token_file, "read", lambda path: reads.append(path) or read(path))
    for _ in range(10):
        assert watch.owner(alice) == "alice"
    assert not reads
    os.utime(file)
    watch.owner(alice)
    watch.owner(alice)
    assert len(reads) == 1


def missing(file):
    file.unlink()


def malformed(file):
    file.write_text("nonsense\n")


def a_directory(file):
    file.unlink()
    file.mkdir()


def a_pipe(file):
    file.unlink()
    os.mkfifo(file)


def huge(file):
    os.truncate(file, 2**40)


@pytest.mark.parametrize("spoil", [missing, malformed, a_directory, a_pipe, huge])
def test_while_it_cannot_be_used_the_tokens_of_before_stay(file, watch, usable, caplog, spoil):
    alice = token_file.add(file, "alice")
    watch.start()
    content = file.read_text()
    spoil(file)
    for _ in range(3):
        assert watch.owner(alice) == "alice"
        assert watch.owner("archscore.alice.wrong") is None
    assert usable == [True, False]
    [error] = errors(caplog)
    assert str(file) in error
    assert "the tokens of before stay in force" in error

    if file.is_dir():
        file.rmdir()
    elif file.exists():
        file.unlink()
    file.write_text(content + "# repaired\n")
    bob = token_file.add(file, "bob")
    assert (watch.owner(alice), watch.owner(bob)) == ("alice", "bob")
    assert usable[-1] is True
    assert len(errors(caplog)) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_a_file_that_can_be_read_again_is(file, watch, usable):
    alice = token_file.add(file, "alice")
    watch.start()
    file.chmod(0)
    assert watch.owner(alice) == "alice"
    assert usable == [True, False]
    file.chmod(0o600)
    assert watch.owner(alice) == "alice"
    assert usable == [True, False, True]


def test_a_change_of_mode_is_a_change(file, watch, usable):
    alice = token_file.add(file, "alice")
    watch.start()
    file.chmod(0o400)
    watch.owner(alice)
    assert usable == [True, True]


def test_to_empty_it_revokes_all(file, watch):
    alice = token_file.add(file, "alice")
    watch.start()
    file.write_text("")
    assert watch.owner(alice) is None


@pytest.mark.parametrize("spoil", [missing, malformed, a_directory, a_pipe, huge])
def test_it_must_be_right_at_start(file, watch, spoil):
    token_file.add(file, "alice")
    spoil(file)
    with pytest.raises(AccessError, match=str(file)):
        watch.start()


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True), (0o604, True)])
def test_what_everybody_can_read_is_warned_of(file, watch, caplog, mode, warned):
    token_file.add(file, "alice")
    file.chmod(mode)
    watch.start()
    assert ("can be read by everybody" in caplog.text) == warned


def test_no_tokens_at_all_are_warned_of(file, watch, caplog):
    file.touch()
    watch.start()
    assert "nobody may call" in caplog.text
