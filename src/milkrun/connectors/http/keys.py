"""Write keys: what a request presents, and whether a source knows it. Only hashes are held; a key may append, nothing else.

Every comparison takes the same time whatever is presented, and goes through all hashes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qs

_PREFIX = "sha256:"


class Keyring:
    """The hashes (`sha256:<hex>`) of one source's write keys."""

    def __init__(self, hashes: Sequence[str]) -> None:
        self._digests = [bytes.fromhex(text.removeprefix(_PREFIX)) for text in hashes]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def match(self, digest: bytes) -> int | None:
        """Which of the keys has this SHA-256; None if none has."""
        found = None
        for index, known in enumerate(self._digests):
            if hmac.compare_digest(known, digest):
                found = index
        return found

    def shares_with(self, other: Keyring) -> bool:
        """Whether a key opens both."""
        return not set(self._digests).isdisjoint(other._digests)


def digest_of(key: bytes) -> bytes:
    """The SHA-256 of a key as it was presented."""
    return hashlib.sha256(key).digest()


def key_in_headers(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The key of `Authorization: Bearer`, of Basic's password (the user name doesn't matter), or of `X-Milkrun-Key`."""
    authorization = headers.get(b"authorization")
    if authorization is None:
        return headers.get(b"x-milkrun-key")
    scheme, _, rest = authorization.partition(b" ")
    if scheme.lower() == b"bearer":
        return rest.strip()
    if scheme.lower() == b"basic":
        return _password(rest.strip())
    return b""


def key_in_query(query: bytes) -> bytes | None:
    """The key of `?key=`."""
    if b"key=" not in query:
        return None
    try:
        found = parse_qs(query, max_num_fields=20).get(b"key")
    except ValueError:
        return b""
    return found[0] if found else None


def _password(encoded: bytes) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""
