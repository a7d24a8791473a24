"""What has become of each dead letter, and what sinks are told to do about theirs: records in the log's state stores.

A letter is open until a person acts on it. Commands own it while it is open or repaired; from `redelivering` on the sink that
refused it does, which takes the order in the transaction that makes the event delivered.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from milkrun.log.protocol import Log
from milkrun.runtime.stores import LETTERS, ORDERS

State = Literal["open", "repaired", "redelivering", "redelivered", "dropped"]
"""`repaired`: a corrected body is kept and not sent yet; `redelivering`: its sink has been told, and hasn't done it yet."""

SETTLED: frozenset[State] = frozenset({"redelivered", "dropped"})
"""States that nothing follows."""


class Step(msgspec.Struct, frozen=True):
    """A letter came to a state: by whom, when (Unix ms), and why."""

    state: State
    by: str
    at: int
    why: str = ""


class Letter(msgspec.Struct, frozen=True):
    """What has become of a letter: its steps, oldest first. `value` is its corrected body while it is `repaired`; one that is redelivered
    may be `filtered`, and so in no target."""

    steps: list[Step] = []
    value: bytes | None = None
    filtered: bool = False

    @property
    def state(self) -> State:
        return self.steps[-1].state if self.steps else "open"

    def after(self, step: Step, value: bytes | None = None, *, filtered: bool = False) -> Letter:
        """The letter one step further."""
        return Letter([*self.steps, step], value, filtered)


class Order(msgspec.Struct, frozen=True):
    """What a sink is to do about the event at `offset` of the topic's `incarnation`, which it refused: deliver it as it stands here, or
    no longer wait for it. `letter` has all steps before the sink's own."""

    act: Literal["deliver", "drop"]
    uid: str
    incarnation: str
    offset: int
    letter: Letter
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


def letter_key(pipeline: str, uid: str) -> str:
    """A letter's key in `LETTERS`."""
    return f"{pipeline}/{uid}"


def order_key(place: str, offset: int) -> str:
    """An order's key in `ORDERS`; `place` is the cut key of the sink's topic partition."""
    return f"{place}/{offset:020d}"


def read_letters(log: Log, pipeline: str) -> dict[str, Letter]:
    """All letters of a pipeline that somebody has acted on, by uid."""
    prefix = f"{pipeline}/"
    return {key.removeprefix(prefix): load_letter(value) for key, value in log.scan(LETTERS, prefix)}


def load_letter(stored: bytes | None) -> Letter:
    """A letter as stored."""
    return Letter() if stored is None else msgspec.json.decode(stored, type=Letter)


def dump_letter(letter: Letter) -> bytes:
    """A letter as it is stored."""
    return msgspec.json.encode(letter)


def read_orders(log: Log, prefix: str) -> dict[str, dict[int, Order]]:
    """The orders whose keys begin so, by the topic partition's cut key, and by offset."""
    found: dict[str, dict[int, Order]] = {}
    for key, value in log.scan(ORDERS, prefix):
        order = msgspec.json.decode(value, type=Order)
        found.setdefault(key.rpartition("/")[0], {})[order.offset] = order
    return found
