"""Pages of a sorted list."""

import pytest

from archscore_server.pagination import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, PageTokenError, page

NAMES = [f"name{number:05}" for number in range(2_500)]


def walk(names, size):
    pages, token = [], ""
    while True:
        chosen, token = page("names", names, size, token)
        pages.append(chosen)
        if not token:
            return pages


@pytest.mark.parametrize(
    ("size", "expected"), [(0, DEFAULT_PAGE_SIZE), (1_250, MAX_PAGE_SIZE), (7, 7), (2**32 - 1, MAX_PAGE_SIZE)]
)
def test_every_name_once_in_pages_of_the_right_size(size, expected):
    pages = walk(NAMES, size)
    assert [name for names in pages for name in names] == NAMES
    assert {len(names) for names in pages[:-1]} == {expected}
    assert 1 <= len(pages[-1]) <= expected


def test_a_full_last_page_is_the_last():
    assert walk(NAMES[:10], 5) == [NAMES[:5], NAMES[5:10]]


def test_nothing_is_one_empty_page():
    assert page("names", [], 0, "") == ([], "")


def test_tokens_survive_changes_of_the_list():
    chosen, token = page("names", NAMES, 3, "")
    without_last, _ = page("names", [name for name in NAMES if name != chosen[-1]], 3, token)
    assert without_last == NAMES[3:6]


def test_tokens_are_of_one_list():
    _, token = page("names", NAMES, 3, "")
    with pytest.raises(PageTokenError):
        page("others", NAMES, 3, token)


@pytest.mark.parametrize("token", ["x", "é", "====", "bmFtZXM=", "bmFtZXMv", "/w==", "x" * 100_000, " "])
def test_malformed_tokens_are_refused(token):
    with pytest.raises(PageTokenError):
        page("names", NAMES, 3, token)
