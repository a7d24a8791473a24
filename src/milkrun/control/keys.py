"""Write keys for the HTTP collector: made here, shown once, and kept in files as hashes only."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

PREFIX = "mk_"


@dataclass(frozen=True)
class WriteKey:
    """A new key and the hash to put into the source's `keys`."""

    key: str
    hash: str


def new_write_key() -> WriteKey:
    """A key of 256 random bits."""
    key = PREFIX + secrets.token_urlsafe(32)
    return WriteKey(key, hash_key(key))


def hash_key(key: str) -> str:
    """How a key stands in project files. A key is random, not a password: a plain SHA-256 can't be guessed back."""
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()
