"""What applying would change, what it refuses, and that no secret gets into log or diff."""

from __future__ import annotations

from pathlib import Path

import pytest

from milkrun.control.applied import APPLIED
from milkrun.control.coordinator import Project
from milkrun.control.plan import masked
from milkrun.model.errors import Refused
from milkrun.testing.clock import ManualClock
from tests.control.conftest import Write

PIPELINE = """\
sources:
  in:
    queue: {url: x}
    topic: orders
topics:
  orders: {partitions: 2}
"""


def project(folder: Path) -> Project:
    return Project(folder, environment={}, clock=ManualClock())


def test_plan_before_anything_has_run_makes_no_log(write: Write) -> None:
    with project(write({"pipelines/shop.yaml": PIPELINE})) as shop:
        plan = shop.plan()
        assert not shop.started
    assert [(each.name, each.change) for each in plan.pipelines] == [("shop", "added")]
    assert [(each.name, each.details) for each in plan.topics] == [
        ("_dead.shop", ("1 partition", "retention forever")),
        ("orders", ("2 partitions", "retention forever")),
    ]
    assert not plan.empty


def test_applied_is_remembered(write: Write) -> None:
    folder = write({"pipelines/shop.yaml": PIPELINE})
    with project(folder) as shop:
        shop.apply()
        assert shop.plan().empty
        assert shop.topic_status("orders").spec.partitions == 2
    write({"pipelines/shop.yaml": PIPELINE.replace("partitions: 2", "partitions: 3, retention: 2d")})
    with project(folder) as shop:
        plan = shop.plan()
        (change,) = plan.pipelines
        assert change.change == "changed"
        assert change.version != change.previous
        assert any(line.strip() == "-    partitions: 2".strip() for line in change.diff)
        (topic,) = plan.topics
        assert topic.details == (
            "partitions 2 → 3: keys may move to other partitions",
            "retention forever → 2d",
        )
        shop.apply()
        assert shop.plan().empty
    (folder / "pipelines" / "shop.yaml").unlink()
    with project(folder) as shop:
        assert [(each.name, each.change) for each in shop.plan().pipelines] == [("shop", "removed")]
        shop.apply()
        assert shop.plan().pipelines == ()


def test_partitions_can_not_shrink(write: Write) -> None:
    folder = write({"pipelines/shop.yaml": PIPELINE})
    with project(folder) as shop:
        shop.apply()
    write({"pipelines/shop.yaml": PIPELINE.replace("partitions: 2", "partitions: 1")})
    with project(folder) as shop:
        assert "they can only grow" in shop.plan().impossible[0]
        with pytest.raises(Refused, match="topic orders: it has 2 partitions"):
            shop.apply(allow_incompatible=True)
        assert shop.topic_status("orders").spec.partitions == 2


def test_an_incompatible_schema_needs_leave(write: Write) -> None:
    text = "schema: {type: body.type}\n" + PIPELINE
    old = '{"type": "object", "properties": {"n": {"type": "integer"}}}'
    folder = write({"pipelines/shop.yaml": text, "schemas/order.json": old})
    with project(folder) as shop:
        shop.apply()
    write({"schemas/order.json": old.replace("integer", "boolean")})
    with project(folder) as shop:
        (problem,) = shop.plan().incompatible
        assert problem.startswith("pipeline shop: order: ")
        with pytest.raises(Refused, match="--allow-incompatible"):
            shop.apply()
        assert shop.plan().incompatible
        shop.apply(allow_incompatible=True)
        assert shop.plan().empty


def test_secrets_are_neither_stored_nor_shown(write: Write) -> None:
    text = "sources: {in: {queue: {url: geheim}}}\nsinks: {out: {table: {path: 'db://u:geheim@h', password: geheim}}}\n"
    folder = write({"pipelines/shop.yaml": text})
    with project(folder) as shop:
        shop.apply()
        ((_, stored),) = shop.log.scan(APPLIED)
        assert b"geheim" not in stored
    write({"pipelines/shop.yaml": text.replace("geheim", "neues")})
    with project(folder) as shop:
        (change,) = shop.plan().pipelines
    assert change.change == "changed"
    assert change.diff == ("(a value that isn't shown, or a default of the project)",)


def test_masking_keeps_references() -> None:
    definition = {"sources": {"in": {"queue": {"url": "${U}", "queues": ["a"]}}}, "x": "amqp://u:${P}@h"}
    assert masked(definition) == definition
