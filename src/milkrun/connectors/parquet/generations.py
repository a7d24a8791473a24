"""Where the files of each generation are, and which of them readers are to take.

Generation 1 is at the sink's url, generation 2 beside it: `lake`, `lake__g2`; beside, because readers of `lake` may take all that is below
it. A pointer below the sink's url, `_current/<pipeline>/<sink>.json`, has the url of the current one: a switch replaces that file. Beside
it is a file for each later generation that there has ever been, so that all of them are found.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from milkrun.connectors.parquet import layout
from milkrun.connectors.parquet.progress import Note, note_name
from milkrun.model.errors import Fenced, Refused
from milkrun.storage.store import Store
from milkrun.storage.target import Bucket, parse_target

_FOLDER = "_current"
"""Readers of data lakes skip folders that begin with an underscore."""


def url_of(url: str, generation: int) -> str:
    """Where a generation of the sink with that url is. Refused where there is no place beside it."""
    if generation == 1:
        return url
    target = parse_target(url)
    named = target.prefix if isinstance(target, Bucket) else target.name
    if not named or named == "..":
        raise Refused(
            f"there is no place beside {url!r} for another generation's files; give a url that ends with a name: s3://bucket/lake, or lake/"
        )
    return f"{url.rstrip('/')}__g{generation}"


class Pointer:
    """The pointer of one sink, in the store at its url."""

    def __init__(self, store: Store, url: str, pipeline: str, sink: str) -> None:
        self._store = store
        self._url = url
        self._name = f"{_FOLDER}/{pipeline}/{sink}.json"
        self._marks = f"{_FOLDER}/{pipeline}/{sink}.generation-"

    @property
    def current(self) -> int:
        """The generation that readers are to take."""
        return self._state()[0]

    @property
    def generations(self) -> range:
        """All generations that there may be files of."""
        last = 1
        while self._store.read(self._mark(last + 1)) is not None:
            last += 1
        return range(1, last + 1)

    def begin(self, generation: int) -> None:
        """Make the pointer, for readers to go by it before the first switch, and have `generations` go up to this one at least."""
        self._store.create(self._name, pa.py_buffer(self._content(1, 0)))
        if self._store.read(self._mark(generation)) is None:
            # In their order: each tells that there are those before it.
            for number in range(2, generation + 1):
                mark = {"generation": number, "url": url_of(self._url, number)}
                self._store.create(self._mark(number), pa.py_buffer(json.dumps(mark).encode()))

    def switch(self, generation: int, number: int) -> None:
        """Have readers take `generation`. Fenced where a later switch has been made."""
        current, switches = self._state()
        if switches >= number and (current, switches) != (generation, number):
            raise Fenced(
                f"{self._store.place}/{self._name} has been switched {switches} times, this was to be the switch {number}: another worker "
                "went on meanwhile"
            )
        self._store.replace(self._name, self._content(generation, number))

    def _state(self) -> tuple[int, int]:
        """The current generation, and how often that has changed."""
        data = self._store.read(self._name)
        if data is None:
            return 1, 0
        try:
            held: dict[str, Any] = json.loads(data)
            return int(held["generation"]), int(held["switches"])
        except (ValueError, TypeError, KeyError):
            raise Refused(
                f"{self._store.place}/{self._name} is damaged; `milkrun replay status` tells the current generation: write it as "
                '{"generation": <number>, "url": "<url>", "switches": <number>}'
            ) from None

    def _mark(self, generation: int) -> str:
        return f"{self._marks}{generation}.json"

    def _content(self, generation: int, switches: int) -> bytes:
        held = {"generation": generation, "url": url_of(self._url, generation), "switches": switches}
        return json.dumps(held).encode()


def remove(store: Store, generation: int, owner: str) -> None:
    """Remove the files of one generation of the sink `owner`, and the notes about them. The store may have other sinks' files too."""
    notes: dict[str, bool] = {}
    for name in list(store.names()):
        parsed = layout.parse_file_name(name)
        if parsed is None or parsed.generation != generation:
            continue
        note = note_name(parsed.topic, parsed.partition, generation)
        if note not in notes:
            notes[note] = _owner(store, note) == owner
        if notes[note]:
            store.delete(name)
    for note, ours in notes.items():
        if ours:
            store.delete(note)
            store.delete(note.removesuffix(".json") + "-repairs.json")


def _owner(store: Store, note: str) -> str | None:
    data = store.read(note)
    try:
        return None if data is None else Note.parse(data).owner
    except (ValueError, TypeError, KeyError):
        raise Refused(f"{store.place}/{note} is damaged; remove its generation's files by hand") from None
