"""The fakes keep the contracts that they stand in for, and fail where they are told to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from milkrun.model.batch import TopicPartition
from milkrun.model.errors import Fenced, Reopen, Transient
from milkrun.plugin import Sink, Source, SourceContext, TargetPosition
from milkrun.testing.clock import ManualClock
from milkrun.testing.cuts import Event, context, cut
from milkrun.testing.fakes import ACK_SOURCE, MemoryTarget, NoConfig, SourceScript, received
from milkrun.testing.generations_contract import GenerationsContract
from milkrun.testing.repair_contract import RepairContract
from milkrun.testing.sink_contract import StoredPositionContract
from milkrun.testing.source_contract import SourceContract, accepted


class TestScriptedSource(SourceContract):
    script = SourceScript()

    def new_script(self) -> SourceScript:
        return SourceScript()

    @pytest.fixture(autouse=True)
    def fresh(self) -> None:
        self.script = self.new_script()

    def make(self, folder: Path, context: SourceContext) -> Source:
        return self.script.connector()(NoConfig(), context)

    def publish(self, folder: Path, values: Sequence[bytes]) -> None:
        self.script.batches += [received([value]) for value in values]


class TestScriptedAckSource(TestScriptedSource):
    def new_script(self) -> SourceScript:
        return SourceScript(capabilities=ACK_SOURCE)


class TestMemorySink(RepairContract, StoredPositionContract, GenerationsContract):
    def make(self, folder: Path) -> Sink:
        return self.target(folder).connector()(NoConfig(), context(folder))

    def rows(self, folder: Path, topic: str) -> list[dict[str, Any]]:
        return self.target(folder).shown.records(topic)

    def target(self, folder: Path) -> MemoryTarget:
        return self.targets.setdefault(folder, MemoryTarget())

    @pytest.fixture(autouse=True)
    def fresh(self) -> None:
        self.targets: dict[Path, MemoryTarget] = {}


def scripted(script: SourceScript) -> Source:
    return script.connector()(NoConfig(), SourceContext("shop", "input", Path(), ManualClock()))


def test_a_source_fails_at_the_call_it_is_told_and_goes_on_after_it() -> None:
    script = SourceScript(
        [received([b"1"])], failures={("open", 1): Reopen("once"), ("poll", 2): Transient("busy")}
    )
    with pytest.raises(Reopen, match="once"):
        scripted(script).open(None)
    source = scripted(script)
    source.open(None)
    first = source.poll(10, 0.1)
    assert first is not None and first.values.to_pylist() == [b"1"]
    with pytest.raises(Transient, match="busy"):
        source.poll(10, 0.1)
    assert source.poll(10, 0.1) is None
    source.settle(first, accepted(first))
    assert script.exhausted and script.opened == [None, None]


def test_a_lost_answer_leaves_the_cut_written() -> None:
    target = MemoryTarget(
        failures={("write", 1): Transient("not yet"), ("written", 1): Reopen("answer lost")}
    )
    sink = target.connector()(NoConfig(), context(Path()))
    plan = sink.plan(cut([Event(0, {"a": 1})], pa.schema([("a", pa.int64())])))
    with pytest.raises(Transient):
        sink.write(plan)
    assert target.values("shop.order") == []
    with pytest.raises(Reopen):
        sink.write(plan)
    assert target.rows("shop.order") == [{"a": 1}]
    assert sink.position(TopicPartition("shop.order", 0)) == TargetPosition("first", 1, 1)
    with pytest.raises(Fenced):
        sink.write(plan)
