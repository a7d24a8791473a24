"""Hostile and broken input against a real `milkrun up`: each ends in a clear error or in a dead letter with its bytes.

The sound events beside it arrive, the ledger is even, and `milkrun verify` finds in the targets exactly what must be there.
"""

from __future__ import annotations

import base64
import gzip
import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.chaos.run import free_port
from tests.e2e.station import Station, station, until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("bad input")]

PIPELINE = """
pipeline: shop
sources:
  app:
    http: {listen: "127.0.0.1:{port}", answer_timeout: 5m}
    topic: "shop.{body.type}"
    key: body.customer
    id: body.id
    timestamp: body.at
sinks:
  warehouse: {duckdb: {path: warehouse.duckdb}, topics: [shop.order], cut: {rows: 10000, every: 100ms}}
  lake: {parquet: {url: lake}, topics: [shop.order], cut: {rows: 10000, every: 100ms}}
"""
GIGABYTE = 1 << 30
MEMORY = 700 << 20
"""What a worker may hold at most, whatever is sent: its libraries take about 200 MB, the collector's room is 128 MB."""


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Station]:
    with station(tmp_path / "shop", PIPELINE) as made:
        yield made.up().listening()


def event(id: Any, **fields: Any) -> bytes:
    return json.dumps({"id": id, "type": "order", "customer": "c", "n": 1} | fields).encode()


def ask(shop: Station, sql: str) -> list[Any]:
    with duckdb.connect(str(shop.folder / "warehouse.duckdb"), read_only=True) as warehouse:
        return warehouse.sql(sql).fetchall()


def send(shop: Station, bodies: list[bytes]) -> dict[str, Any]:
    """Post the bodies as one request, with a sound event before and after each."""
    lines = [event("first")]
    for number, body in enumerate(bodies):
        lines += [body, event(f"sound-{number}")]
    status, answer = shop.post(b"\n".join(lines), content_type="application/x-ndjson")
    assert status == 200, answer
    return answer


