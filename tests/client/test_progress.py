"""The progress bar and the tables, character by character."""

from __future__ import annotations

import io
import os
import termios

import pytest

from archscore import _table
from archscore._progress import Progress
from archscore._results import Outcome, Score

CLEAR = "\r\x1b[K"


class Bar:
    """A bar, what it draws on, and its clock."""

    def __init__(self, **settings):
        self.now = 0.0
        self.stream = io.StringIO()
        self.bar = Progress(self.stream, clock=lambda: self.now, **{"total": 100, "visible": True, **settings})

    def advance(self, count, seconds):
        for _ in range(count):
            self.now += seconds / count
            self.bar.advance()
        return self.stream.getvalue().rpartition(CLEAR)[2]


def test_short_lists_have_no_bar():
    bar = Bar()
    assert bar.advance(99, 0.9) == ""


def test_count_rate_and_time_left():
    bar = Bar()
    assert bar.advance(25, 5) == "[######..................] 25/100  5.0/s  0:15 left"


def test_slow_and_long():
    bar = Bar(total=10_000)
    assert bar.advance(10, 20) == "[........................] 10/10,000  2.0 s each  5:33:00 left"


def test_without_a_total():
    assert Bar(total=None).advance(1000, 500) == "1,000  2.0/s"


def test_more_than_announced():
    assert Bar(total=1).advance(2, 2).startswith(f"[{'#' * 24}] 2/1")


def test_not_drawn_more_often_than_ten_times_a_second():
    bar = Bar()
    bar.advance(100, 2)
    assert bar.stream.getvalue().count(CLEAR) <= 11


def test_notes_stay_and_the_bar_goes():
    bar = Bar()
    bar.advance(50, 5)
    bar.bar.note("a word")
    bar.bar.clear()
    bar.bar.note("another")
    assert bar.stream.getvalue().endswith(
        f"{CLEAR}a word\n{CLEAR}[############............] 50/100  10.0/s  0:05 left{CLEAR}another\n"
    )
    bar.advance(1, 1)
    bar.bar.close()
    assert bar.stream.getvalue().endswith(CLEAR)


@pytest.mark.parametrize(("columns", "shown"), [(20, 19), (56, 55), (55, 54), (0, 55)])
def test_the_bar_fits_the_terminal(columns, shown):
    ours, terminal = os.openpty()
    with os.fdopen(ours, "rb"), os.fdopen(terminal, "w") as stream:
        termios.tcsetwinsize(terminal, (24, columns))
        now = 0.0
        bar = Progress(stream, total=100, visible=True, clock=lambda: now)
        now = 2.0
        bar.advance()
        drawn = os.read(ours, 1000).decode()
    whole = f"[{'.' * 24}] 1/100  2.0 s each  3:18 left"
    assert (drawn, len(whole)) == (CLEAR + whole[:shown], 55)


def test_invisible():
    bar = Bar(visible=False)
    assert bar.advance(100, 100) == ""
    bar.bar.close()
    assert not bar.stream.getvalue()


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (None, "-"),
        (Score(Outcome.OK, 1234.56789, None, False), "1234.57"),
        (Score(Outcome.OK, 1234.56789, 0.12345, False), "1234.57 ±0.12"),
        (Score(Outcome.NON_FINITE, None, None, False), "non_finite"),
    ],
)
def test_cells(score, text):
    assert _table._cell(score) == text


def test_tables_are_aligned():
    assert (
        _table.format_table([("name", "n"), ("a", 10), ("long name", 2)])
        == "name       n\na          10\nlong name   2"
    )
