"""A preview of the collector: a port of its own, every event shown, and clients told at once that nothing was kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from milkrun.connectors.http.config import HttpConfig
from milkrun.connectors.http.source import HttpSource
from milkrun.model.clock import SystemClock
from milkrun.model.errors import Refused
from milkrun.plugin import SourceContext
from milkrun.plugin.config import parse
from milkrun.plugin.source import Source
from milkrun.runtime.cutting import cut
from milkrun.testing.fakes import NoConfig, SourceScript


def test_events_are_shown_and_not_kept(tmp_path: Path) -> None:
    config = parse(HttpConfig, {"listen": "127.0.0.1:8080", "keys": ["sha256:" + "0" * 64]})
    source = HttpSource(config, SourceContext("shop", "app", tmp_path, SystemClock(), split=cut))
    try:
        told = source.tap([])
        url = told.rpartition(" ")[2]
        assert url == f"http://{source.address}/v1/events"
        assert source.address.port != 8080
        with ThreadPoolExecutor(1) as pool:
            for number in (1, 2):
                answer = pool.submit(httpx.post, url, json={"n": number})
                received = source.poll(10, 10.0)
                assert received is not None
                assert received.values.to_pylist() == [b'{"n":%d}' % number]
                assert answer.result().status_code == 503
                assert answer.result().json()["error"]["code"] == "preview"
    finally:
        source.close()


def test_a_source_that_cannot_be_tapped_says_what_can_be_done(tmp_path: Path) -> None:
    kind: type[Source] = SourceScript().connector()
    source = kind(NoConfig(), SourceContext("shop", "in", tmp_path, SystemClock()))
    with pytest.raises(
        Refused, match=r"in \(scripted\) can't be previewed live; give its events with --file"
    ):
        source.tap([])
