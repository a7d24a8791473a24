"""Project files: what they mean, and every mistake in them at its exact place."""

from __future__ import annotations

from pathlib import Path

import pytest

from milkrun.control.loading import load, load_project
from milkrun.model.errors import ConfigErrors, NotFound
from milkrun.model.spec import CutSpec, EmbeddedLogSpec, RouteSpec, TopicSpec
from tests.control.conftest import Write

WHOLE = """\
pipeline: shop
owner: team-shop
sources:
  orders:
    queue: {url: "${AMQP_URL}", queues: [orders]}
    topic: "shop.{type}"
    key: body.order.id
    id: properties.message_id
    timestamp: body.occurred_at
    dedupe: 2h
  rest:
    queue: {url: "amqp://${USER:-guest}@x"}
    dedupe: off
schema:
  type: body.type
  unknown: refuse
  columns: fixed
topics:
  "*": {partitions: 4, retention: 30d}
  shop.order: {retention: forever, retention_size: 10GB, compact: true}
sinks:
  warehouse:
    table: {path: w.db}
    cut: {rows: 10, every: 5s}
    only: {body.type: [order, 7], key: true}
  lake:
    table:
    topics: ["shop.*"]
"""

MINIMAL = "sources: {in: {queue: {url: x}}}\nsinks: {out: {table: {}}}\n"


def mistakes(folder: Path, environment: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigErrors) as raised:
        load_project(folder, environment or {})
    return [str(error) for error in raised.value.errors]


def test_everything_that_can_be_said(write: Write) -> None:
    folder = write({"pipelines/a.yaml": WHOLE, "schemas/order.json": '{"type": "object"}'})
    project = load_project(folder, {"AMQP_URL": "amqp://secret"})
    assert (project.name, project.folder) == ("shop", folder)
    assert project.log == EmbeddedLogSpec(folder / ".milkrun/log.db")
    (pipeline,) = project.pipelines
    orders, rest = pipeline.sources
    assert orders.config == {"url": "amqp://secret", "queues": ["orders"]}
    assert orders.route == RouteSpec(
        "shop.{type}", "body.order.id", "properties.message_id", "body.occurred_at"
    )
    assert (orders.dedupe_seconds, rest.dedupe_seconds) == (7200.0, 0.0)
    assert (rest.config["url"], rest.route) == ("amqp://guest@x", RouteSpec("shop"))
    assert (pipeline.schema.by_type, pipeline.schema.unknown, pipeline.schema.grow) == (
        {"order": {"type": "object"}},
        "refuse",
        False,
    )
    month = 30 * 86_400.0
    assert pipeline.topic("shop.click") == TopicSpec("shop.click", 4, month)
    assert pipeline.topic("shop.order") == TopicSpec("shop.order", 4, None, 10 << 30, True)
    warehouse, lake = pipeline.sinks
    assert warehouse.topics == ("shop.*", "shop")
    assert warehouse.cut == CutSpec(10, 1 << 20, 5.0)
    assert warehouse.only == {"body.type": ("order", "7"), "key": ("true",)}
    assert (lake.topics, lake.config, lake.cut) == (("shop.*",), {}, CutSpec(1000, 1 << 20, 1.0))


def test_the_project_file(write: Write) -> None:
    head = "log: {embedded: {path: data/l.db}}\nserver: {port: 0}\ndefaults: {topics: {partitions: 3}}\n"
    folder = write({"milkrun.yaml": head, "pipelines/p.yaml": MINIMAL})
    project = load_project(folder)
    assert (project.name, project.server.port) == ("shop", 0)
    assert project.log == EmbeddedLogSpec(folder / "data/l.db")
    assert project.pipelines[0].topic("p").partitions == 3
    folder = write({"milkrun.yaml": "log: embedded\n"})
    assert load_project(folder).log == EmbeddedLogSpec(folder / ".milkrun/log.db")


