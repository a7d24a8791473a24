"""One request's events: their bytes as a column, what is wrong with some, and what goes with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import pyarrow as pa

from milkrun.plugin import Fault


class CloudEvent(msgspec.Struct, frozen=True, gc=False):
    """The context attributes that routes may use (CloudEvents 1.0, section "Context Attributes")."""

    id: str
    source: str
    type: str
    specversion: str
    subject: str | None = None
    time: str | None = None


@dataclass(slots=True)
class Rows:
    """The events of a request, in its order.

    Faults name rows that are refused; their bytes are kept with the others'. `ids` and `events` have an entry a row, or are None where no
    row has any. `headers` are kept with every row. `given` is the JSON array of the ids, where the client brought none and they were
    given here; `unparsed` tells that the one row is a whole body in which no events could be told apart. For `validated` see `Received`.
    """

    values: pa.BinaryArray
    faults: list[Fault] = field(default_factory=list)
    ids: pa.StringArray | None = None
    events: Sequence[CloudEvent | None] | None = None
    headers: list[tuple[str, bytes]] = field(default_factory=list)
    given: bytes = b""
    unparsed: bool = False
    validated: bool = False

    def __len__(self) -> int:
        return len(self.values)
