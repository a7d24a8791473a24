"""What applying a project would change: compared are its files, what was last applied, and the topics that the log has.

The log's store `applied` keeps, by pipeline, what was last applied. Definitions are kept without secrets: references stay
references, and literal values of secret options, or passwords in addresses, are masked.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from io import StringIO
from typing import Any, Literal

from ruamel.yaml import YAML

from milkrun.control.applied import APPLIED, current_number, outside, store_version
from milkrun.control.literals import literal_secrets
from milkrun.control.loading import PROJECT_FILE, LoadedProject
from milkrun.control.pipelines import has_pattern, topic_pattern
from milkrun.control.schemas import schema_changes
from milkrun.log.protocol import Log
from milkrun.model.clock import Clock
from milkrun.model.errors import ConfigError, ConfigErrors, Refused
from milkrun.model.spec import KafkaLogSpec, PipelineSpec, TopicSpec, dead_letter_topic
from milkrun.plugin.config import describe
from milkrun.runtime.registry import sink_class, source_class
from milkrun.runtime.sink_task import matches
from milkrun.runtime.stores import dump, load

_PASSWORD = re.compile(r"(://[^/@:\s]*:)((?!\$\{)[^/@\s]+)(@)")

Change = Literal["added", "changed", "removed", "unchanged"]


@dataclass(frozen=True)
class PipelineChange:
    """What would become of one pipeline; `diff` has lines of its definition, as `diff -u` writes them."""

    name: str
    change: Change
    version: str | None
    previous: str | None
    diff: tuple[str, ...] = ()


@dataclass(frozen=True)
class TopicChange:
    """A topic to be made, or one whose settings would change; `details` says what, a sentence each."""

    name: str
    change: Literal["added", "changed"]
    details: tuple[str, ...]


@dataclass(frozen=True)
class ProjectPlan:
    """All that applying would change. `incompatible` needs leave to go on; `impossible` can't be done at all.

    `version` is the number that the log's catalog has for what is applied, None before anything is.
    """

    pipelines: tuple[PipelineChange, ...]
    topics: tuple[TopicChange, ...]
    incompatible: tuple[str, ...]
    impossible: tuple[str, ...]
    warnings: tuple[str, ...]
    version: int | None = None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to change."""
        return not self.topics and all(each.change == "unchanged" for each in self.pipelines)


@dataclass(frozen=True)
class _Applied:
    version: str
    definition: Any
    schemas: Mapping[str, Mapping[str, Any]]


def make_plan(project: LoadedProject, log: Log | None) -> ProjectPlan:
    """The plan for a project on a log; None is a log that doesn't exist yet."""
    before = _applied(log) if log else {}
    now = {pipeline.name: pipeline for pipeline in project.spec.pipelines}
    changes, incompatible = [], []
    for name in sorted({*before, *now}):
        pipeline, old = now.get(name), before.get(name)
        changes.append(_pipeline_change(name, pipeline, old, project))
        if pipeline and old:
            problems = schema_changes(
                old.schemas, pipeline.schema.by_type, refuses_unknown=pipeline.schema.unknown == "refuse"
            )
            incompatible += [f"pipeline {name}: {problem}" for problem in problems]
    topics, impossible = _topic_changes(project, log)
    if before and not now and isinstance(project.spec.log, KafkaLogSpec):
        # A machine that only runs workers has no pipelines: `up` there must not end everybody's.
        incompatible.append(f"the project has no pipelines, and the {len(before)} applied ones would stop")
    return ProjectPlan(
        tuple(changes),
        tuple(topics),
        tuple(incompatible),
        tuple(impossible),
        project.warnings,
        current_number(log) if log else None,
    )


def apply_plan(
    project: LoadedProject, log: Log, clock: Clock, *, allow_incompatible: bool = False
) -> ProjectPlan:
    """Make the topics and store what is applied, the catalog's version with it.

    Refused where the plan has what can't or may not be done; Fenced where another applied something else meanwhile; ConfigErrors
    where secrets stand in files that would go to a cluster.
    """
    whole = _check_files(project)
    plan = make_plan(project, log)
    if plan.impossible:
        raise Refused("\n".join(plan.impossible))
    if plan.incompatible and not allow_incompatible:
        raise Refused(
            "\n".join(plan.incompatible)
            + "\nchange the files so that they take what there was, or apply with --allow-incompatible"
        )
    for spec in _wanted_topics(project, log):
        log.create_topic(spec)
    records = _records(project, plan, clock.now())
    stored = store_version(log, clock, project.files, plan.version, records, whole=whole)
    return replace(plan, version=stored.number)


def _check_files(project: LoadedProject) -> bool:
    """Whether the files can go into the log. To a cluster they must."""
    if isinstance(project.spec.log, KafkaLogSpec):
        check_shareable(project.files)
        return True
    return not literal_secrets(project.files) and not outside(project.files)


def check_shareable(files: Mapping[str, str]) -> None:
    """ConfigErrors where project files have what can't go to a cluster: secrets as they are, or files from outside of the folder."""
    errors = literal_secrets(files) + [
        ConfigError(
            f"{name} lies outside of the project's folder, where workers elsewhere can't have it",
            f"move it below the folder of {PROJECT_FILE}",
        )
        for name in outside(files)
    ]
    if errors:
        raise ConfigErrors(errors)


def _records(project: LoadedProject, plan: ProjectPlan, now: int) -> dict[str, bytes | None]:
    """What is stored of each pipeline that changes; None of one that is removed."""
    changed = {each.name: None for each in plan.pipelines if each.change != "unchanged"}
    specs = {pipeline.name: pipeline for pipeline in project.spec.pipelines}
    return {name: dump(_record(specs[name], project, now)) if name in specs else None for name in changed}


