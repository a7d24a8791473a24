"""What a user can set of the Parquet sink, and what is refused before anything is opened."""

from __future__ import annotations

from dataclasses import dataclass

from milkrun.connectors.parquet.layout import parse_layout, parse_steps
from milkrun.model.errors import ConfigError
from milkrun.plugin import option
from milkrun.storage.target import S3Options, parse_target


@dataclass(frozen=True)
class ParquetConfig:
    """The sink's options."""

    url: str = option(
        "where the files go: a folder (relative to the project's folder), file:///… or s3://bucket/prefix",
        example="lake/",
    )
    partition_by: list[str] = option(
        "the folders files are sorted into: topic, date, hour (with date), body.<field>, or <name>=body.<field>",
        default=["topic", "hour"],
        example="[topic, hour, country=body.country]",
    )
    time_column: str | None = option(
        "the field whose time gives date and hour, else the event's timestamp does",
        default=None,
        example="body.placed_at",
    )
    compression_level: int = option("zstd's level", default=1, minimum=1, maximum=22)
    row_group_rows: int = option("rows of a row group, at most", default=131_072, minimum=1)
    max_files: int = option("files that one cut may be spread over, at most", default=1000, minimum=1)
    parallel: int = option("files written at the same time", default=4, minimum=1, maximum=64)
    s3: S3Options | None = option("how to reach the bucket of an s3:// url", default=None)

    def __post_init__(self) -> None:
        parse_target(self.url)
        parse_layout(self.partition_by)
        if self.time_column is not None:
            parse_steps(self.time_column, ("time_column",))
        if self.s3 is not None and not self.url.startswith("s3://"):
            raise ConfigError(
                "s3 is set, but url is a folder",
                "give url as s3://bucket/prefix, or leave out s3",
                path=("s3",),
            )
