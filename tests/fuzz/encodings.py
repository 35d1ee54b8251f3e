"""Encodings of both search spaces, right and wrong, drawn with a seeded generator.

A number and a seed make an input, so that any of millions can be made again alone.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable
from typing import Final

from archscore.spaces import SPACES, nasbench201, zennas

SPACE_NAMES: Final = tuple(sorted(SPACES))

#: Characters of the longest input.
LONGEST: Final = 40_000

_TOKEN: Final = re.compile(r"[A-Za-z_]\w*|\d+|\s+|.", re.DOTALL)

_NUMBERS: Final = (
    *("0", "1", "2", "3", "7", "8", "9", "00", "01", "+1", "-1", "1_0", "1.0", "1e3", "0x10", "NaN", "Infinity"),
    *("15624", "15625", "99999", "65536", "999999999", "1000000000", "4294967296", "18446744073709551616", "9" * 5_000),
    # Digits for str.isdigit and int(), in several scripts; and one for str.isdigit alone.
    *("\u0663", "\u0969", "\uff13", "\U0001d7db", "\u00b2", "1\u0663"),
)

_ODD: Final = (
    *(
        "",
        "\0",
        "\n",
        "\r\n",
        "\x1b[2J",
        "\u2028",
        "\u00a0",
        "\ufeff",
        "\u202e",
        "\ud800",
        "\udfff",
        "é",
        "e\u0301",
        "😀",
    ),
    *("%s", "{0}", "{}", "\\", "'", '"', "|", "~", "+", ",", ";", "(", ")", "((", "))", "(" * 50, "index:", "|none~0|"),
    *nasbench201.OPERATIONS,
    *zennas.KINDS,
)

#: What ASCII white space is, and what is white space elsewhere only.
_PADDING: Final = ("", " ", "\t", "\n", "\r\n", " \v\f ", "\u00a0", "\u3000", "\x1c", " " * 200)


def encoding(seed: int, number: int) -> tuple[str, str, str]:
    """An input: how it was made, the name of a search space, a text."""
    rng = random.Random(f"{seed} encoding {number}")
    space = rng.choice(SPACE_NAMES)
    kind = rng.choice(_KINDS)
    return kind, space, _MAKERS[kind](space, rng)[:LONGEST]


def valid(space: str, rng: random.Random) -> str:
    """An encoding that the grammar accepts."""
    text = _cell(rng) if space == "nasbench201" else _genome(rng)
    if rng.random() < 0.2:
        text = _ascii_space(rng) + text + _ascii_space(rng)
    return text


def mutated(space: str, rng: random.Random) -> str:
    """An encoding that is almost right: a few tokens of it deleted, doubled, moved, replaced or broken."""
    tokens = _TOKEN.findall(valid(space, rng))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        tokens = rng.choice(_MUTATIONS)(tokens, rng)
    return "".join(tokens)


def spliced(space: str, rng: random.Random) -> str:
    """The beginning of one encoding and the end of another, of either space."""
    one, other = valid(space, rng), valid(rng.choice(SPACE_NAMES), rng)
    return one[: rng.randint(0, len(one))] + other[rng.randint(0, len(other)) :]


def raw(_space: str, rng: random.Random) -> str:
    """Characters of all kinds, or of the grammars alone."""
    length = rng.choice((0, 1, 2, 5, 20, 100))
    if rng.random() < 0.5:
        return "".join(rng.choices(string.printable, k=length))
    return "".join(chr(rng.choice((rng.randrange(128), rng.randrange(0x110000)))) for _ in range(length))


def words(space: str, rng: random.Random) -> str:
    """Words of the grammars, in no order."""
    return "".join(rng.choice(rng.choice((_NUMBERS, _ODD))) for _ in range(rng.randint(1, 12)))


def long(space: str, rng: random.Random) -> str:
    """Up to tens of thousands of characters: many blocks, or an encoding or a part of one over and over."""
    text = valid(space, rng) if rng.random() < 0.7 else _genome(rng, rng.choice((50, 300, 900)))
    piece = rng.choice((text, rng.choice(_TOKEN.findall(text)), rng.choice(_ODD) or "x", text[: rng.randint(1, 9)]))
    length = rng.choice((200, 2_000, 9_990, 10_000, 10_001, LONGEST))
    repeated = piece * (length // max(1, len(piece)) + 1)
    return rng.choice((text, repeated[:length], text + repeated[:length], repeated[:length] + text))


def _cell(rng: random.Random) -> str:
    if rng.random() < 0.3:
        return f"index:{rng.randrange(nasbench201.NUM_CELLS)}"
    return nasbench201.sample(rng).format()


def _genome(rng: random.Random, length: int | None = None) -> str:
    before, blocks = zennas.IMAGE_CHANNELS, []
    kinds = tuple(zennas.KINDS.values())
    for _ in range(length or rng.choice((1, 1, 2, 3, 6))):
        kind = rng.choice(kinds)
        out = _integer(rng)
        middle = () if kind.family == "conv" else (_integer(rng),)
        numbers = (
            before,
            out,
            rng.choice((1, 1, 1, 2, 2, 4, _integer(rng))),
            *middle,
            rng.choice((1, 2, _integer(rng))),
        )
        name = rng.choice(("", "", "", "block_1|", "0|", f"{'n' * rng.randint(1, 300)}|"))
        blocks.append(f"{kind.name}({name}{','.join(map(str, numbers))})")
        before = out
    return "".join(blocks)


def _integer(rng: random.Random) -> int:
    """One that the grammar accepts, small more often than not."""
    if rng.random() < 0.1:
        return rng.choice((zennas.MAX_INTEGER, zennas.MAX_INTEGER - 1, 2**16, 2**29))
    return rng.choice((1, 2, 3, 8, 16, 64, rng.randint(1, 2048)))


def _ascii_space(rng: random.Random) -> str:
    return rng.choice(_PADDING[:6])


def _delete(tokens: list[str], rng: random.Random) -> list[str]:
    start = rng.randint(0, len(tokens))
    return tokens[:start] + tokens[start + rng.choice((1, 1, 3)) :]


def _double(tokens: list[str], rng: random.Random) -> list[str]:
    start = rng.randint(0, len(tokens))
    end = start + rng.choice((1, 1, 4))
    return tokens[:end] + tokens[start:end] * rng.choice((1, 1, 30)) + tokens[end:]


def _replace(tokens: list[str], rng: random.Random) -> list[str]:
    place = rng.randint(0, len(tokens))
    return [*tokens[:place], rng.choice(rng.choice((_NUMBERS, _ODD))), *tokens[place + 1 :]]


def _insert(tokens: list[str], rng: random.Random) -> list[str]:
    place = rng.randint(0, len(tokens))
    return [*tokens[:place], rng.choice(rng.choice((_NUMBERS, _ODD, _PADDING))), *tokens[place:]]


def _swap(tokens: list[str], rng: random.Random) -> list[str]:
    tokens = list(tokens)
    if tokens:
        one, other = rng.randrange(len(tokens)), rng.randrange(len(tokens))
        tokens[one], tokens[other] = tokens[other], tokens[one]
    return tokens


def _break(tokens: list[str], rng: random.Random) -> list[str]:
    """Changes one character, in case or altogether."""
    text = "".join(tokens)
    if not text:
        return tokens
    place = rng.randrange(len(text))
    changed = rng.choice((text[place].swapcase(), chr(rng.randrange(128)), chr(rng.randrange(0x110000))))
    return _TOKEN.findall(text[:place] + changed + text[place + 1 :])


def _cut(tokens: list[str], rng: random.Random) -> list[str]:
    text = "".join(tokens)
    return _TOKEN.findall(text[: rng.randint(0, len(text))])


def _shift(tokens: list[str], rng: random.Random) -> list[str]:
    place = rng.randint(0, len(tokens))
    return tokens[place:] + tokens[:place]


def _pad(tokens: list[str], rng: random.Random) -> list[str]:
    return [rng.choice(_PADDING), *tokens, rng.choice(_PADDING)]


_MUTATIONS: Final = (_delete, _double, _replace, _replace, _insert, _swap, _break, _break, _cut, _shift, _pad)

_MAKERS: Final[dict[str, Callable[[str, random.Random], str]]] = {
    maker.__name__: maker for maker in (valid, mutated, spliced, raw, words, long)
}

#: Kinds in their shares: one in a hundred is long.
_KINDS: Final = (*("valid",) * 20, *("mutated",) * 50, *("spliced",) * 10, *("raw",) * 10, *("words",) * 9, "long")
