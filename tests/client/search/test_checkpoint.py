"""Log and checkpoint fit together whatever happened to them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from archscore import UsageError
from archscore.search import LocalSearch, RandomSearch, Record, Settings, run_search
from support.scorers import FakeScorer

SETTINGS = Settings(space="nasbench201", evaluations=40, proxies=("tcet",), strategy=RandomSearch(), batch=8)


def resume(directory, **changes):
    return run_search(FakeScorer(), replace(SETTINGS, **changes), directory=directory, resume=True)


@pytest.fixture
def interrupted(tmp_path):
    """The directory of a search that ended after 20 evaluations."""
    with pytest.raises(KeyboardInterrupt):
        run_search(FakeScorer(ends_after=20), SETTINGS, directory=tmp_path)
    return tmp_path


@pytest.fixture
def log(tmp_path_factory):
    """The log of a search that never ended early."""
    directory = tmp_path_factory.mktemp("whole")
    run_search(FakeScorer(), SETTINGS, directory=directory)
    return (directory / "log.jsonl").read_bytes()


def test_a_line_of_the_log_is_a_record(interrupted):
    for index, line in enumerate((interrupted / "log.jsonl").read_text().splitlines()):
        record = Record.from_line(line)
        assert record.index == index
        assert record.to_line() == line


def test_what_the_log_has_beyond_the_checkpoint_is_cut_off(interrupted, log):
    with (interrupted / "log.jsonl").open("ab") as file:
        file.write(b'{"index": 20, "stage"')
    resume(interrupted)
    assert (interrupted / "log.jsonl").read_bytes() == log


def test_a_checkpoint_that_was_not_finished_does_not_count(interrupted, log):
    (interrupted / "checkpoint.json.tmp").write_text('{"format"')
    resume(interrupted)
    assert (interrupted / "log.jsonl").read_bytes() == log


def test_a_search_that_died_before_its_first_checkpoint_starts_again(interrupted, log):
    (interrupted / "checkpoint.json").unlink()
    resume(interrupted)
    assert (interrupted / "log.jsonl").read_bytes() == log


def test_a_checkpoint_comes_after_every_batch(tmp_path):
    seen = []

    def look(record, history):
        path = tmp_path / "checkpoint.json"
        seen.append(json.loads(path.read_text())["records"] if path.exists() else 0)

    run_search(FakeScorer(), SETTINGS, directory=tmp_path, on_record=look)
    assert seen == [number // 8 * 8 for number in range(40)]


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"seed": 1}, "seed was 0, is 1"),
        ({"proxies": ("tcet", "naswot")}, r'proxies was \["tcet"\], is \["tcet", "naswot"\]'),
        ({"strategy": LocalSearch()}, 'strategy was "random", is "local"; strategy.patience was not set, is 24'),
        ({"config": {"seed": 7}}, r'config was {}, is {"seed": 7}'),
        ({"evaluations": 39}, "a search of 40 evaluations: a resumed one may have more, not only 39"),
    ],
)
def test_another_search_is_refused_naming_the_difference(interrupted, changes, difference):
    before = {path.name: path.read_bytes() for path in interrupted.iterdir()}
    with pytest.raises(UsageError, match=difference):
        resume(interrupted, **changes)
    assert {path.name: path.read_bytes() for path in interrupted.iterdir()} == before


@pytest.mark.parametrize("options", [{"resume": True}, {"overwrite": True}])
def test_two_searches_do_not_share_a_directory(tmp_path, options):
    def intrude(record, history):
        if record.index == 20:
            with pytest.raises(UsageError, match="another search is at work"):
                run_search(FakeScorer(), SETTINGS, directory=tmp_path, **options)

    run_search(FakeScorer(), SETTINGS, directory=tmp_path, on_record=intrude)
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 40
    resume(tmp_path)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("checkpoint.json", lambda text: text[:-20], "cannot resume from .*checkpoint.json"),
        ("checkpoint.json", lambda text: text.replace('"format": 1', '"format": 9'), "another version of archscore"),
        ("checkpoint.json", lambda text: "[]", "cannot resume from .*checkpoint.json"),
        ("log.jsonl", lambda text: text[:-1], "log.jsonl: it is shorter"),
        ("log.jsonl", lambda text: text.replace('"index": 3', '"index": 4'), "log.jsonl: it has other records"),
        ("log.jsonl", lambda text: text.replace('"stage"', '"stags"'), "log.jsonl: not a record"),
        ("log.jsonl", None, "No such file"),
    ],
)
def test_damage_is_refused(interrupted, name, damage, message):
    path = interrupted / name
    if damage:
        path.write_text(damage(path.read_text()))
    else:
        path.unlink()
    with pytest.raises(UsageError, match=message):
        resume(interrupted)


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write to .*file"):
        run_search(FakeScorer(), SETTINGS, directory=tmp_path / "file" / "search")
