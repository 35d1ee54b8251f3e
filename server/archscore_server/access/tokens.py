"""Bearer tokens, and what a server keeps of them.

A token is `archscore.NAME.SECRET`. The name in it says which record to compare with, so that one comparison is enough
however many tokens there are. A record is a line of a token file, `NAME SCHEME SALT HASH`, and does not give the
secret away. The only scheme so far is `sha256`: SALT is 16 bytes and HASH the SHA-256 of the salt and the secret's
ASCII characters, both in hexadecimal.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

_PREFIX = "archscore"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SCHEME = "sha256"
_SECRET_BYTES = 32
_SALT_BYTES = 16
_HASH_BYTES = hashlib.sha256().digest_size
_HEX = re.compile(r"(?:[0-9a-f]{2})+")


@dataclass(frozen=True, slots=True)
class Record:
    """What is kept of one token.

    Attributes:
        name: whose it is: 1 to 64 of A-Z, a-z, 0-9, _ and -.
        salt: makes equal secrets have different hashes.
        hash: of salt and secret.
    """

    name: str
    salt: bytes
    hash: bytes

    def matches(self, secret: str) -> bool:
        """Whether this is the secret of the token; takes the same time whatever the secret is."""
        return hmac.compare_digest(self.hash, _hash(self.salt, secret))

    def format(self) -> str:
        """The line of a token file, without its end."""
        return f"{self.name} {_SCHEME} {self.salt.hex()} {self.hash.hex()}"


def is_name(text: str) -> bool:
    """Whether a token may be called so."""
    return _NAME.fullmatch(text) is not None


def generate(name: str) -> tuple[str, Record]:
    """Makes a token of a valid name: the token itself, and what is kept of it."""
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    salt = secrets.token_bytes(_SALT_BYTES)
    return f"{_PREFIX}.{name}.{secret}", Record(name, salt, _hash(salt, secret))


def parse(line: str) -> Record:
    """Reads the line of a token.

    Raises:
        ValueError: it is none; the message says why, and does not repeat it.
    """
    fields = line.split()
    if len(fields) != 4:
        raise ValueError("expected NAME SCHEME SALT HASH")
    name, scheme, salt, digest = fields
    if not is_name(name):
        raise ValueError("the name is not 1 to 64 of A-Z, a-z, 0-9, _ and -")
    if scheme != _SCHEME:
        raise ValueError(f"the scheme is not {_SCHEME}")
    if not _HEX.fullmatch(salt) or not _HEX.fullmatch(digest) or len(digest) != 2 * _HASH_BYTES:
        raise ValueError(f"salt and hash are not in hexadecimal, or the hash is not of {_HASH_BYTES} bytes")
    return Record(name, bytes.fromhex(salt), bytes.fromhex(digest))


def owner(token: str, records: Mapping[str, Record]) -> str | None:
    """The name of a token that is one of the records, by name; None for any other text.

    A name that is not there is compared as well, so that the time taken does not tell which names are.
    """
    prefix, name, secret = parts if len(parts := token.split(".")) == 3 else ("", "", token)
    matches = records.get(name, _NOBODY).matches(secret)
    return name if matches and name in records and prefix == _PREFIX else None


def _hash(salt: bytes, secret: str) -> bytes:
    # A slow hash is for secrets that can be guessed. These have 256 random bits, and this is computed on every call.
    return hashlib.sha256(salt + secret.encode(errors="backslashreplace")).digest()


#: Is compared where there is no record; no secret is known that matches it.
_NOBODY = Record("", secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_HASH_BYTES))
