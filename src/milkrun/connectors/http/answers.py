"""What a request is told: a status and a JSON document."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from milkrun.connectors.http.refusals import Refusal
from milkrun.connectors.http.rows import Rows
from milkrun.connectors.http.waiting import Settled

Headers = list[tuple[bytes, bytes]]

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Reply:
    """A response, ready to be sent; its body is JSON, or empty."""

    status: int
    body: bytes
    extra: tuple[tuple[bytes, bytes], ...] = ()
    close: bool = False


def settled_reply(rows: Rows, settled: Settled) -> Reply:
    """What became of the events, now that it is durable. 200 where any was accepted or known already; else 400 for a body in which
    no events could be told apart, 413 where all were too large, 422 for all other reasons."""
    if not settled.refused and not rows.given:
        return Reply(
            200, b'{"accepted":%d,"duplicates":%d,"refused":[]}' % (settled.accepted, settled.duplicates)
        )
    document: dict[str, object] = {
        "accepted": settled.accepted,
        "duplicates": settled.duplicates,
        "refused": [
            {"index": index, "code": code, "message": message} for index, code, message in settled.refused
        ],
    }
    if rows.given and settled.accepted:
        document["ids"] = msgspec.Raw(rows.given)
    return Reply(_status(rows, settled), _encode(document))


def refusal_reply(refusal: Refusal) -> Reply:
    """Why the whole request was refused."""
    body = _encode({"error": {"code": refusal.code, "message": refusal.message}})
    return Reply(refusal.status, body, refusal.extra, refusal.close)


def _status(rows: Rows, settled: Settled) -> int:
    if settled.accepted or settled.duplicates:
        return 200
    if rows.unparsed:
        return 400
    return 413 if all(code == "too_large" for _, code, _ in settled.refused) else 422
