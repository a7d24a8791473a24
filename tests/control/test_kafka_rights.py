"""The rights that docs/how-to/kafka.md gives are enough, on a broker that checks them, and fewer are refused in plain words."""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclBinding, AclBindingFilter, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.cimpl import NewTopic

from milkrun.control.coordinator import Project
from milkrun.control.running import Stopping, up
from milkrun.log.protocol import Log
from milkrun.model.errors import Refused
from milkrun.model.ledger import LedgerEntry, Stage
from milkrun.model.spec import TopicSpec
from milkrun.testing.kafka_cluster import KafkaCluster
from milkrun.testing.log_contract import records
from tests.control.conftest import Write
from tests.control.flow import PIPELINE, event, make_flow
from tests.docs.blocks import DOCS, blocks
from tests.needs import need_kafka

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("kafka_control")]

PAGE = DOCS / "how-to" / "kafka.md"
PASSWORD = "apples"
SECONDS = 20.0
ANY: Any = None
"""Any name, principal or host; the client's annotations don't know it."""

_KINDS = {
    "--topic": ResourceType.TOPIC,
    "--group": ResourceType.GROUP,
    "--transactional-id": ResourceType.TRANSACTIONAL_ID,
}
ALL_RIGHTS = AclBindingFilter(
    ResourceType.ANY, ANY, ResourcePatternType.ANY, ANY, ANY, AclOperation.ANY, AclPermissionType.ANY
)
_MANAGING = (AclOperation.CREATE, AclOperation.ALTER, AclOperation.ALTER_CONFIGS)


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    """A broker that lets the user `shop` do nothing but what it is allowed."""
    need_kafka()
    overrides = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }
    with KafkaCluster(sasl={"shop": PASSWORD}, overrides=overrides) as cluster:
        yield cluster


@pytest.fixture
def operator(cluster: KafkaCluster) -> AdminClient:
    """Who may do all. There are no rights, and no topics but `foreign`."""
    client = AdminClient({"bootstrap.servers": cluster.bootstrap})
    for removed in client.delete_acls([ALL_RIGHTS]).values():
        removed.result(SECONDS)
    names = [name for name in client.list_topics(timeout=SECONDS).topics if not name.startswith("__")]
    for deleted in (client.delete_topics(names) if names else {}).values():
        deleted.result(SECONDS)
    make(client, NewTopic("foreign", 1))
    return client


def make(operator: AdminClient, *topics: NewTopic) -> None:
    for made in operator.create_topics(list(topics)).values():
        made.result(SECONDS)


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Sequence[AclBinding]:
    """What the page's commands would give: they are run, with a program in the place of Kafka's that notes its arguments."""
    folder = tmp_path_factory.mktemp("acls")
    program, notes = folder / "kafka-acls.sh", folder / "notes"
    program.write_text(f'#!/bin/sh\necho "$@" >> {shlex.quote(str(notes))}\n')
    program.chmod(0o755)
    (block,) = [block for block in blocks(PAGE) if "kafka-acls.sh" in block.text]
    path = os.pathsep.join((str(folder), os.environ["PATH"]))
    subprocess.run(["sh", "-euc", block.text], check=True, env={"PATH": path})
    return [right for line in notes.read_text().splitlines() for right in rights_of(line.split())]


def rights_of(arguments: list[str]) -> Iterator[AclBinding]:
    pairs = list(pairwise(arguments))
    given = dict(pair for pair in pairs if pair[0].startswith("--"))
    (kind,) = [name for name in _KINDS if name in given]
    assert given["--resource-pattern-type"] == "prefixed"
    operations = [value for name, value in pairs if name == "--operation"]
    for operation in operations:
        named = (
            "".join(f"_{letter}" if letter.isupper() else letter for letter in operation).strip("_").upper()
        )
        yield AclBinding(
            _KINDS[kind],
            given[kind],
            ResourcePatternType.PREFIXED,
            given["--allow-principal"],
            "*",
            AclOperation[named],
            AclPermissionType.ALLOW,
        )


def allow(operator: AdminClient, rights: Sequence[AclBinding]) -> None:
    """Returns once the broker goes by the rights: it answers before."""
    for allowed in operator.create_acls(list(rights)).values():
        allowed.result(SECONDS)
    deadline = time.monotonic() + SECONDS
    while not set(rights) <= set(operator.describe_acls(ALL_RIGHTS).result(SECONDS)):
        assert time.monotonic() < deadline, "the broker doesn't know the rights it was given"


def head(cluster: KafkaCluster, *, manage: bool = True) -> str:
    """The project's file of the user `shop`."""
    return (
        f"log:\n  kafka:\n    bootstrap: '{cluster.servers('SASL_PLAINTEXT')}'\n    manage: {str(manage).lower()}\n"
        "    security: {protocol: sasl_plaintext, mechanism: SCRAM-SHA-256, username: shop, password: '${PASSWORD}'}\n"
    )