def refused(answer: dict[str, Any]) -> dict[int, str]:
    """The codes of refused events, by their place in `send`'s list."""
    return {(each["index"] - 1) // 2: each["code"] for each in answer["refused"]}


def letters(shop: Station) -> dict[bytes, str]:
    """The codes of dead letters of the source by their bytes."""
    return {raw(letter["value"]): letter["code"] for letter in shop.dead() if letter["stage"] == "source"}


def raw(value: Any) -> bytes:
    return base64.b64decode(value["base64"]) if isinstance(value, dict) else str(value).encode()


REFUSED: dict[str, tuple[bytes, str]] = {
    "JSON 100,000 levels deep": (
        b'{"id":"x","type":"order","a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "depth",
    ),
    "a few levels too deep": (b'{"type":"order","a":' + b"[" * 128 + b"]" * 128 + b"}", "depth"),
    "invalid UTF-8": (b'{"type":"order","a":"\xff\xfe"}', "utf8"),
    "a NUL byte within a string": (b'{"type":"order","a":"\x00"}', "syntax"),
    "NaN": (b'{"type":"order","n":NaN}', "syntax"),
    "text after the value": (event("x") + event("y"), "syntax"),
    "an array": (b"[1]", "not_object"),
    "a lone null": (b"null", "not_object"),
    "an object of nothing": (b"{}", "topic_missing"),
    "a topic with two dots": (event("x", type="a..b"), "topic_name"),
    "a topic that climbs": (event("x", type="../../etc/passwd"), "topic_name"),
    "a topic with a slash": (event("x", type="a/b"), "topic_name"),
    "a topic with a NUL": (event("x", type="a\0b"), "topic_name"),
    "a topic of 300 letters": (event("x", type="x" * 300), "topic_name"),
    "a key of 70,000 bytes": (event("x", customer="k" * 70_000), "key_too_large"),
    "a time in words": (event("x", at="yesterday"), "timestamp"),
    "the 31st of February": (event("x", at="2024-02-31T00:00:00Z"), "timestamp"),
    "a time past all calendars": (event("x", at=1e300), "timestamp"),
    "an event of 2 MB": (event("x", a="x" * (2 << 20)), "too_large"),
}


def test_refused_events_are_dead_letters_with_their_bytes(shop: Station) -> None:
    answer = send(shop, [body for body, _ in REFUSED.values()])
    assert answer["accepted"] == len(REFUSED) + 1
    expected = {number: code for number, (_, code) in enumerate(REFUSED.values())}
    assert refused(answer) == expected
    shop.finish()
    assert letters(shop) == dict(REFUSED.values())
    assert ask(shop, "SELECT count(*) FROM shop_order") == [(len(REFUSED) + 1,)]


def test_odd_events_are_delivered_exactly(shop: Station) -> None:
    bodies = [
        b'{"id":"big","type":"order","big":123456789012345678901234567890}',
        b'{"id":"huge","type":"order","huge":' + b"9" * 400 + b"}",
        b'{"id":"double","type":"order","huge_double":1e400}',
        b'{"id":"repeated","type":"order","n":1,"n":2}',
        event("no-key", customer=""),
        event("long-key", customer="k" * 65_536),
        event("nul", text="a\0b"),
        event("meta", _offset=-99, _topic="x", _partition="y", _key=1, _id=5, _timestamp="z", _rest=2),
        event("case", Note=1, note=2, NOTE=3),
        event("quotes", **{'a"b; DROP TABLE shop_order; --': 1, "": 2}),
        event("past", at="0001-01-01T00:00:00Z"),
        event("future", at="9999-12-31T23:59:59Z"),
    ]
    answer = send(shop, bodies)
    assert (answer["refused"], answer["accepted"]) == ([], 2 * len(bodies) + 1)
    shop.finish()
    one = dict(ask(shop, "SELECT id, struct_pack(big, huge, huge_double, n, text, _key) FROM shop_order"))
    assert one["big"]["big"] == Decimal(123456789012345678901234567890)
    assert one["huge"]["huge"] == "9" * 400
    assert one["double"]["huge_double"] == "1e400"
    assert one["repeated"]["n"] == 2
    assert one["no-key"]["_key"] in (b"", "")
    assert len(one["long-key"]["_key"]) == 65_536
    assert one["nul"]["text"] == "a\0b"
    meta = ask(shop, "SELECT _offset_2, _topic_2, _topic, _rest FROM shop_order WHERE id = 'meta'")
    assert meta == [(-99, "x", "shop.order", 2)]
    assert ask(shop, 'SELECT "Note", note_2, "NOTE_3" FROM shop_order WHERE id = \'case\'') == [(1, 2, 3)]
    years = ask(shop, "SELECT id, year(_timestamp) FROM shop_order WHERE id IN ('past', 'future') ORDER BY 1")
    assert years == [("future", 9999), ("past", 1)]


def test_ids_that_are_no_ids(shop: Station) -> None:
    """Two events that share an empty id, an object or null for one are two events; numbers are ids."""
    bodies = [event(value, n=n) for value in ("", {"a": 1}, None, 7) for n in (1, 2)]
    answer = send(shop, bodies)
    assert answer["duplicates"] == 1
    shop.finish()
    # The column `id` is text by then: for the sinks the objects and the number are of the wrong type.
    counts: Counter[tuple[str, str]] = Counter()
    for group in shop.asked("dead"):
        counts[group["party"], group["code"]] += group["count"]
    assert counts == {("lake", "type"): 3, ("warehouse", "type"): 3}
    assert ask(shop, "SELECT count(*) FROM shop_order") == [(2 * len(bodies) - 3,)]


def test_a_field_that_changes_its_type_is_a_dead_letter_of_each_sink(shop: Station) -> None:
    assert shop.post(event("typed", amount=1))[0] == 200
    shop.delivered()
    wrong = event("wrong", amount="a lot")
    send(shop, [wrong])
    shop.finish()
    found = [(each["party"], each["code"], raw(each["value"])) for each in shop.dead()]
    assert sorted(found) == [("lake", "type", wrong), ("warehouse", "type", wrong)]
    assert ask(shop, "SELECT count(*) FROM shop_order") == [(3,)]


def test_a_thousand_fields(shop: Station) -> None:
    send(shop, [event("wide", **{f"f{number}": number for number in range(1_000)})])
    shop.finish()
    assert ask(shop, "SELECT f0, f999 FROM shop_order WHERE id = 'wide'") == [(0, 999)]


def test_ten_thousand_types(shop: Station) -> None:
    """A template over an unbounded field: so many topics are made, the events beyond are kept as dead letters."""
    bodies = [event(f"e{number}", type=f"t{number}") for number in range(9_999)]
    status, answer = shop.post(b"\n".join([event("sound"), *bodies]), content_type="application/x-ndjson")
    assert status == 200
    assert Counter(each["code"] for each in answer["refused"]) == {"too_many_topics": 9_000}
    assert answer["accepted"] == 1_000
    assert shop.post(event("sound-after"))[1]["accepted"] == 1
    shop.finish()
    assert ask(shop, "SELECT count(*) FROM shop_order") == [(2,)]
    assert sum(group["count"] for group in shop.asked("dead")) == 9_000


def answer_to(shop: Station, head: bytes, body: Iterator[bytes]) -> tuple[bytes, int]:
    """The first line of the answer to a request, sent until it is answered; and how many bytes went out by then."""
    sent = 0
    with socket.create_connection(("127.0.0.1", shop.port), timeout=60) as connection:
        answered = threading.Event()
        line: list[bytes] = []

        def read() -> None:
            try:
                line.append(connection.makefile("rb").readline())
            finally:
                answered.set()

        reader = threading.Thread(target=read)
        reader.start()
        try:
            connection.sendall(head)
            for piece in body:
                if answered.is_set():
                    break
                connection.sendall(piece)
                sent += len(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass
        reader.join()
    return line[0], sent


HEAD = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def test_bodies_of_a_gigabyte_are_refused_early(shop: Station) -> None:
    piece = b" " * (1 << 16)
    pieces = GIGABYTE // len(piece)
    announced, sent = answer_to(shop, HEAD + b"Content-Length: %d\r\n\r\n" % GIGABYTE, iter(()))
    assert (announced.split()[1], sent) == (b"413", 0)
    announced, sent = answer_to(
        shop, HEAD + b"Content-Length: %d\r\n\r\n" % GIGABYTE, (piece for _ in range(pieces))
    )
    assert announced.split()[1] == b"413" and sent < GIGABYTE // 8
    chunk = b"%x\r\n%s\r\n" % (len(piece), piece)
    unannounced, sent = answer_to(
        shop, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", (chunk for _ in range(pieces))
    )
    assert unannounced.split()[1] == b"413" and sent < GIGABYTE // 8
    bomb = gzip.compress(b" " * (GIGABYTE // 4), 9)
    assert shop.post(bomb, content_encoding="gzip")[0] == 413
    assert shop.resident() < MEMORY
    assert shop.post(event("sound"))[1]["accepted"] == 1
    shop.finish()


def test_damaged_compression_over_http_is_refused_as_a_whole(shop: Station) -> None:
    whole = gzip.compress(event("x"))
    for body in (whole[:-5], whole[:20], b"\x1f\x8b", b"no gzip at all", whole + b"more"):
        status, answer = shop.post(body, content_encoding="gzip")
        assert status == 400, (body, answer)
    assert shop.post(whole, content_encoding="gzip")[1]["accepted"] == 1
    assert shop.post(event("y"), content_encoding="br")[0] == 415
    shop.finish()
    assert ask(shop, "SELECT id FROM shop_order") == [("x",)]


FILES = """
pipeline: shop
sources:
  exports:
    files: {paths: ["in/*.gz"]}
    topic: shop.order
    id: body.id
sinks:
  warehouse: {duckdb: {path: warehouse.duckdb}, cut: {every: 50ms}}
"""


def test_a_truncated_gzip_file_gives_what_it_holds_and_says_what_is_missing(tmp_path: Path) -> None:
    lines = [event(f"e{number}", note="x" * 50 + str(number)) for number in range(20_000)]
    whole = gzip.compress(b"\n".join(lines))
    with station(tmp_path / "shop", FILES) as shop:
        file = shop.folder / "in/export.ndjson.gz"
        file.parent.mkdir()
        file.write_bytes(whole[: len(whole) // 2])
        shop.up()
        until(lambda: bool(shop.task("exports")["error"]), "the status tells of the truncated file")
        assert "export.ndjson.gz" in shop.task("exports")["error"]
        assert shop.command("status").code == 1
        with file.open("ab") as rest:
            rest.write(whole[len(whole) // 2 :])
        until(lambda: shop.task("exports")["state"] == "idle", "the completed file is read")
        shop.finish()
        assert ask(shop, "SELECT count(*), count(DISTINCT id) FROM shop_order") == [(20_000, 20_000)]


def test_an_unreachable_broker_is_in_the_status_and_others_go_on(tmp_path: Path) -> None:
    queue = f'  queue:\n    rabbitmq: {{url: "amqp://guest:hidden-word@127.0.0.1:{free_port()}/", queues: [orders]}}\n'
    with station(
        tmp_path / "shop", PIPELINE.replace("sinks:", queue + "    topic: shop.order\nsinks:")
    ) as shop:
        shop.up().listening()
        assert shop.post(event("one"))[1]["accepted"] == 1
        until(lambda: shop.task("queue")["state"] == "retrying", "the status tells of the broker")
        shop.delivered()
        status = shop.command("status")
        assert status.code == 1
        assert "hidden-word" not in status.out + status.err + shop.said()
        assert "127.0.0.1" in shop.task("queue")["error"]
        assert shop.stop() == 0
        shop.prove()
        assert ask(shop, "SELECT id FROM shop_order") == [("one",)]


def test_an_unreachable_target_ends_a_command_with_3(tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    lake = (
        "lake: {parquet: {url: s3://lake/x, s3: {endpoint: ENDPOINT, allow_http: true, access_key: a, secret_key: hidden-word}}}"
    ).replace("ENDPOINT", endpoint)
    text = FILES.replace("warehouse: {duckdb: {path: warehouse.duckdb}, cut: {every: 50ms}}", lake)
    with station(tmp_path / "shop", text) as shop:
        assert shop.command("apply").code == 0
        verified = shop.command("verify")
        assert verified.code == 3, verified.out + verified.err
        assert "hidden-word" not in verified.out + verified.err


MISTAKES: dict[str, tuple[str, str]] = {
    "broken YAML": ("pipeline: shop\nsources: {app: [\n", "pipelines/shop.yaml:"),
    "a tab": ("pipeline: shop\nsources:\n\tapp: {}\n", "pipelines/shop.yaml:3"),
    "an unknown field": ("pipeline: shop\nsorces: {}\n", "pipelines/shop.yaml:2:1"),
    "a list for a mapping": ("pipeline: shop\nsources: []\n", "pipelines/shop.yaml:2"),
    "text for a number": (FILES + 'topics: {"*": {partitions: many}}\n', "partitions"),
    "a missing secret": (
        "pipeline: shop\nsources:\n  q:\n    rabbitmq:\n      url: ${NO_SUCH_SECRET}\n      queues: [a]\n",
        "NO_SUCH_SECRET",
    ),
    "a missing secret file": (
        "pipeline: shop\nsources:\n  q:\n    rabbitmq:\n      url: ${file:no/such}\n      queues: [a]\n",
        "no/such",
    ),
    "a topic that climbs": (FILES.replace("topic: shop.order", "topic: ../etc"), "can't name a topic"),
    "a topic with a slash": (FILES.replace("topic: shop.order", 'topic: "a/{body.type}"'), "a/"),
    "a template's unmatched brace": (FILES.replace("topic: shop.order", 'topic: "a{b"'), "brace"),
    "an unknown connector": (FILES.replace("duckdb:", "dukdb:"), "dukdb"),
    "a key given twice": ("pipeline: shop\npipeline: again\n", "pipelines/shop.yaml:2"),
    "an alias bomb": ("a: &a [x, x]\nb: [*a, *a, *a]\n", "pipelines/shop.yaml:1"),
    "a NUL byte": ("pipeline: \0shop\n", "pipelines/shop.yaml"),
    "levels without end": ("pipeline: " + "[" * 5_000 + "\n", "pipelines/shop.yaml"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_file_names_its_place(name: str, tmp_path: Path) -> None:
    text, place = MISTAKES[name]
    shop = Station(tmp_path / "shop", text)
    for command in ("validate", "up"):
        done = shop.command(command)
        assert done.code == 1, (done.out, done.err)
        assert place in done.err, done.err
        assert "Traceback" not in done.err
