"""The archiving task: one worker has it, and it goes on after what passes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from milkrun.log.archive.archiver import GROUP, ITEM
from milkrun.log.archive.tiered import TieredLog
from milkrun.model.errors import Transient
from milkrun.model.spec import PipelineSpec, RouteSpec, SourceSpec, TopicSpec
from milkrun.runtime.archiving import LEASE_SECONDS, ArchiveTask, archive_once, own_topics
from milkrun.runtime.progress import State
from milkrun.testing.clock import ManualClock
from milkrun.testing.log_contract import NOW, values
from tests.log.archive.depot import HOUR, append, files, open_tiered

OLD = NOW - int(3 * HOUR * 1000)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def log(tmp_path: Path, clock: ManualClock) -> Iterator[TieredLog]:
    log = open_tiered(tmp_path, clock)
    log.create_topic(TopicSpec("shop"))
    append(log, "shop", [b"a"], [OLD])
    yield log
    log.close()


class Watched(ArchiveTask):
    """Ends after `turns` waits."""

    turns = 1

    def watch(self, log: TieredLog, clock: ManualClock) -> None:
        waiting = clock.wait

        def wait(event: object, seconds: float) -> bool:
            self.turns -= 1
            if self.turns <= 0:
                self.close()
            return waiting(self._stop, seconds)

        clock.wait = wait  # type: ignore[method-assign]


def task(log: TieredLog, clock: ManualClock, member: str = "w1", turns: int = 1) -> Watched:
    made = Watched((), log, clock, member, lambda error: None)
    made.turns = turns
    made.watch(log, clock)
    return made


def test_what_is_due_is_archived_and_the_lease_given_up(log: TieredLog, clock: ManualClock) -> None:
    made = task(log, clock)
    made.run()
    assert made.progress.state is State.STOPPED
    assert made.progress.snapshot()["events"] == 1
    assert (files(log, "shop")[0].end, log.hot.bounds("shop", 0)) == (1, (1, 1))
    assert values(log, "shop") == [b"a"]
    assert len(log.join(GROUP, "w2", [ITEM], 10.0)) == 1


def test_another_stands_by(log: TieredLog, clock: ManualClock) -> None:
    log.join(GROUP, "w1", [ITEM], 1000.0)
    made = task(log, clock, "w2")
    made.session()
    assert made.progress.state is State.STANDBY
    assert files(log, "shop") == ()
    assert archive_once((), log, clock, "by-hand") is None
    assert files(log, "shop") == ()


def test_it_takes_over_once_a_lease_has_run_out(log: TieredLog, clock: ManualClock) -> None:
    log.join(GROUP, "w1", [ITEM], LEASE_SECONDS)
    made = task(log, clock, "w2", turns=6)
    made.run()
    assert files(log, "shop")[0].end == 1


def test_what_passes_is_tried_again(
    log: TieredLog, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = log.site.store
    create = type(store).create
    failures = [Transient("the bucket is busy"), Transient("the bucket is busy")]

    def flaky(self: object, name: str, data: object) -> bool:
        if name.endswith(".parquet") and failures:
            raise failures.pop()
        return create(store, name, data)

    monkeypatch.setattr(type(store), "create", flaky)
    made = task(log, clock, turns=3)
    made.run()
    assert failures == []
    assert (files(log, "shop")[0].end, values(log, "shop")) == (1, [b"a"])


def test_what_needs_a_person_is_said_and_the_rest_goes_on(log: TieredLog, clock: ManualClock) -> None:
    log.create_topic(TopicSpec("lost"))
    append(log, "lost", [b"a"], [OLD])
    task(log, clock).run()
    append(log, "lost", [b"b"], [OLD])
    append(log, "lost", [b"c"], [OLD])
    log.hot.trim("lost", 0, 2)
    append(log, "shop", [b"b"], [OLD])
    clock.advance(2 * HOUR)
    made = task(log, clock)
    with pytest.raises(Transient, match=r"lost\[0\]: the log begins at offset 2"):
        made.session()
    assert files(log, "shop")[-1].end == 2


def test_by_hand_nothing_waits_for_a_file_to_fill(log: TieredLog, clock: ManualClock) -> None:
    append(log, "shop", [b"b"], [NOW - int(HOUR * 1000) - 1])
    turn = archive_once((), log, clock, "by-hand")
    assert turn is not None and turn.events == 2
    assert len(log.join(GROUP, "w2", [ITEM], 10.0)) == 1


def test_which_topics_are_a_projects_own() -> None:
    source = SourceSpec("in", "queue", {}, RouteSpec("shop.{body.type}.{headers.country}"))
    own = own_topics([PipelineSpec("orders", (source,), (), topics={"named": TopicSpec("named")})])
    names = ("shop.a.NL", "_dead.orders", "named", "shop", "_dead.other", "billing")
    assert [name for name in names if own(name)] == ["shop.a.NL", "_dead.orders", "named"]
