"""What a preview shows of the Parquet sink is what a worker then writes to the folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from milkrun.testing.cuts import normal
from milkrun.testing.preview_contract import (
    A_FIELD_LEFT_OUT_ELSEWHERE,
    PARTITIONS_THAT_GROW,
    PreviewContract,
    Rows,
)
from tests.connectors.parquet.lake import LAKE


class TestPreview(PreviewContract):
    connector = "parquet"
    kept = (PARTITIONS_THAT_GROW, A_FIELD_LEFT_OUT_ELSEWHERE)

    def config(self, folder: Path) -> Mapping[str, Any]:
        return {"url": LAKE}

    def options(self) -> st.SearchStrategy[Mapping[str, Any]]:
        folders = [[], ["topic", "hour"], ["body.type"], ["date", "who=body.key"], ["body.n", "body.total"]]
        return st.fixed_dictionaries(
            {"partition_by": st.sampled_from(folders)},
            optional={"row_group_rows": st.just(2), "compression_level": st.just(3)},
        )

    def files(self, folder: Path) -> dict[str, bytes]:
        lake = folder / LAKE
        return {path.relative_to(lake).as_posix(): path.read_bytes() for path in lake.rglob("*.parquet")}

    def file_rows(self, content: bytes) -> Rows:
        return [normal(row) for row in pq.read_table(pa.BufferReader(content)).to_pylist()]