def _record(pipeline: PipelineSpec, project: LoadedProject, now: int) -> dict[str, Any]:
    return {
        "at": now,
        "version": pipeline.version,
        "definition": masked(project.definitions[pipeline.name]),
        "schemas": pipeline.schema.by_type,
    }


def _applied(log: Log) -> dict[str, _Applied]:
    found = {}
    for name, value in log.scan(APPLIED):
        record = load(value)
        found[name] = _Applied(record["version"], record["definition"], record["schemas"])
    return found


# -- pipelines


def _pipeline_change(
    name: str, pipeline: PipelineSpec | None, old: _Applied | None, project: LoadedProject
) -> PipelineChange:
    if pipeline is None:
        assert old is not None
        return PipelineChange(name, "removed", None, old.version)
    if old is None:
        return PipelineChange(name, "added", pipeline.version, None)
    if old.version == pipeline.version:
        return PipelineChange(name, "unchanged", pipeline.version, old.version)
    lines = list(
        _diff(
            {"definition": old.definition, "schemas": dict(old.schemas)},
            {"definition": masked(project.definitions[name]), "schemas": dict(pipeline.schema.by_type)},
        )
    )
    if not lines:
        lines = ["(a value that isn't shown, or a default of the project)"]
    return PipelineChange(name, "changed", pipeline.version, old.version, tuple(lines))


def _diff(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for part in ("definition", "schemas"):
        lines = difflib.unified_diff(
            _yaml(old[part]).splitlines(), _yaml(new[part]).splitlines(), lineterm="", n=1
        )
        yield from (line for line in lines if not line.startswith(("---", "+++")))


def _yaml(value: Any) -> str:
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    text = StringIO()
    writer.dump(json.loads(json.dumps(value)), text)
    return text.getvalue()


def masked(definition: Any) -> Any:
    """A pipeline's definition without literal secrets."""
    if not isinstance(definition, dict):
        return definition
    copy = _without_passwords(definition)
    for group, load_class in (("sources", source_class), ("sinks", sink_class)):
        parties = copy.get(group)
        for party in parties.values() if isinstance(parties, dict) else ():
            for connector, config in party.items() if isinstance(party, dict) else ():
                if isinstance(config, dict):
                    _mask_secrets(connector, config, load_class)
    return copy


def _mask_secrets(connector: str, config: dict[str, Any], load_class: Any) -> None:
    try:
        options = describe(load_class(connector).Config)
    except Refused:
        return
    for option in options:
        value = config.get(option.name)
        if "secret" in option.type and value is not None and "${" not in str(value):
            config[option.name] = "***"


def _without_passwords(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_passwords(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_passwords(item) for item in value]
    return _PASSWORD.sub(r"\1***\3", value) if isinstance(value, str) else value


# -- topics


def _wanted_topics(project: LoadedProject, log: Log | None) -> list[TopicSpec]:
    """The topics as the project wants them: those it names, and those its templates have brought about."""
    existing = [info.spec.name for info in log.topics()] if log else []
    wanted: dict[str, TopicSpec] = {}
    for pipeline in project.spec.pipelines:
        names = [source.route.topic for source in pipeline.sources if not has_pattern(source)]
        patterns = tuple(topic_pattern(source) for source in pipeline.sources if has_pattern(source))
        for name in [*names, *(topic for topic in existing if matches(topic, patterns))]:
            wanted.setdefault(name, pipeline.topic(name))
        dead = dead_letter_topic(pipeline.name)
        wanted.setdefault(dead, TopicSpec(dead))
    for pipeline in project.spec.pipelines:
        wanted.update(pipeline.topics)
    return [wanted[name] for name in sorted(wanted)]


def _topic_changes(project: LoadedProject, log: Log | None) -> tuple[list[TopicChange], list[str]]:
    changes, impossible = [], []
    for spec in _wanted_topics(project, log):
        info = log.topic(spec.name) if log else None
        if info is None:
            changes.append(TopicChange(spec.name, "added", tuple(_settings(spec))))
        elif info.spec != spec:
            changes.append(TopicChange(spec.name, "changed", tuple(_differences(info.spec, spec))))
            if spec.partitions < info.spec.partitions:
                impossible.append(
                    f"topic {spec.name}: it has {info.spec.partitions} partitions, and they can only grow; declare at least as many"
                )
    return changes, impossible


def _settings(spec: TopicSpec) -> list[str]:
    found = [f"{spec.partitions} partition{'s' if spec.partitions > 1 else ''}"]
    found.append(f"retention {_span(spec.retention_seconds)}")
    if spec.retention_bytes is not None:
        found.append(f"at most {spec.retention_bytes} bytes a partition")
    if spec.compact:
        found.append("compacted")
    return found


def _differences(old: TopicSpec, new: TopicSpec) -> Iterator[str]:
    if old.partitions != new.partitions:
        yield f"partitions {old.partitions} → {new.partitions}: keys may move to other partitions"
    if old.retention_seconds != new.retention_seconds:
        yield f"retention {_span(old.retention_seconds)} → {_span(new.retention_seconds)}"
    if old.retention_bytes != new.retention_bytes:
        yield f"retention_size {old.retention_bytes or 'unlimited'} → {new.retention_bytes or 'unlimited'}"
    if old.compact != new.compact:
        yield f"compact {str(old.compact).lower()} → {str(new.compact).lower()}"


def _span(seconds: float | None) -> str:
    if seconds is None:
        return "forever"
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{int(seconds // length)}{unit}"
    return f"{seconds:g}s"
