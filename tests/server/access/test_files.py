"""Versions of files, and what can be read."""

import os
import stat

import pytest

from archscore_server.access import files
from archscore_server.access.errors import AccessError


def test_versions_differ_when_the_file_does(tmp_path):
    path = tmp_path / "file"
    seen = [files.version(path)]
    assert seen == [None]
    path.write_text("a")
    seen.append(files.version(path))
    path.write_text("ab")
    seen.append(files.version(path))
    os.utime(path, ns=(1, 1))
    seen.append(files.version(path))
    other = tmp_path / "other"
    other.write_text("ab")
    other.replace(path)
    seen.append(files.version(path))
    assert len(set(seen)) == len(seen)
    assert files.version(path) == seen[-1]


def test_links_are_followed(tmp_path):
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_text("a")
    link.symlink_to(path)
    assert files.version(link) == files.version(path)


def test_files_are_due_when_one_has_changed(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("a")
    watch = files.Watch(first, second)
    assert not watch.due()
    second.write_text("b")
    assert watch.due()
    assert not watch.due()
    first.unlink()
    assert watch.due()
    assert not watch.due()


def test_files_that_failed_are_due_again_and_no_news(tmp_path):
    now = 100.0
    path = tmp_path / "file"
    path.write_text("a")
    watch = files.Watch(path, now=lambda: now)
    os.utime(path, ns=(1, 1))
    assert watch.due()
    assert watch.failed()
    now += 0.9
    assert not watch.due()
    now += 0.2
    assert watch.due()
    assert not watch.failed()
    os.utime(path, ns=(2, 2))
    assert watch.due()
    assert watch.failed()
    now += 2
    assert watch.due()  # and this time it can be used
    now += 2
    assert not watch.due()


def test_files_are_read_through_links(tmp_path):
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"a\r\n\x00")
    link.symlink_to(path)
    assert files.read(link) == b"a\r\n\x00"


@pytest.mark.parametrize("kind", ["missing", "directory", "pipe", "device"])
def test_what_is_no_file_is_neither_read_nor_waited_for(tmp_path, kind):
    path = tmp_path / "file"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
        assert stat.S_ISCHR(path.stat().st_mode)
    with pytest.raises(AccessError, match="cannot be read: ") as caught:
        files.read(path)
    assert str(path) in str(caught.value)


def test_a_large_file_is_not_read_whole(tmp_path):
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(2**40)  # of which there is nothing on the disk
    with pytest.raises(AccessError, match="more than 4,194,304 bytes"):
        files.read(path)
