"""Writes the pages of docs/reference (project files, command line, metrics) from the code; `--check` only says whether they are current.

Keys come from `milkrun.control.sections`, commands from the command line's own declarations, JSON from the records commands return,
metrics from `milkrun.server.metrics`.
"""

from __future__ import annotations

import dataclasses
import re
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from milkrun.cli.app import app
from milkrun.cli.output import FIGURES
from milkrun.cli.project import InitResult, ValidateResult
from milkrun.control import sections
from milkrun.control.archive_rebuilding import Rebuilt
from milkrun.control.archiving import ArchiveReport, ArchiveRun, ArchiveVerification
from milkrun.control.catalog import ConnectorInfo
from milkrun.control.coordinator import AlertFiles, TopicStatus
from milkrun.control.dead import DeadGroup
from milkrun.control.dead_work import Report as DeadReport
from milkrun.control.erasing import ErasurePlan
from milkrun.control.erasure_status import Certificate
from milkrun.control.examples import ExamplesReport
from milkrun.control.inferring import InferredSchema
from milkrun.control.keys import WriteKey
from milkrun.control.ledgers import LedgerReport
from milkrun.control.moving import MoveResult
from milkrun.control.plan import ProjectPlan
from milkrun.control.previewing import Preview
from milkrun.control.replay_diff import ReplayDiff
from milkrun.control.replay_status import ReplayStatus
from milkrun.control.running import Outcome
from milkrun.control.sla import SlaReport
from milkrun.control.status import ProjectStatus
from milkrun.control.tracing import Trace
from milkrun.control.verifying import Verification
from milkrun.model.spec import ServerSpec
from milkrun.plugin.config import describe
from milkrun.runtime.dead_letters import DeadLetter
from milkrun.server.metrics import METRICS, WORKING

REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "reference"
GENERATED = "<!-- Written by tools/reference.py; change the code, not this page. -->\n"
COMMON = ("--project", "--output", "--debug")

RESULTS: dict[str, tuple[str, list[type[Any]]]] = {
    "init": ("one record", [InitResult]),
    "validate": ("one record", [ValidateResult]),
    "plan": ("one record", [ProjectPlan]),
    "apply": ("one record: what was changed", [ProjectPlan]),
    "connectors": ("a list of records", [ConnectorInfo]),
    "keys new": ("one record", [WriteKey]),
    "up": (
        'a line with a record every two seconds, and at last `{"outcome": ...}`',
        [ProjectStatus, Outcome],
    ),
    "status": ("one record; with `--watch` a line every two seconds", [ProjectStatus]),
    "worker": ("none", []),
    "topics": ("a list of records", [TopicStatus]),
    "topics list": ("a list of records", [TopicStatus]),
    "topics show": (
        "one record, with `schema` (types by field) and `schema_conflicts` besides",
        [TopicStatus],
    ),
    "topics infer": ("a list of records", [InferredSchema]),
    "archive": ("one record", [ArchiveReport]),
    "archive status": ("as `milkrun archive`", []),
    "archive run": ("one record", [ArchiveRun]),
    "archive verify": ("one record", [ArchiveVerification]),
    "archive rebuild": ("one record", [Rebuilt]),
    "replay": ("a list of records: what was begun", [ReplayStatus]),
    "replay start": ("as `milkrun replay`", []),
    "replay status": ("a list of records, one a generation", [ReplayStatus]),
    "replay pause": ("as `milkrun replay status`, of those meant", []),
    "replay resume": ("as `milkrun replay pause`", []),
    "replay cancel": ("as `milkrun replay pause`", []),
    "replay diff": ("a list of records", [ReplayDiff]),
    "replay cut-over": ("as `milkrun replay pause`", []),
    "replay rollback": ("as `milkrun replay pause`", []),
    "replay drop": ("as `milkrun replay pause`", []),
    "dead": (
        "a list of records; with `--each` a list of `id, group, state, timestamp, stage, party, code, topic, message`",
        [DeadGroup],
    ),
    "dead list": ("as `milkrun dead`", []),
    "dead show": (
        'one record, with `group`, `state`, `steps` and `corrected` besides; bytes that are no UTF-8 are `{"base64": ...}`',
        [DeadLetter],
    ),
    "dead repair": (
        "one record, with `ok`; rows are records, files have their sizes for bytes",
        [DeadReport],
    ),
    "dead redeliver": ("as `milkrun dead repair`", []),
    "dead drop": ("as `milkrun dead repair`", []),
    "erase": (
        "one record: what would be erased; with `--yes` the certificate, null where there is nothing to erase",
        [ErasurePlan, Certificate],
    ),
    "erasures": ("a list of records; with an id one record", [Certificate]),
    "ledger": ("one record; `even` is null where it can't be told", [LedgerReport]),
    "verify": ("one record", [Verification]),
    "preview": ("one record; rows are records by column", [Preview]),
    "test": ("one record", [ExamplesReport]),
    "sla": ("one record", [SlaReport]),
    "alerts": ("one record", [AlertFiles]),
    "trace": ("one record", [Trace]),
    "move": ('one record; with `--cancel` `{"cancelled": true}`', [MoveResult]),
}
READ_JSON = (
    "a line an event: `partition, offset, timestamp, key, value, headers`; with `--decode` the topic's fields, and "
    "`_partition, _offset, _timestamp, _key, _error`"
)