def test_a_folder_without_a_project(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="milkrun init"):
        load_project(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "nam: x\n",
            "milkrun.yaml:1:1: nam: unknown option 'nam'; perhaps 'name' is meant; known are: name, log",
        ),
        ("log: 5\n", "milkrun.yaml:1:1: log: '5' is no log"),
        (
            "log:\n  embedded:\n    pth: x\n",
            "milkrun.yaml:3:5: log.embedded.pth: unknown option 'pth'; perhaps 'path'",
        ),
        ("server:\n  port: 70000\n", "milkrun.yaml:2:3: server.port: 70000 is out of range"),
        ("server: [1]\n", "milkrun.yaml:1:1: server: [1] is not a mapping"),
        (
            "defaults:\n  topics:\n    partitions: 0\n",
            "milkrun.yaml:3:5: defaults.topics.partitions: 0 is out of range",
        ),
        (
            "defaults: {topics: {retention: soon}}\n",
            "milkrun.yaml:1:21: defaults.topics.retention: 'soon' is not a duration",
        ),
        ("- a\n", "milkrun.yaml:1:1: a list where a mapping belongs"),
        ("name: ${NAME}\n", "milkrun.yaml:1:1: name: the environment variable NAME isn't set"),
    ],
)
def test_mistakes_in_the_project_file(write: Write, text: str, expected: str) -> None:
    (only,) = mistakes(write({"milkrun.yaml": text, "pipelines/p.yaml": MINIMAL}))
    assert only.startswith(expected)


SOURCE = "sources:\n  in:\n    queue: {url: x}\n"
SINK = "sinks:\n  out:\n    table: {}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sorces: {}\n" + SOURCE, "1:1: sorces: unknown option 'sorces'; perhaps 'sources' is meant"),
        ("pipeline: a b\n" + SOURCE, "1:1: pipeline: 'a b' can't name a pipeline"),
        ("pipeline: ../x\n" + SOURCE, "1:1: pipeline: '../x' can't name a pipeline"),
        ("owner: x\n", "1:1: the pipeline has neither sources nor sinks"),
        ("sources:\n  in.1:\n    queue: {url: x}\n", "2:3: sources.in.1: 'in.1' can't name a source"),
        (
            "sources:\n  in:\n    topic: x\n",
            "2:3: sources.in: the source names no connector; name one of: queue",
        ),
        ("sources:\n  in: 5\n", "2:3: sources.in: 5 where a mapping belongs"),
        (
            "sources:\n  in:\n    quue: {url: x}\n",
            "3:5: sources.in.quue: unknown key 'quue'; perhaps 'queue' is meant; known are: queue, topic",
        ),
        (SOURCE + "    topc: x\n", "4:5: sources.in.topc: unknown key 'topc'; perhaps 'topic' is meant"),
        (
            "sources:\n  in:\n    queue:\n      url: x\n      prefech: 5\n",
            "5:7: sources.in.queue.prefech: unknown option 'prefech'; perhaps 'prefetch' is meant",
        ),
        ("sources:\n  in:\n    queue: {}\n", "3:5: sources.in.queue: option 'url' is missing; give secret"),
        ("sources:\n  in:\n    queue: {url: 5}\n", "3:13: sources.in.queue.url: *** is not a secret"),
        (
            "sources:\n  in:\n    queue: {url: x, queues: [a, 1]}\n",
            "3:33: sources.in.queue.queues.1: 1 is not text",
        ),
        (SOURCE + "    topic: a/b\n", "4:5: sources.in.topic: 'a/b' can't name a topic"),
        (SOURCE + "    topic: ../{type}\n", "4:5: sources.in.topic: '../x' can't name a topic"),
        (SOURCE + "    topic: a..b\n", "4:5: sources.in.topic: 'a..b' can't name a topic"),
        (SOURCE + '    topic: "a.{type"\n', "4:5: sources.in.topic: the braces of"),
        (SOURCE + '    topic: ""\n', "4:5: sources.in.topic: the template is empty"),
        (SOURCE + "    topic: _dead.x\n", "4:5: sources.in.topic: topics that begin with _dead. are"),
        (SOURCE + "    topic: 7\n", "4:5: sources.in.topic: 7 is not text"),
        (
            SOURCE + "    key: order\n",
            "4:5: sources.in.key: 'order' is no path into an event; write one of: body.",
        ),
        (SOURCE + "    dedupe: soon\n", "4:5: sources.in.dedupe: 'soon' is not a duration"),
        (SINK + "    topics: [a/b]\n", "4:14: sinks.out.topics.0: 'a/b' can match no topic"),
        (SINK + "    topics: []\n", "4:5: sinks.out.topics: [] is no list of topics"),
        (
            SINK + "    cut: {row: 1}\n",
            "4:11: sinks.out.cut.row: unknown option 'row'; perhaps 'rows' is meant",
        ),
        (SINK + "    cut: {bytes: 0}\n", "4:11: sinks.out.cut.bytes: 0 is out of range"),
        (SINK + "    only: {type: [a]}\n", "4:12: sinks.out.only.type: 'type' is no path into an event"),
        (SINK + "    only: {body.type: []}\n", "4:12: sinks.out.only.body.type: [] is no list of values"),
        (
            SOURCE + "sinks:\n  in:\n    table: {}\n",
            "5:3: sinks.in: a source and a sink are both called 'in'",
        ),
        (
            SOURCE + "schema: {typ: body.type}\n",
            "4:10: schema.typ: unknown option 'typ'; perhaps 'type' is meant",
        ),
        (SOURCE + "schema: {type: typ}\n", "4:10: schema.type: 'typ' is no path into an event"),
        (SOURCE + "schema: {unknown: drop}\n", "4:10: schema.unknown: 'drop' is not one of accept, refuse"),
        (SOURCE + "schema: {unknown: refuse}\n", "4:10: schema.unknown: without any schema"),
        (SOURCE + "schema: {folder: none}\n", "4:10: schema.folder: there is no folder 'none'"),
        (SOURCE + "topics: {a/b: {}}\n", "4:10: topics.a/b: 'a/b' can't name a topic"),
        (SOURCE + 'topics: {"a.*": {}}\n', "4:10: topics.a.*: 'a.*' is a pattern"),
        (
            SOURCE + "topics: {a: {partitions: many}}\n",
            "4:14: topics.a.partitions: 'many' is not a whole number",
        ),
        (
            SOURCE + "topics: {a: {retention: 0}}\n",
            "4:14: topics.a.retention: a limit of 0 would keep nothing",
        ),
        (
            SOURCE + "topics: {a: {retention_size: big}}\n",
            "4:14: topics.a.retention_size: 'big' is not a size",
        ),
        (SOURCE + "rules: []\n", "4:1: rules: unknown option 'rules'"),
    ],
)
def test_mistakes_in_a_pipeline(write: Write, text: str, expected: str) -> None:
    (only,) = mistakes(write({"pipelines/p.yaml": text}))
    assert only.startswith(f"pipelines/p.yaml:{expected}")


