"""The files that carry a cut into Snowflake: their bytes, and their places within the stage.

A name tells pipeline, sink, topic and partition (folders), generation, incarnation and offsets, so a file that a crash left behind
is known for what it is, and the same cut staged again lies at the same place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from milkrun.connectors.snowflake.types import staged
from milkrun.model.batch import TopicPartition
from milkrun.plugin.sink import Events, SinkContext

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A Parquet file of `rows` rows, its columns named C1, C2, and so on.

    `kinds` are their types in order; `path` leads to the file from the stage's root.
    """

    folder: str
    name: str
    content: pa.Buffer
    kinds: tuple[pa.DataType, ...]
    rows: int

    @property
    def path(self) -> str:
        return self.folder + self.name


def encode(table: pa.Table, events: Events, context: SinkContext, part: str, level: int) -> StagedFile:
    """The file for a table of the cut; `part` tells the files of one cut apart."""
    columns = [staged(column) for column in table.columns]
    named = pa.table(columns, names=[column(index) for index in range(len(columns))])
    sink = pa.BufferOutputStream()
    pq.write_table(named, sink, compression="zstd", compression_level=level)
    incarnation = _UNSAFE.sub("_", events.incarnation)
    name = f"{events.generation}-{incarnation}-{events.start}-{events.end}-{part}.parquet"
    return StagedFile(
        folder(context, events.partition), name, sink.getvalue(), tuple(named.schema.types), named.num_rows
    )


def column(index: int) -> str:
    """The name of a file's column, counted from 0."""
    return f"C{index + 1}"


def folder(context: SinkContext, partition: TopicPartition) -> str:
    """Where the files of a topic partition lie in the stage; ends with a slash, so that 1 is not the beginning of 10."""
    return f"{context.pipeline}/{context.name}/{partition.topic}/{partition.partition}/"
