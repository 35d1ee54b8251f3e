"""The wire format of protobuf by hand, so that it can be broken in every place."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

VARINT, FIXED64, BYTES, GROUP, END_GROUP, FIXED32 = range(6)

#: A record of a message: its key (field number and wire type) and what follows, as they are sent.
Record = tuple[bytes, bytes]

_NUMBERS: Final = (0, 1, 2, 3, 4, 9, 10, 15, 16, 17, 1_000, 18_999, 19_000, 2**29 - 1, 2**29, 2**32 - 1, 2**61 - 1)
_NOT_UTF_8: Final = (b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"abc\x80")

#: How deep groups are nested: decoders refuse at 100, and must not run out of stack before.
_DEPTHS: Final = (1, 2, 50, 99, 100, 101, 5_000, 200_000)


def varint(number: int) -> bytes:
    """A varint of a number that is not negative."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def key(number: int, wire_type: int) -> bytes:
    """The key of a record."""
    return varint(number << 3 | wire_type)


def records(data: bytes) -> list[Record]:
    """The records of a message.

    Raises:
        ValueError: there are groups in it, or it is none.
    """
    found, position = [], 0
    while position < len(data):
        start = position
        tag, position = _varint(data, position)
        name, start = data[start:position], position
        wire_type = tag & 7
        if wire_type == VARINT:
            _, position = _varint(data, position)
        elif wire_type == BYTES:
            length, position = _varint(data, position)
            position += length
        elif wire_type in (FIXED32, FIXED64):
            position += 4 if wire_type == FIXED32 else 8
        else:
            raise ValueError("a group, or nothing that there is")
        if position > len(data):
            raise ValueError("cut short")
        found.append((name, data[start:position]))
    return found


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A message with something wrong, or odd, at one place at least."""
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        data = rng.choice(_MUTATIONS)(data, rng)
    return data


def _varint(data: bytes, position: int) -> tuple[int, int]:
    number = 0
    for place in range(10):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        number |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return number, position
    raise ValueError("no varint")


def _join(parts: list[Record]) -> bytes:
    return b"".join(name + value for name, value in parts)


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randint(0, len(data))]


def _flip(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return bytes([rng.randrange(256)])
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]


def _insert(data: bytes, rng: random.Random) -> bytes:
    place = rng.randint(0, len(data))
    return data[:place] + rng.randbytes(rng.choice((1, 2, 10, 100))) + data[place:]


def _delete(data: bytes, rng: random.Random) -> bytes:
    place = rng.randint(0, len(data))
    return data[:place] + data[place + rng.choice((1, 2, 10)) :]


def _on_records(change: Callable[[list[Record], int, random.Random], list[Record]]) -> Callable[..., bytes]:
    """A mutation of one record of a message, or of a message within."""

    def mutate(data: bytes, rng: random.Random) -> bytes:
        try:
            parts = records(data)
        except ValueError:
            return _flip(data, rng)
        if not parts:
            return data + _unknown(rng)
        place = rng.randrange(len(parts))
        name, value = parts[place]
        if _wire_type(name) == BYTES and rng.random() < 0.4:
            length, start = _varint(value, 0)
            inside = mutate(value[start : start + length], rng)
            parts[place] = (name, varint(len(inside)) + inside)
        else:
            parts = change(parts, place, rng)
        return _join(parts)

    return mutate


def _wire_type(name: bytes) -> int:
    return name[0] & 7


def _drop(parts: list[Record], place: int, _rng: random.Random) -> list[Record]:
    return parts[:place] + parts[place + 1 :]


def _double(parts: list[Record], place: int, rng: random.Random) -> list[Record]:
    return parts[:place] + [parts[place]] * rng.choice((2, 2, 3, 100)) + parts[place:]


def _shuffle(parts: list[Record], _place: int, rng: random.Random) -> list[Record]:
    return rng.sample(parts, len(parts))


def _retype(parts: list[Record], place: int, rng: random.Random) -> list[Record]:
    name, value = parts[place]
    wrong = bytes([name[0] & 0xF8 | rng.randrange(8)]) + name[1:]
    return [*parts[:place], (wrong, value), *parts[place + 1 :]]


def _renumber(parts: list[Record], place: int, rng: random.Random) -> list[Record]:
    name, value = parts[place]
    return [*parts[:place], (key(rng.choice(_NUMBERS), _wire_type(name)), value), *parts[place + 1 :]]


def _lie(parts: list[Record], place: int, rng: random.Random) -> list[Record]:
    """A length that is not so, or a varint that is too long."""
    name, value = parts[place]
    lie = rng.choice(
        (varint(2**31), varint(2**32 - 1), varint(2**63), b"\xff" * 9 + b"\x01", b"\xff" * 11, b"\x80" * 9 + b"\0")
    )
    return [*parts[:place], (name, lie + value[1:]), *parts[place + 1 :]]


def _not_text(parts: list[Record], place: int, rng: random.Random) -> list[Record]:
    name, _value = parts[place]
    if _wire_type(name) != BYTES:
        return parts
    wrong = rng.choice(_NOT_UTF_8)
    return [*parts[:place], (name, varint(len(wrong)) + wrong), *parts[place + 1 :]]


def _add_unknown(data: bytes, rng: random.Random) -> bytes:
    return data + _unknown(rng) if rng.random() < 0.5 else _unknown(rng) + data


def _unknown(rng: random.Random) -> bytes:
    """A field that no message has, or groups in groups."""
    if rng.random() < 0.5:
        depth = rng.choice(_DEPTHS)
        number = rng.choice((15, 1_000))
        return key(number, GROUP) * depth + (key(number, END_GROUP) * depth if rng.random() < 0.8 else b"")
    value = rng.randbytes(rng.choice((0, 1, 100)))
    return key(rng.choice(_NUMBERS[6:]), BYTES) + varint(len(value)) + value


_MUTATIONS: Final[tuple[Callable[[bytes, random.Random], bytes], ...]] = (
    *(_cut, _flip, _flip, _insert, _delete, _add_unknown, _add_unknown),
    *map(_on_records, (_drop, _double, _shuffle, _retype, _renumber, _lie, _not_text, _not_text)),
)