def pages() -> dict[str, str]:
    """The pages by file name."""
    return {"project-files.md": project_files(), "cli.md": commands(), "metrics.md": metrics()}


# -- project files

_FILES_HEAD = """\
# Project files

A project is a folder with `milkrun.yaml`, a file a pipeline in `pipelines/`, and JSON Schemas in `schemas/`. `milkrun validate`
checks them: every mistake is named with file, line and column, what is wrong, and what would be right. Files are YAML 1.2 (`no` and
`off` are text); anchors, aliases, tags, duplicate keys and files above 1 MiB are refused.

**References.** In any text, `${NAME}` is the environment variable, `${NAME:-default}` has a default for where it is unset or empty, and
`${file:/run/secrets/x}` is a file's text without its last line break (relative paths are below the project). What they stand for is
never shown, stored or logged.

**Paths** lead into an event: `body.order.id`, `headers.tenant`, `key`, and the names that the source's connector offers
(`milkrun connectors NAME` shows them). **Templates** are text with paths in braces: `shop.{body.type}`; `{type}` is short for
`{body.type}`. **Durations** are `500ms`, `30s`, `5m`, `1h`, `7d`; **sizes** `512`, `64KB`, `64MB`, `10GB` (powers of 1024).

**Names** of pipelines, sources and sinks have 1 to 63 letters, digits, `-` or `_`. A pipeline's version, which stands in each of its dead
letters, is a digest of its file and schemas, with references instead of secrets.
"""

_SECTIONS: list[tuple[str, type[Any]]] = [
    ("milkrun.yaml", sections.ProjectFile),
    ("log: embedded", sections.EmbeddedSection),
    ("log: kafka", sections.KafkaSection),
    ("log: kafka: security", sections.KafkaSecuritySection),
    ("archive", sections.ArchiveSection),
    ("archive: topics: a topic", sections.ArchiveRuleSection),
    ("server", sections.ServerSection),
    ("defaults", sections.DefaultsSection),
    ("pipelines/*.yaml", sections.PipelineFile),
    ("sources: a source", sections.SourceSection),
    ("schema", sections.SchemaSection),
    ("topics: a topic", sections.TopicSection),
    ("sinks: a sink", sections.SinkSection),
    ("cut", sections.CutSection),
    ("sla", sections.SlaSection),
    ("tests: a test", sections.ExampleSection),
    ("tests: an event", sections.ExampleEventSection),
    ("tests: a dead letter", sections.ExampleDeadSection),
]