def project(write: Write, cluster: KafkaCluster, *, manage: bool = True) -> Project:
    """The project `shop`, as the user of that name."""
    pipeline = "sources: {in: {queue: {url: 'amqp://h'}}}\nsinks: {out: {table: {}}}\n"
    folder = write({"milkrun.yaml": head(cluster, manage=manage), "pipelines/shop.yaml": pipeline})
    return Project(folder, environment={"PASSWORD": PASSWORD})


def everything(log: Log, topic: str) -> None:
    """What a project's tasks do to the log, once."""
    with log.transaction() as transaction:
        fresh = transaction.unseen("shop/in", pa.array([b"1", b"2", b"1"]), 60.0)
        assert fresh.to_pylist() == [True, True, False]
        transaction.append(topic, 0, records([b"a", b"b"]))
        transaction.put("store", "key", b"value")
        transaction.count([LedgerEntry("shop", topic, 0, 0, Stage.ACCEPTED, "in", 2)])
        transaction.commit_offset("shop/out", topic, 0, 1)
    assert log.read(topic, 0, 0).events.column("value").to_pylist() == [b"a", b"b"]
    assert log.get("store", "key") == b"value"
    assert log.ledger("shop").num_rows == 1
    assert log.committed("shop/out", topic, 0) == 1
    assert [lease.item for lease in log.join("source:shop/in", "w1", ["in"], 10.0)] == ["in"]
    assert log.join("sink:shop/out", "w1", [f"{topic}[0]"], 10.0)
    log.leave("source:shop/in", "w1")
    log.leave("sink:shop/out", "w1")
    log.housekeep()


def test_the_documented_rights_are_enough(
    write: Write, cluster: KafkaCluster, operator: AdminClient, documented: Sequence[AclBinding]
) -> None:
    allow(operator, documented)
    with project(write, cluster) as shop, shop.worker_log("host-w1") as log:
        assert [change.name for change in shop.apply().topics] == ["_dead.shop", "shop"]
        everything(log, "shop")
        log.create_topic(TopicSpec("shop", 2, retention_seconds=3600.0))
        log.create_topic(TopicSpec("shop.old", retention_seconds=1.0))
        with log.transaction() as transaction:
            transaction.append("shop.old", 0, records([b"a"]))
        log.housekeep()
        assert log.bounds("shop.old", 0)[0] > 0
        log.delete_topic("shop.old")
        # What the user may not see isn't there.
        assert [topic.spec.name for topic in shop.topics()] == ["_dead.shop", "shop"]
        assert shop.status().workers == ()


def test_a_project_runs_with_the_documented_rights(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cluster: KafkaCluster,
    operator: AdminClient,
    documented: Sequence[AclBinding],
) -> None:
    allow(operator, documented)
    flow = make_flow(tmp_path / "shop", monkeypatch, pipeline=PIPELINE.replace("u:geheim@", ""))
    (flow.folder / "milkrun.yaml").write_text(head(cluster))
    flow.give(event(1), event(2), event(2), event(3, "click"))
    with Project(flow.folder, environment={"PASSWORD": PASSWORD}) as shop:
        assert up(shop, Stopping(), until_idle=True).ok
        assert shop.ledger().even
        assert shop.verify().ok
        assert [worker.state for worker in shop.status().workers] == ["stopped"]
    assert [row["n"] for row in flow.target.rows("shop.order")] == [1, 2]


def test_an_operators_topics_need_fewer(
    write: Write, cluster: KafkaCluster, operator: AdminClient, documented: Sequence[AclBinding]
) -> None:
    allow(operator, [right for right in documented if right.operation not in _MANAGING])
    make(operator, NewTopic("shop", 1), NewTopic("_dead.shop", 1))
    for name, partitions in required_topics():
        with (
            pytest.raises(Refused, match=rf"no topic '{name}'"),
            project(write, cluster, manage=False) as shop,
        ):
            shop.log.join("source:shop/in", "w1", ["in"], 10.0)
        make(operator, NewTopic(name, partitions))
    with project(write, cluster, manage=False) as shop:
        shop.apply()
        everything(shop.log, "shop")
        with pytest.raises(Refused, match="operator"):
            shop.log.delete_topic("shop")


def required_topics() -> Iterator[tuple[str, int]]:
    """The internal topics in the page's table, with their partitions, in an order in which they are missed."""
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 3 and cells[1].startswith("`_milkrun.") and cells[2].isdigit():
            yield cells[1].strip("`"), int(cells[2])


def test_a_missing_right_is_said(
    write: Write, cluster: KafkaCluster, operator: AdminClient, documented: Sequence[AclBinding]
) -> None:
    make(operator, NewTopic("shop", 1))
    allow(operator, [right for right in documented if right.restype != ResourceType.GROUP])
    said = r"right on the consumer group, see docs/how-to/kafka\.md"
    with pytest.raises(Refused, match=said), project(write, cluster) as shop:
        everything(shop.log, "shop")
