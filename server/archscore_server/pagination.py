"""Pages of a list that is sorted by name.

A token holds the last name of the page before it, so that it stays good when entries come and go. Clients must not look
into it; it also names its list, so that one list's token is refused by another.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000
_MAX_TOKEN = 512


class PageTokenError(ValueError):
    """A page token that this list never gave out."""


def page(list_name: str, names: Sequence[str], page_size: int, page_token: str) -> tuple[list[str], str]:
    """The names on a page, and the token of the next page (empty after the last).

    Args:
        list_name: which list this is.
        names: all names, sorted.
        page_size: names wanted at most; 0 takes the default.
        page_token: token of the page; empty for the first.

    Raises:
        PageTokenError: the token is malformed, or another list's.
    """
    after = _read(list_name, page_token) if page_token else ""
    rest = [name for name in names if name > after]
    size = min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)
    chosen = rest[:size]
    return chosen, _write(list_name, chosen[-1]) if len(rest) > size else ""


def _write(list_name: str, last: str) -> str:
    return base64.urlsafe_b64encode(f"{list_name}/{last}".encode()).decode()


def _read(list_name: str, token: str) -> str:
    if len(token) > _MAX_TOKEN:
        raise PageTokenError("too long")
    try:
        text = base64.b64decode(token.encode(), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise PageTokenError("malformed") from error
    prefix, separator, last = text.partition("/")
    if prefix != list_name or not separator or not last:
        raise PageTokenError("of another list")
    return last
