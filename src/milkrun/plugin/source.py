"""What the author of a source implements.

The runtime calls one source from one thread: `open`, then `poll` and `settle` over and over, at last `close`. `settle` comes only
after everything of that `Received` is durable in the log (or in the dead letters), in the order of the polls: a source
acknowledges there and nowhere else. Several polls may be under way before the first is settled.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from milkrun.model.batch import HEADERS
from milkrun.model.clock import Clock
from milkrun.model.errors import Refused
from milkrun.plugin.capabilities import Delivery


@dataclass(frozen=True, slots=True)
class SourceCapabilities:
    """What a source can promise, as data: the docs table and the runtime read it.

    `resume`: by `position` (stored by the runtime in the same transaction as the events) or by `ack` (the other side keeps
    what isn't acknowledged). `placement`: whether each worker runs it or one worker at a time. `attributes` are
    the names besides `body.` and `headers.` that routes may use.
    """

    delivery: Delivery
    resume: Literal["position", "ack"]
    placement: Literal["every worker", "one worker"]
    attributes: tuple[str, ...] = ()
    default_id: str | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """An event that the source itself can't make sense of: row of the batch, a short code, a sentence."""

    row: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Cut:
    """A body's events in order, faulty ones included, and what must not be taken of them. For `validated` see `Received`."""

    values: pa.BinaryArray
    faults: Sequence[Fault] = ()
    validated: bool = False


class Splitter(Protocol):
    """Cuts a body into its events, whose bytes stay as they were sent: one event or a JSON array of them, or with `lines` an event a line.

    Sizes are in bytes, depth in levels. What an event holds is not checked, unless the cut says so: the runtime does that, for each source
    alike. Refused where the body is an array that can't be cut.
    """

    def __call__(self, body: bytes, *, lines: bool, max_event_bytes: int, max_depth: int) -> Cut: ...


def _no_splitter(body: bytes, *, lines: bool, max_event_bytes: int, max_depth: int) -> Cut:
    raise RuntimeError("this context was made without a splitter")


@dataclass(frozen=True, slots=True)
class Received:
    """Events on their way in, as equal-length columns.

    `values` are the bodies (binary, a null is a tombstone). `keys` is set only where the source itself brings keys.
    `headers` (`HEADERS`) are kept with the events; `attributes` are strings (null where absent) for routing alone.
    `position` is where the source goes on after these events (JSON-able; None for sources that resume by ack); `token` is the
    source's own and travels back with `settle`. Rows named by `faults` become dead letters. Without rows it only moves the position on.
    `validated` says that the runtime need not check the bodies: each that no fault names is a JSON object in UTF-8, as `SourceContext.split`
    has found; said of other bodies, what is read from them is anything.
    `made_ids` is True for each row whose `default_id` the source has made itself and gave to no other event (None: for none). Such an event
    can't be a repetition: its id isn't looked for among those seen, nor remembered there.
    """

    values: pa.BinaryArray
    headers: pa.ListArray
    attributes: Mapping[str, pa.StringArray] = field(default_factory=dict)
    keys: pa.BinaryArray | None = None
    position: Any = None
    token: Any = None
    faults: Sequence[Fault] = ()
    validated: bool = False
    made_ids: npt.NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        rows = len(self.values)
        if len(self.headers) != rows or any(len(column) != rows for column in self.attributes.values()):
            raise ValueError("columns of a Received differ in length")
        if self.headers.type != HEADERS:
            raise ValueError(f"headers are {self.headers.type}, not {HEADERS}")

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of each row of a `Received`, now durable.

    `duplicate` marks rows dropped because their id was seen within the window; `refused` tells why rows became dead letters; all
    others were accepted.
    """

    duplicate: npt.NDArray[np.bool_]
    refused: Mapping[int, Fault]

    @property
    def accepted(self) -> int:
        return len(self.duplicate) - int(self.duplicate.sum()) - len(self.refused)


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What a source is given of its surroundings. Relative paths of a configuration are below `folder`.

    `id_path` is the route's own path to the id; None means that the source's `default_id` is used. `split` is for sources that get many
    events at once.
    """

    pipeline: str
    name: str
    folder: Path
    clock: Clock
    id_path: str | None = None
    split: Splitter = _no_splitter


class Source(ABC):
    """Brings events from one kind of place. `Config` is a frozen dataclass of `option()` fields.

    Any method may raise `Transient` or `Reopen`: the runtime closes the source, waits with backoff and opens a new
    instance at the stored position; what was polled and not settled comes again. A ConfigError or Refused stops the task.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    Config: ClassVar[type[Any]]
    capabilities: ClassVar[SourceCapabilities]

    def __init__(self, config: Any, context: SourceContext) -> None:
        self.config = config
        self.context = context

    @abstractmethod
    def open(self, position: Any) -> None:
        """Connect and go to `position` (as last stored; None at the very first start)."""

    @abstractmethod
    def poll(self, max_events: int, timeout: float) -> Received | None:
        """The next events, or None after `timeout` seconds without any. At most about `max_events`; returns early with what there is."""

    @abstractmethod
    def settle(self, received: Received, outcome: Outcome) -> None:
        """All of `received` is durable: acknowledge it. Never acknowledge more."""

    @abstractmethod
    def close(self) -> None:
        """Let go, without acknowledging anything. Also called after a failed `open`."""

    def tap(self, bindings: Sequence[str]) -> str:
        """Called in place of `open`, for a preview: from now on `poll` gives events of which nobody else is deprived, and `settle` isn't
        called. Whoever waits for an answer is told that nothing was kept. `bindings` is what the user says about where to listen, in the
        source's own words. Returns, for people, where events are taken from. Refused where that can't be.
        """
        del bindings
        raise Refused(
            f"the source {self.context.name} ({self.name}) can't be previewed live; give its events with --file"
        )

    def drain(self) -> None:
        """A graceful stop has begun: take in nothing new; polls still bring what was taken in. The default does nothing."""
        return None

    def throttle(self, on: bool) -> None:
        """The log can't keep up (True) or can again (False): sources that can push back do. The default does nothing."""
        return None
