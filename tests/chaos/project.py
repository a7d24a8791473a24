"""The pipeline that kill runs run: events from a file or over HTTP, into two topics, out to DuckDB and Parquet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from milkrun.model.spec import (
    CutSpec,
    EmbeddedLogSpec,
    LogSpec,
    PipelineSpec,
    ProjectSpec,
    RouteSpec,
    SinkSpec,
    SourceSpec,
    TopicSpec,
)

Entrance = Literal["files", "http"]
PARTITIONS = 2


@dataclass(frozen=True)
class Places:
    """Where a run keeps its things."""

    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "log.db"

    @property
    def input(self) -> Path:
        return self.folder / "input.ndjson"

    @property
    def warehouse(self) -> Path:
        return self.folder / "warehouse.duckdb"

    @property
    def lake(self) -> Path:
        return self.folder / "lake"

    @property
    def journal(self) -> Path:
        return self.folder / "journal.jsonl"


def project(places: Places, entrance: Entrance, port: int, log: LogSpec | None = None) -> ProjectSpec:
    """The project of one run; on an embedded log in the run's folder unless another is given."""
    config: dict[str, Any] = (
        {"paths": ["input.ndjson"], "follow": True, "interval": "20ms"}
        if entrance == "files"
        else {"listen": f"127.0.0.1:{port}"}
    )
    route = RouteSpec(topic="shop.{body.type}", key="body.customer", id="body.id")
    pipeline = PipelineSpec(
        name="shop",
        sources=(SourceSpec("in", entrance, config, route),),
        sinks=(
            SinkSpec(
                "warehouse", "duckdb", {"path": "warehouse.duckdb"}, ("shop.*",), CutSpec(15, 1 << 20, 0.03)
            ),
            SinkSpec("lake", "parquet", {"url": "lake"}, ("shop.*",), CutSpec(25, 1 << 20, 0.06)),
        ),
        topic_defaults=TopicSpec("_", partitions=PARTITIONS),
        version="chaos",
    )
    return ProjectSpec("chaos", places.folder, log or EmbeddedLogSpec(places.log), (pipeline,))
