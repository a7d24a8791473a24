"""The JSON decoders that have to give the same answers. A further engine is one more line here."""

from __future__ import annotations

from typing import Protocol

import pyarrow as pa

from milkrun.codecs.json import Decoded, decode
from milkrun.model.schema import EventSchema


class Engine(Protocol):
    """The signature of `milkrun.codecs.json.decode`."""

    def __call__(
        self,
        values: pa.BinaryArray | pa.ChunkedArray,
        schema: EventSchema,
        *,
        rest: bool = ...,
        max_depth: int = ...,
        ignore_case: bool = ...,
    ) -> Decoded: ...


ENGINES: dict[str, Engine] = {"python": decode}
