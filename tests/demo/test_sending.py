"""How events are sent: in order, each until it is confirmed, with the same ids."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from milkrun.cli.demo.sending import Feed, FileClient
from milkrun.cli.demo.shop import Event
from milkrun.model.errors import Refused, Transient

SECONDS = 10.0


class ScriptedClient:
    """Fails as the script says, one entry a call, and then succeeds; counts what it has seen before as duplicates."""

    def __init__(self, *failures: Exception | None) -> None:
        self.seen: list[str] = []
        self.closed = False
        self._failures = list(failures)

    def send(self, events: Sequence[Event]) -> int:
        failure = self._failures.pop(0) if self._failures else None
        if failure is not None:
            raise failure
        ids = [event["id"] for event in events]
        known = sum(id in self.seen for id in ids)
        self.seen += ids
        return known

    def close(self) -> None:
        self.closed = True


def batch(*ids: str) -> list[Event]:
    return [{"id": id} for id in ids]


def run(client: ScriptedClient, *batches: list[Event]) -> Feed:
    feed = Feed("test", client)
    feed.start()
    for each in batches:
        feed.give(each)
    feed.finish(SECONDS)
    return feed


def test_everything_in_order() -> None:
    client = ScriptedClient()
    feed = run(client, batch("1", "2"), [], batch("3"))
    assert client.seen == ["1", "2", "3"]
    assert (feed.confirmed, feed.duplicates, feed.tries_again) == (3, 0, 0)
    assert client.closed


def test_tries_again_before_the_next() -> None:
    client = ScriptedClient(None, Transient("away"), Transient("away"))
    feed = run(client, batch("1"), batch("2"), batch("3"))
    assert client.seen == ["1", "2", "3"]
    assert (feed.confirmed, feed.tries_again) == (3, 2)


def test_what_was_confirmed_last_is_sent_again_on_request() -> None:
    client = ScriptedClient(None, None, Transient("away"))
    feed = Feed("test", client)
    feed.repeat()
    feed.give(batch("1", "2"))
    feed.repeat()
    feed.give(batch("3"))
    feed.start()
    feed.finish(SECONDS)
    assert client.seen == ["1", "2", "1", "2", "3"]
    assert (feed.confirmed, feed.duplicates) == (3, 2)


def test_a_failure_for_good_comes_out() -> None:
    feed = Feed("test", ScriptedClient(Refused("bad")))
    feed.start()
    feed.give(batch("1"))
    with pytest.raises(Refused, match="bad"):
        feed.finish(SECONDS)


def test_a_file_gets_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "services.ndjson"
    client = FileClient(path)
    client.send([{"id": "1", "item": "Käse"}, {"id": "2"}])
    client.send([{"id": "3"}])
    client.close()
    lines = path.read_bytes().splitlines(keepends=True)
    assert [json.loads(line)["id"] for line in lines] == ["1", "2", "3"]
    assert all(line.endswith(b"\n") for line in lines)
