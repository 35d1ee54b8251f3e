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
