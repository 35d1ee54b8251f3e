"""Versions of files."""

import os

from archscore_server.access import files


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