_EXAMPLE = """\
## An example

```yaml
pipeline: shop
owner: team-shop
sources:
  orders:
    rabbitmq: {url: "${AMQP_URL}", queues: [orders]}
    topic: "shop.{body.type}"
    key: body.order.id
    id: properties.message_id
    timestamp: body.occurred_at
    dedupe: 1h
schema:
  type: body.type
  folder: schemas
topics:
  "*": {partitions: 1, retention: forever}
  shop.order: {retention: 30d}
sinks:
  warehouse:
    duckdb: {path: warehouse.duckdb}
    topics: ["shop.*"]
    cut: {rows: 100000, bytes: 64MB, every: 1s}
    only: {body.type: [order, payment]}
sla: {fresh_within: 5m, complete: 99.9%}
```
"""


def project_files() -> str:
    """The page about project files."""
    parts = [GENERATED + _FILES_HEAD]
    for title, kind in _SECTIONS:
        lines = [f"## {title}", "", kind.__doc__ or "", "", "| key | value | meaning |", "|---|---|---|"]
        lines += [_option_row(option) for option in describe(kind)]
        parts.append("\n".join(lines) + "\n")
    return "\n".join([*parts, _EXAMPLE])


def _option_row(option: Any) -> str:
    value = option.type if not option.default else f"{option.type}; `{option.default}` unless given"
    example = f"; for example `{option.example}`" if option.example else ""
    return f"| `{option.name}` | {value} | {_cell(option.help + example)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


# -- commands

_CLI_HEAD = """\
# The command line

Every command takes `--project FOLDER` (or `-p`, or the variable `MILKRUN_PROJECT`; the current folder unless given),
`--output text|json` (or `-o`), and `--debug`, which shows where an unexpected error happened. Text is tables on a terminal and lines with
tabs in a pipe. `milkrun COMMAND --help` says the same as this page. Logs go to standard error; `MILKRUN_LOG=info` shows more of them.

| exit code | meaning |
|---|---|
| 0 | all went well |
| 1 | refused, or something isn't as it must be (a mistake in a file, an uneven ledger, a task that isn't at work) |
| 2 | wrong usage |
| 3 | something can't be reached for now: trying again may help |

Errors are lines on standard error; with `--output json` they are `{"error": {"kind", "message", "exit_code"}}` on standard output, and
mistakes in project files stand in `errors` with `file, line, column, path, what, remedy`. Times in JSON are Unix milliseconds, minutes of the
ledger Unix minutes.
"""


def commands() -> str:
    """The page about the command line."""
    parts = [GENERATED + _CLI_HEAD]
    parts += [_command(name, command) for name, command in _walk("", app)]
    parts.append(
        "## milkrun demo\n\nSee events arrive and be delivered, exactly once; `milkrun demo --help` has its options.\n"
    )
    return "\n".join([*parts, _records()])


def _walk(prefix: str, parent: Any) -> Iterator[tuple[str, Any]]:
    for name in parent:
        if name.startswith("-") or name == "demo":
            continue
        command = parent[name]
        path = f"{prefix} {name}".strip()
        if command.default_command is not None:
            yield path, command
        yield from _walk(path, command)


def _command(name: str, command: Any) -> str:
    text, helps = _docstring(command.default_command.__doc__ or "")
    lines = [f"## milkrun {name}", "", text, ""]
    arguments = [
        each
        for each in command.assemble_argument_collection()
        if each.names[0] not in (*COMMON, "*") and each.parameter.show is not False
    ]
    if arguments:
        lines += ["| option | value | meaning |", "|---|---|---|"]
        lines += [_argument_row(each, helps) for each in arguments]
        lines.append("")
    how, kinds = (READ_JSON, []) if name == "topics read" else RESULTS[name]
    records = ", ".join(f"[{kind.__name__}](#{kind.__name__.lower()})" for kind in kinds)
    lines.append(f"JSON: {how}{': ' + records if records else ''}.")
    return "\n".join(lines) + "\n"


def _argument_row(argument: Any, helps: dict[str, str]) -> str:
    names = " ".join(f"`{name}`" for name in argument.names if not name.startswith("--no-"))
    default = argument.field_info.default
    value = "" if argument.hint is bool else _hint(argument.hint)
    if default not in (None, False, True) and not isinstance(default, type):
        value += f"; {default} unless given"
    if default is True:
        names += f" `--no-{argument.names[0].lstrip('-')}`"
    return f"| {names} | {value} | {_cell(helps.get(argument.field_info.name, ''))} |"


