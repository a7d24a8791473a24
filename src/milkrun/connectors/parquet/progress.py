"""How far a target has come with each topic partition, kept beside the files.

A note, `_milkrun/progress/<topic>-<partition>.json`, is written before the files of a cut. It can't make a cut atomic, names do that; it
lets the sink refuse what names alone would not show: a second sink on the same topic, a log restored from an older copy,
folders changed while a cut was half written. A missing note means that the partition is new here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from milkrun.connectors.parquet import layout
from milkrun.model.batch import TopicPartition
from milkrun.model.errors import GapError, Refused
from milkrun.plugin.sink import Events
from milkrun.storage.store import OWN_FOLDER, Store


@dataclass(frozen=True, slots=True)
class Note:
    """The newest cut that a sink began to write: the events `[start, end)`, and by what they were sorted into folders."""

    owner: str
    incarnation: str
    generation: int
    start: int
    end: int
    partition_by: tuple[str, ...]
    time_column: str | None

    @staticmethod
    def parse(data: bytes) -> Note:
        """The note that a file has. ValueError, TypeError or KeyError where that is damaged."""
        fields: dict[str, Any] = json.loads(data)
        return Note(**{**fields, "partition_by": tuple(fields["partition_by"])})


class Progress:
    """The notes of one sink; reads each once, then writes only."""

    def __init__(
        self, store: Store, place: str, owner: str, partition_by: Sequence[str], time_column: str | None
    ) -> None:
        self._store = store
        self._place = place
        self._owner = owner
        self._partition_by = tuple(partition_by)
        self._time_column = time_column
        self._notes: dict[tuple[TopicPartition, int, bool], Note | None] = {}

    def begin(self, cut: Events) -> None:
        """Note that the cut will be written now. Refused, or GapError, where that could double events."""
        key = (cut.partition, cut.generation, cut.repairs)
        if key not in self._notes:
            self._notes[key] = self.newest(cut.partition, cut.generation, repairs=cut.repairs)
        before = self._notes[key]
        note = Note(
            self._owner,
            cut.incarnation,
            cut.generation,
            cut.start,
            cut.end,
            self._partition_by,
            self._time_column,
        )
        if before == note:
            return
        if before is not None:
            self._check(before, note, cut.partition)
        self._store.replace(_name(*key), json.dumps(asdict(note), indent=1).encode())
        self._notes[key] = note

    def newest(self, partition: TopicPartition, generation: int, *, repairs: bool = False) -> Note | None:
        """The note of a partition, as the target has it; with `repairs`, that of what comes late."""
        name = _name(partition, generation, repairs)
        data = self._store.read(name)
        if data is None:
            return None
        try:
            return Note.parse(data)
        except (ValueError, TypeError, KeyError):
            raise Refused(
                f"{self._place}/{name} is damaged; delete it once the files of {partition} are known to be whole"
            ) from None

    def _check(self, before: Note, note: Note, partition: TopicPartition) -> None:
        if before.owner != note.owner:
            raise Refused(
                f"{self._place}: {partition} was written here by the sink {before.owner}; give the sink {note.owner} a url of its own, "
                "or events would be there twice"
            )
        if before.incarnation != note.incarnation or before.end <= note.start:
            return
        if (before.start, before.end) != (note.start, note.end):
            raise GapError(
                f"{self._place}: {partition} has come to offset {before.end} here, the log wants to write the cut from "
                f"{note.start} to {note.end}; the log was restored from an older copy, or another log writes here"
            )
        # The same cut: what differs from the note can only be how it is sorted into folders.
        raise Refused(
            f"{self._place}: the folders were changed while the cut of {partition} from {note.start} to {note.end} was being written; "
            f"until that is done set back partition_by to {list(before.partition_by)}, time_column to {before.time_column}"
        )


def _name(partition: TopicPartition, generation: int, repairs: bool) -> str:
    return note_name(layout.stem(partition.topic), partition.partition, generation, repairs=repairs)


def note_name(stem: str, partition: int, generation: int, *, repairs: bool = False) -> str:
    """The name of the note about a partition of the topic with that stem."""
    suffix = ("" if generation == 1 else f"-g{generation}") + ("-repairs" if repairs else "")
    return f"{OWN_FOLDER}/progress/{stem}-{partition:05d}{suffix}.json"