def test_all_mistakes_of_all_files_are_named_in_their_order(write: Write) -> None:
    folder = write(
        {
            "milkrun.yaml": "nam: x\n",
            "pipelines/a.yaml": "sources:\n  in:\n    queue: {prefetch: x}\n    topic: a/b\nsnks: {}\n",
            "pipelines/b.yaml": "a: [\n",
        }
    )
    places = [text.split(": ")[0] for text in mistakes(folder)]
    assert places == [
        "milkrun.yaml:1:1",
        "pipelines/a.yaml:3:5",
        "pipelines/a.yaml:3:13",
        "pipelines/a.yaml:4:5",
        "pipelines/a.yaml:5:1",
        "pipelines/b.yaml:2:1",
    ]


def test_two_pipelines_of_one_name(write: Write) -> None:
    text = "pipeline: shop\n" + MINIMAL
    (only,) = mistakes(write({"pipelines/a.yaml": text, "pipelines/b.yaml": text}))
    assert only.startswith(
        "pipelines/b.yaml:1:1: pipeline: a second pipeline called 'shop'; the first is in pipelines/a.yaml"
    )


def test_two_connectors_in_one_source(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.control.connectors import install, queue_source, table_sink

    install(monkeypatch, {"queue": queue_source(), "other": queue_source()}, {"table": table_sink()})
    text = "sources:\n  in:\n    queue: {url: x}\n    other: {url: x}\n"
    (only,) = mistakes(write({"pipelines/p.yaml": text}))
    assert only.startswith(
        "pipelines/p.yaml:2:3: sources.in: a source has one connector, not queue and other"
    )


def test_topics_declared_in_two_ways(write: Write) -> None:
    files = {
        f"pipelines/{name}.yaml": f"topics: {{t: {{partitions: {count}}}}}\n{MINIMAL}"
        for name, count in (("a", 1), ("b", 2))
    }
    (only,) = mistakes(write(files))
    assert "pipelines/a.yaml declares the topic t with other settings than pipelines/b.yaml" in only


def test_owners_are_teams_once_there_are_any(write: Write) -> None:
    folder = write({"milkrun.yaml": "teams: {a: x}\n", "pipelines/p.yaml": "owner: b\n" + MINIMAL})
    (only,) = mistakes(folder)
    assert only.startswith(
        "pipelines/p.yaml:1:1: owner: the owner 'b' is no team of milkrun.yaml; name one of: a"
    )


# -- schemas


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"type": "object",}', "schemas/order.json:1:19: this is no JSON"),
        ('{\n  "type": "object",\n  "type": "array"\n}', "schemas/order.json: the key 'type' stands twice"),
        ("[]", "schemas/order.json:1:1: a JSON Schema is an object"),
        ('{\n\t"type": "objekt"\n}', "schemas/order.json:2:2"),
    ],
)
def test_mistakes_in_schemas(write: Write, text: str, expected: str) -> None:
    pipeline = "schema: {type: body.type}\n" + MINIMAL
    (only,) = mistakes(write({"pipelines/p.yaml": pipeline, "schemas/order.json": text}))
    assert only.startswith(expected)