def _hint(hint: Any) -> str:
    text = str(hint) if typing.get_origin(hint) is not None or not isinstance(hint, type) else hint.__name__
    match = re.search(r"Literal\[([^\]]*)\]", text)
    if match:
        return match[1].replace("'", "").replace(", ", " or ")
    return {"str": "text", "int": "number", "Path": "path"}.get(re.sub(r" \| None|pathlib\.", "", text), text)


def _docstring(text: str) -> tuple[str, dict[str, str]]:
    """What comes before the parameters, and the parameters' texts."""
    head, _, tail = text.partition("Parameters\n")
    found = re.findall(r"^    (\w+)\n((?:        .*\n?)+)", tail, re.MULTILINE)
    return " ".join(head.split()), {name: " ".join(help.split()) for name, help in found}


def _records() -> str:
    seen: dict[type[Any], None] = {}
    for _, kinds in RESULTS.values():
        for kind in kinds:
            _collect(kind, seen)
    lines = ["# Records in JSON", ""]
    for kind in sorted(seen, key=lambda each: each.__name__):
        keys = [f"`{each.name}`" for each in dataclasses.fields(kind)]
        keys += [f"`{name}`" for name in FIGURES.get(kind, ())]
        lines += [
            f"## {kind.__name__}",
            "",
            " ".join((kind.__doc__ or "").split()),
            "",
            f"Keys: {', '.join(keys)}.",
            "",
        ]
    return "\n".join(lines)


def _collect(kind: type[Any], seen: dict[type[Any], None]) -> None:
    if kind in seen:
        return
    seen[kind] = None
    for hint in typing.get_type_hints(kind).values():
        for part in [hint, *typing.get_args(hint)]:
            if dataclasses.is_dataclass(part) and isinstance(part, type):
                _collect(part, seen)


# -- metrics

_METRICS_HEAD = f"""\
# Metrics and health

`milkrun up` serves these over HTTP at `{ServerSpec().host}:{ServerSpec().port}` unless `milkrun.yaml` says otherwise (`server:` in
[project files](project-files.md)). They hold names and numbers, never what events contain. There is no login: leave the server on
loopback, or put it behind something that asks for one.

| path | answer |
|---|---|
| `/metrics` | all metrics below, in Prometheus' text format or, for who asks for it, OpenMetrics; 503 while the log can't be read |
| `/healthz` | 200 while the process answers and its log can be read, else 503 |
| `/readyz` | 200 while every task is {", ".join(WORKING[:-1])} or {WORKING[-1]}; else 503 with the tasks that are not, their states and errors |

Metrics are made at each scrape from the log: they are the same whichever worker is asked, and counters go on where they were after a
restart. `milkrun ledger` shows the same sums by minute. An event is read only to tell how old it is, where one waits. On Kafka,
differences of offsets stand for numbers of events: some offsets hold none, so lag and the topic's events may be a little too high.

"""

_METRICS_TAIL = """\
## Prometheus

```yaml
scrape_configs:
  - job_name: milkrun
    static_configs:
      - targets: ["127.0.0.1:9464"]
rule_files: [milkrun-rules.yml]
```

Alerting rules and a dashboard for Grafana come from `milkrun alerts`; what each alert means is in
[Promise freshness and completeness](../how-to/sla.md).
"""


def metrics() -> str:
    """The page about metrics and health."""
    lines = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for info in METRICS:
        name = info.name + ("_total" if info.kind == "counter" else "")
        labels = ", ".join(f"`{label}`" for label in info.labels)
        lines.append(f"| `{name}` | {info.kind} | {labels} | {_cell(info.help)} |")
    return GENERATED + _METRICS_HEAD + "\n".join(lines) + "\n\n" + _METRICS_TAIL


def main() -> int:
    """Write the pages; with `--check` end with 1 where one isn't current."""
    stale = 0
    for name, text in pages().items():
        path = REFERENCE / name
        if "--check" not in sys.argv:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            print(f"{name} isn't current: run python tools/reference.py")
            stale = 1
    return stale


if __name__ == "__main__":
    sys.exit(main())
