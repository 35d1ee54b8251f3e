"""What is shown of a search while it runs."""

from __future__ import annotations

import io
import sys

import pytest

from archscore.search import Screening, Settings, run_search
from archscore.search._display import PlainDisplay, RichDisplay, display_on
from support.scorers import FakeScorer


class Clock:
    """Each look takes a second."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def search(display, **changes):
    values = {"space": "nasbench201", "evaluations": 20, "proxies": ("tcet",), "batch": 4} | changes
    with display:
        return run_search(FakeScorer(), Settings(**values), on_record=display.update)


def test_plain_lines_now_and_then_and_at_the_end():
    stream = io.StringIO()
    history = search(PlainDisplay(stream, Clock()))
    *lines, last = stream.getvalue().splitlines()
    assert 1 <= len(lines) < 10
    assert all("/20  " in line and " left  best tcet " in line for line in lines)
    assert last.startswith("20/20  ")
    assert "left" not in last
    best = history.best
    assert last.endswith(f"{best.measures.parameters:,} parameters (evaluation {best.index + 1})")


def test_the_end_is_shown_however_quick_it_was():
    stream = io.StringIO()
    search(PlainDisplay(stream, lambda: 0.0), proxies=("tcet", "naswot"))
    (line,) = stream.getvalue().splitlines()
    assert "best rank sum 0." in line
    assert "tcet 0." in line
    assert "naswot 0." in line


def test_stages_are_counted():
    stream = io.StringIO()
    search(PlainDisplay(stream, lambda: 0.0), strategy=Screening((("naswot",),), 0.25))
    assert [line.split("  ")[0] for line in stream.getvalue().splitlines()] == ["stage 1/2: 20/20", "stage 2/2: 5/5"]


def test_a_terminal_is_drawn_over(monkeypatch):
    pytest.importorskip("rich")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    terminal = Terminal()
    display = display_on(terminal)
    assert isinstance(display, RichDisplay)
    search(display)
    display.note("[red]the server\nwent away")
    shown = terminal.getvalue()
    assert "best tcet 0." in shown
    assert "|~0|" not in shown
    assert shown.endswith("[red]the server\nwent away\n")


def test_a_terminal_without_rich_has_plain_lines(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    assert isinstance(display_on(Terminal()), PlainDisplay)


def test_elsewhere_lines_are_plain():
    assert isinstance(display_on(io.StringIO()), PlainDisplay)
