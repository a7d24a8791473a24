"""The events that are measured with: orders of a grocery shop, nested JSON of 870 bytes on average, the same for the same seed.

A pool of distinct events is made once; further ones differ from those in the number in their id alone, and lie
farther apart than any compressor's window reaches.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEAN_BYTES = 870
POOL = 20_000
_FIRST_MS = 1_790_000_000_000
_STREETS = (
    "Kanaalstraat",
    "Lindenlaan",
    "Stationsweg",
    "Molenweg",
    "Wilhelminastraat",
    "Dorpsstraat",
    "Oude Gracht",
)
_CITIES = ("Utrecht", "Amersfoort", "Eindhoven", "Leiden", "Haarlem", "Nijmegen", "Almere", "Zwolle")
_ARTICLES = (
    "whole milk 1l",
    "bananas",
    "rye bread",
    "eggs free range",
    "coffee beans dark",
    "oat drink",
    "tomatoes on the vine",
    "aged cheese",
)
_DEVICES = (("ios", "iPhone15,3"), ("android", "SM-S918B"), ("android", "Pixel 8"), ("ios", "iPhone14,7"))
_NUMBER = "NUMBER"


@dataclass(frozen=True, slots=True)
class Template:
    """An event around the number in its id."""

    before: bytes
    after: bytes

    def numbered(self, number: int) -> bytes:
        """The event of that number, below ten billion."""
        return b"%b1%09d%b" % (self.before, number, self.after)


def templates(count: int = POOL, seed: int = 7) -> list[Template]:
    """`count` events without numbers."""
    rng = random.Random(seed)
    return [_template(rng) for _ in range(count)]


def events(count: int, *, first: int = 0, seed: int = 7) -> Iterator[bytes]:
    """The events of the numbers `first` to `first + count`."""
    pool = templates(min(count, POOL), seed)
    for number in range(first, first + count):
        yield pool[number % len(pool)].numbered(number)


def write_ndjson(path: Path, count: int) -> None:
    """The first `count` events, one a line."""
    with path.open("wb") as file:
        file.writelines(event + b"\n" for event in events(count))


def _template(rng: random.Random) -> Template:
    body = json.dumps(_order(rng), separators=(",", ":")).encode()
    before, after = body.split(_NUMBER.encode())
    return Template(before, after)


def _order(rng: random.Random) -> dict[str, Any]:
    system, model = rng.choice(_DEVICES)
    placed = _FIRST_MS + rng.randrange(10**9)
    lines = [_line(rng) for _ in range(rng.choice((2, 3, 3, 4)))]
    return {
        "id": f"order-{_NUMBER}",
        "type": "order",
        "order_id": f"{rng.getrandbits(96):024x}",
        "placed_at_ms": placed,
        "customer": {
            "id": f"c{rng.randrange(10**7):07d}",
            "segment": rng.choice(("family", "single", "student")),
            "address": {
                "street": rng.choice(_STREETS),
                "number": rng.randrange(1, 300),
                "city": rng.choice(_CITIES),
                "location": {
                    "lat": round(52 + rng.random(), 6),
                    "lon": round(4.5 + rng.random(), 6),
                },
            },
        },
        "device": {
            "system": system,
            "model": model,
            "session": f"{rng.getrandbits(64):016x}",
            "online": rng.random() < 0.9,
        },
        "lines": lines,
        "delivery": {
            "slot": f"2026-11-{rng.randrange(1, 29):02d}T{rng.randrange(8, 21):02d}:00Z",
            "fee": rng.choice((0.0, 1.95)),
        },
        "app": {
            "version": f"{rng.randrange(4, 8)}.{rng.randrange(20)}.{rng.randrange(9)}",
            "language": rng.choice(("nl-NL", "de-DE", "fr-FR")),
            "campaign": rng.choice(("autumn-harvest", "welcome-back", "weekly-bonus")),
            "build": rng.randrange(1000, 9999),
            "span": f"{rng.getrandbits(64):016x}",
            "trace": f"{rng.getrandbits(128):032x}",
        },
        "total": round(sum(line["price"] * line["quantity"] for line in lines), 2),
        "voucher": f"V{rng.randrange(10**6):06d}" if rng.random() < 0.2 else None,
    }


def _line(rng: random.Random) -> dict[str, Any]:
    return {
        "sku": f"s{rng.randrange(10**6):06d}",
        "name": rng.choice(_ARTICLES),
        "quantity": rng.randrange(1, 7),
        "price": round(0.3 + rng.random() * 12, 2),
        "tags": rng.sample(("bio", "cold", "offer", "heavy"), 2),
    }
