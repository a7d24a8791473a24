"""Commands about the project's files: init, validate, plan, apply, connectors, keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from milkrun.cli.common import DEFAULT, Common
from milkrun.cli.output import Output
from milkrun.control import scaffolding
from milkrun.control.catalog import ConnectorInfo, connectors
from milkrun.control.keys import WriteKey, new_write_key
from milkrun.control.plan import ProjectPlan
from milkrun.log.opening import log_place
from milkrun.model.spec import KafkaLogSpec

_MARKS = {"added": "+", "changed": "~", "removed": "-", "unchanged": " "}
_STYLES = {"added": "green", "changed": "yellow", "removed": "red", "unchanged": "dim"}


@dataclass(frozen=True)
class InitResult:
    """`files` were written."""

    folder: Path
    files: tuple[Path, ...]


@dataclass(frozen=True)
class ValidateResult:
    """The project's files are right; `warnings` may still be worth a look. `log` is a path, or `kafka at host:9092`."""

    project: str
    log: str
    pipelines: tuple[str, ...]
    warnings: tuple[str, ...]


def register(app: App) -> None:
    """Add the commands."""
    for command in (init, validate, plan, apply):
        app.command(command)
    app.command(show_connectors, name="connectors")
    keys = App(name="keys", help="Write keys of the HTTP collector.")
    keys.command(new_key, name="new")
    app.command(keys)


def init(folder: Path | None = None, /, *, common: Common = DEFAULT) -> None:
    """Make a small project that runs at once: HTTP in, DuckDB and Parquet out.

    Parameters
    ----------
    folder
        Where; the project's folder unless given.
    """
    out = common.out
    where = folder or common.project
    result = InitResult(where.absolute(), tuple(scaffolding.init(where)))
    if out.format == "json":
        out.json(result)
        return
    for path in result.files:
        out.line(f"wrote {path}")
    out.line(f"next: milkrun up --project {where}")


def validate(*, common: Common = DEFAULT) -> None:
    """Check the project's files; nothing is changed or connected to."""
    with common.opened() as (project, out):
        names = tuple(pipeline.name for pipeline in project.spec.pipelines)
        place = log_place(project.spec.log)
        result = ValidateResult(project.spec.name, place, names, project.loaded.warnings)
        if out.format == "json":
            out.json(result)
            return
        _warn(out, result.warnings)
        out.line(f"{result.project}: {len(names)} pipeline{'' if len(names) == 1 else 's'}, no mistakes")
        if isinstance(project.spec.log, KafkaLogSpec):
            out.line(f"log: {place}")


def plan(*, common: Common = DEFAULT) -> int:
    """Show what `apply` would change; nothing is changed. Ends with 1 where `apply` would refuse."""
    with common.opened() as (project, out):
        result = project.plan()
        _show_plan(out, result, applied=False)
        return 1 if result.impossible or result.incompatible else 0


def apply(
    *,
    allow_incompatible: Annotated[bool, Parameter(negative="")] = False,
    common: Common = DEFAULT,
) -> None:
    """Make the topics and remember the project as applied.

    Parameters
    ----------
    allow_incompatible
        Go on although schemas no longer take events that they took before, or (on Kafka) no pipeline is left.
    """
    with common.opened() as (project, out):
        _show_plan(out, project.apply(allow_incompatible=allow_incompatible), applied=True)


def _show_plan(out: Output, plan: ProjectPlan, *, applied: bool) -> None:
    if out.format == "json":
        out.json(plan)
        return
    _warn(out, plan.warnings)
    for pipeline in plan.pipelines:
        version = pipeline.version or pipeline.previous or ""
        out.line(
            f"{_MARKS[pipeline.change]} pipeline {pipeline.name} ({version}) {pipeline.change}",
            style=_STYLES[pipeline.change],
        )
        for line in pipeline.diff:
            out.line(f"    {line}", style={"+": "green", "-": "red"}.get(line[:1]))
    for topic in plan.topics:
        details = "; ".join(topic.details)
        out.line(
            f"{_MARKS[topic.change]} topic {topic.name} {topic.change}: {details}",
            style=_STYLES[topic.change],
        )
    for problem in plan.incompatible:
        out.line(f"! incompatible: {problem}", style="red")
    for problem in plan.impossible:
        out.line(f"! impossible: {problem}", style="red")
    if plan.empty:
        out.line("nothing to change")
    elif applied:
        out.line(f"applied as version {plan.version}")


def _warn(out: Output, warnings: Sequence[str]) -> None:
    for warning in warnings:
        out.line(f"warning: {warning}", style="yellow")


def show_connectors(name: str | None = None, /, *, common: Common = DEFAULT) -> None:
    """List the installed connectors, or show one's options.

    Parameters
    ----------
    name
        A source or sink.
    """
    out = common.out
    found = connectors(name)
    if out.format == "json":
        out.json(found)
    elif name is None:
        rows = [(each.kind, each.name, each.delivery, each.summary or each.problem) for each in found]
        out.table(("kind", "name", "delivery", "summary"), rows)
    else:
        for each in found:
            _show_connector(out, each)


def _show_connector(out: Output, info: ConnectorInfo) -> None:
    out.line(f"{info.kind} {info.name}: {info.summary or info.problem}", style="bold")
    if info.delivery:
        out.line(f"delivery: {info.delivery}{'; ' + info.note if info.note else ''}")
    if info.attributes:
        out.line(f"paths for routes: {', '.join(info.attributes)}")
    rows = [
        (option.name, option.type, "required" if option.required else option.default, option.help)
        for option in info.options
    ]
    out.table(("option", "type", "default", "meaning"), rows, empty="it has no options")


def new_key(*, common: Common = DEFAULT) -> None:
    """Make a write key for the HTTP collector. The key is shown this once; files keep its hash."""
    out = common.out
    made: WriteKey = new_write_key()
    if out.format == "json":
        out.json(made)
        return
    out.line(f"key   {made.key}")
    out.line(f"hash  {made.hash}")
    out.line("give the key to the sender, and put the hash among the `keys` of the http source")
