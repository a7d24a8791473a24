"""What can be set of the files source, and the checks that go beyond single options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from milkrun.model.errors import ConfigError, ConfigErrors, Refused
from milkrun.plugin import Bytes, Seconds, option

Format = Literal["ndjson", "csv", "tsv"]
ColumnType = Literal["integer", "number", "boolean"]

_BY_EXTENSION: dict[str, Format] = {
    "ndjson": "ndjson",
    "jsonl": "ndjson",
    "json": "ndjson",
    "csv": "csv",
    "tsv": "tsv",
    "tab": "tsv",
}


@dataclass(frozen=True, slots=True)
class FilesConfig:
    """Options of the files source."""

    paths: list[str] = option(
        "files to read, as shell patterns (`*`, `?`, `[a-z]`, `**`) below the project folder, or absolute",
        example="[data/*.ndjson, exports/**/orders-*.csv.gz]",
    )
    format: Literal["auto", "ndjson", "csv", "tsv"] = option(
        "what a file holds; `auto` goes by its name (.ndjson .jsonl .json .csv .tsv .tab)", default="auto"
    )
    compression: Literal["auto", "none", "gzip"] = option(
        "`auto` takes for gzip what is named .gz or begins as gzip does", default="auto"
    )
    follow: bool = option(
        "go on with growing, rotated and new files, as `tail -F` does; else read each to its end once",
        default=False,
    )
    interval: Seconds = option("how often to look for new bytes and files", default=0.25, minimum=0.01)
    quiet: Seconds = option(
        "a rotated file that has not grown for so long is at its end, also if its last line has no newline",
        default=10.0,
        minimum=0,
    )
    removed: Literal["refuse", "accept"] = option(
        "whether a file may vanish of which the end was not seen; `refuse` stops and names it",
        default="refuse",
    )
    header: bool = option("CSV, TSV: whether the first row names the columns", default=True)
    columns: list[str] = option(
        "CSV, TSV: the columns' names, instead of the header's", default=[], example="[session, item, time]"
    )
    types: dict[str, ColumnType] = option(
        "CSV, TSV: columns that aren't text: integer, number, boolean",
        default={},
        example="{session: integer, time: number}",
    )
    delimiter: str | None = option(
        "CSV, TSV: the byte between fields (`,` and tab unless told)", default=None, example='";"'
    )
    quoting: bool = option("CSV, TSV: whether double quotes enclose fields, as RFC 4180 has it", default=True)
    null_text: str | None = option("CSV, TSV: the text that stands for null", default=None, example='"\\\\N"')
    encoding: Literal["utf-8"] = option("of the text; a byte order mark is left out", default="utf-8")
    max_event: Bytes = option(
        "a longer line or row becomes a dead letter of its first so many bytes",
        default=1 << 20,
        minimum=16,
        maximum=1 << 28,
    )

    def __post_init__(self) -> None:
        _check(self)


def _check(config: FilesConfig) -> None:
    """Raises ConfigErrors for options that contradict one another."""
    errors = []
    if not config.paths:
        errors.append(ConfigError("no file is named", "give at least one pattern", path=("paths",)))
    if not config.header and not config.columns and config.format in ("csv", "tsv"):
        errors.append(
            ConfigError("nothing names the columns", "set header: true, or give columns", path=("columns",))
        )
    if len(set(config.columns)) != len(config.columns) or "" in config.columns:
        errors.append(
            ConfigError("a column's name is empty or there twice", "name each differently", path=("columns",))
        )
    for name in config.types:
        if config.columns and name not in config.columns:
            known = ", ".join(config.columns)
            errors.append(
                ConfigError(f"there is no column {name!r}", f"known are: {known}", path=("types", name))
            )
    if config.delimiter is not None and (len(config.delimiter.encode()) != 1 or config.delimiter in '"\r\n'):
        errors.append(
            ConfigError(
                f"{config.delimiter[:20]!r} can't be a delimiter",
                "give one ASCII character other than a quote or line break",
                path=("delimiter",),
            )
        )
    if errors:
        raise ConfigErrors(errors)


def format_of(config: FilesConfig, path: str) -> Format:
    """The format of a file, by the configuration or else by the last extension that tells. Refused where none does."""
    if config.format != "auto":
        return config.format
    for extension in reversed(path.rsplit("/", 1)[-1].lower().split(".")[1:]):
        if extension in _BY_EXTENSION:
            return _BY_EXTENSION[extension]
    raise Refused(f"{path}: the name doesn't tell the format; set format to ndjson, csv or tsv")