# -- references and secrets


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (
            "${AMQP_URL}",
            "the environment variable AMQP_URL isn't set; set it, or give a default: ${AMQP_URL:-...}",
        ),
        ("${file:/nowhere/secret}", "the file of ${file:/nowhere/secret} can't be read: No such file"),
        ("${A B}", "${A B} is no reference"),
    ],
)
def test_references_that_lead_nowhere(write: Write, written: str, words: str) -> None:
    text = f'sources:\n  in:\n    queue:\n      url: "{written}"\n'
    (only,) = mistakes(write({"pipelines/p.yaml": text}))
    assert only.startswith("pipelines/p.yaml:4:7: sources.in.queue.url: " + words)


def test_a_secret_file(write: Write) -> None:
    text = 'sources: {in: {queue: {url: "amqp://u:${file:secret}@h"}}}\nsinks: {out: {table: {}}}\n'
    project = load_project(write({"pipelines/p.yaml": text, "secret": "pass\n"}))
    assert project.pipelines[0].sources[0].config["url"] == "amqp://u:pass@h"


@pytest.mark.parametrize(
    "text",
    [
        "sources: {in: {queue: {url: x, wait: '${S}'}}}\n",
        "sources: {in: {queue: {url: x}, topic: '${S}/'}}\n",
        "sources: {in: {queue: {url: x}, key: '${S}'}}\n",
        "sources: {in: {queue: {url: x, queues: '${S}'}}}\n",
        "pipeline: '${S}/'\nsources: {in: {queue: {url: x}}}\n",
        "sources: {in: {queue: {url: x}}}\nsinks: {out: {table: {}, topics: '${S}/'}}\n",
        "sources: {in: {queue: {url: x}}}\nsinks: {out: {table: {}, only: ['${S}']}}\n",
    ],
)
def test_what_a_reference_stands_for_is_never_shown(write: Write, text: str) -> None:
    errors = mistakes(write({"pipelines/p.yaml": text}), {"S": "geheim"})
    assert errors
    assert not any("geheim" in error for error in errors)


def test_an_error_about_a_reference_names_it(write: Write) -> None:
    text = "sources: {in: {queue: {url: x, wait: '${S}'}}}\n"
    (only,) = mistakes(write({"pipelines/p.yaml": text}), {"S": "geheim"})
    assert only == (
        "pipelines/p.yaml:1:32: sources.in.queue.wait: what ${S} stands for isn't right here; "
        "write for example 500ms, 30s, 5m, 1h or 7d"
    )


# -- versions and warnings


def version(folder: Path, **environment: str) -> str:
    return load_project(folder, environment).pipelines[0].version


def test_the_version_changes_with_the_definition_and_not_with_secrets(write: Write) -> None:
    text = "sources: {in: {queue: {url: '${U}'}}}\n"
    first = version(write({"pipelines/p.yaml": text}), U="one")
    assert len(first) == 12
    assert version(write({"pipelines/p.yaml": text + "# a comment\n"}), U="two") == first
    assert version(write({"pipelines/p.yaml": text + "owner: me\n"}), U="one") != first


def test_the_version_changes_with_a_schema(write: Write) -> None:
    text = "schema: {type: body.type}\n" + MINIMAL
    first = version(write({"pipelines/p.yaml": text, "schemas/a.json": '{"type": "object"}'}))
    assert version(write({"schemas/b.json": '{"type": "object"}'})) != first


def test_warnings(write: Write) -> None:
    assert "no pipelines" in load(write({})).warnings[0]
    assert "it has no sinks" in load(write({"pipelines/p.yaml": SOURCE})).warnings[0]
    assert "takes no topics" in load(write({"pipelines/p.yaml": SINK})).warnings[0]
