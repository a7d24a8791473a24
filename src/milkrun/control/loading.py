"""From a project's folder to a `ProjectSpec`, or to all mistakes in its files at once, each with file, line and column.

`milkrun.yaml` says where the log is; each file of `pipelines/` declares a pipeline. The keys are declared in
`milkrun.control.sections` and documented in docs/reference/project-files.md.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from milkrun.control.archive_section import ArchiveReader
from milkrun.control.documents import Document, parse_document, read_text
from milkrun.control.example_section import Example
from milkrun.control.kafka_security import security_warnings
from milkrun.control.log_section import LogReader
from milkrun.control.mistakes import Mistakes
from milkrun.control.pipelines import NAME, PipelineReader
from milkrun.control.references import resolve
from milkrun.control.sections import (
    DefaultsSection,
    ProjectFile,
    ServerSection,
    TopicSection,
)
from milkrun.control.topics import topic_spec
from milkrun.model.errors import ConfigError, ConfigErrors, NotFound
from milkrun.model.spec import (
    KAFKA_DEDUPE_SECONDS,
    ArchiveSpec,
    KafkaLogSpec,
    LogSpec,
    PipelineSpec,
    ProjectSpec,
    ServerSpec,
    TopicSpec,
)

PROJECT_FILE = "milkrun.yaml"
PIPELINES = "pipelines"
MAX_PIPELINES = 1_000


@dataclass(frozen=True)
class LoadedProject:
    """A project, with what it was made of: `definitions` are the pipelines' documents, references not replaced.

    `files` are the texts of all files that were read, secrets apart, by their paths below the project's folder; `examples` the tests of
    each pipeline.
    """

    spec: ProjectSpec
    definitions: Mapping[str, Any]
    warnings: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict, repr=False)
    examples: Mapping[str, tuple[Example, ...]] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class _Head:
    """What `milkrun.yaml` says."""

    name: str
    log: LogSpec
    server: ServerSpec
    topics: TopicSpec
    teams: Mapping[str, str] | None
    archive: ArchiveSpec | None


def load_project(folder: str | Path, environment: Mapping[str, str] | None = None) -> ProjectSpec:
    """The project in `folder`. Raises ConfigErrors with every mistake; NotFound where there is no project."""
    return load(folder, environment).spec


def load(folder: str | Path, environment: Mapping[str, str] | None = None) -> LoadedProject:
    """The project in `folder` with its definitions; `environment` (the process's own unless given) is for references."""
    return _loader(folder, environment).load()


def load_machine(folder: str | Path, environment: Mapping[str, str] | None = None) -> LoadedProject:
    """What `milkrun.yaml` says alone: the log and the server, and no pipelines, whatever `pipelines/` has."""
    return _loader(folder, environment).head()


def load_version(
    files: Path, machine: ProjectSpec, environment: Mapping[str, str] | None = None
) -> LoadedProject:
    """The project whose files are below `files`, as `machine` runs it: log, server and folder are the machine's.

    Relative paths in it, other than those of schemas, are below the machine's folder. Raises ConfigErrors with every mistake.
    """
    return _Loader(files, _environment(environment), machine).load()


def sketch_version(files: Path, machine: ProjectSpec) -> ProjectSpec:
    """As `load_version`, for looking only: references stand for nothing, and what has mistakes is left out."""
    return _Loader(files, {}, machine).sketch()


def _loader(folder: str | Path, environment: Mapping[str, str] | None) -> _Loader:
    root = Path(folder).absolute()
    if not (root / PROJECT_FILE).is_file():
        raise NotFound(f"{root} is no project: it has no {PROJECT_FILE}; make one with `milkrun init`")
    return _Loader(root, _environment(environment))


def _environment(given: Mapping[str, str] | None) -> Mapping[str, str]:
    return os.environ if given is None else given


class _Loader:
    def __init__(
        self, root: Path, environment: Mapping[str, str], machine: ProjectSpec | None = None
    ) -> None:
        self._root = root
        self._home = root if machine is None else machine.folder
        self._machine = machine
        self._environment = environment
        self._errors: list[ConfigError] = []
        self._pipelines: dict[str, PipelineSpec] = {}
        self._definitions: dict[str, Any] = {}
        self._files: dict[str, str] = {}
        self._examples: dict[str, tuple[Example, ...]] = {}
        self._texts: dict[str, str] = {}

    def load(self) -> LoadedProject:
        spec = self._read()
        self._check_topics()
        self._raise()
        return LoadedProject(spec, self._definitions, tuple(_warnings(spec)), self._texts, self._examples)

    def head(self) -> LoadedProject:
        spec = self._spec(self._head())
        self._raise()
        return LoadedProject(spec, {}, (), self._texts)

    def sketch(self) -> ProjectSpec:
        return self._read()

    def _read(self) -> ProjectSpec:
        head = self._head()
        for path in self._pipeline_files():
            self._pipeline(path, head)
        return self._spec(head)

    def _spec(self, head: _Head) -> ProjectSpec:
        pipelines = tuple(self._pipelines[name] for name in sorted(self._pipelines))
        return ProjectSpec(head.name, self._home, head.log, pipelines, head.server, head.archive)

    def _raise(self) -> None:
        if self._errors:
            raise ConfigErrors(sorted(self._errors, key=_order))

    def _open(self, path: Path) -> tuple[Mistakes, Any] | None:
        """A file's resolved values and where to put its mistakes; None where it is no YAML."""
        try:
            name = path.relative_to(self._root).as_posix()
            self._texts[name] = read_text(path, name)
            document = parse_document(self._texts[name], name)
        except ConfigErrors as errors:
            self._errors.extend(errors.errors)
            return None
        except ConfigError as error:
            self._errors.append(error)
            return None
        if self._machine is not None and name == PROJECT_FILE:
            document = _without_place(document)
        resolved = resolve(document, self._home, self._environment)
        return Mistakes(document, resolved), resolved.value

    # -- milkrun.yaml

    def _head(self) -> _Head:
        opened = self._open(self._root / PROJECT_FILE)
        if opened is None:
            empty = Document(PROJECT_FILE, {})
            opened = Mistakes(empty, resolve(empty, self._root, {})), {}
        mistakes, raw = opened
        file = mistakes.section(ProjectFile, raw, ())
        section = file.server or ServerSection()
        topics = (file.defaults or DefaultsSection()).topics or TopicSection()
        name = file.name if file.name is not None else self._root.name
        machine = self._machine
        head = _Head(
            name=name,
            log=machine.log if machine else LogReader(self._root, name, mistakes).read(file.log),
            server=machine.server if machine else ServerSpec(section.host, section.port),
            topics=topic_spec("_", topics, TopicSpec("_"), mistakes, ("defaults", "topics")),
            teams=file.teams,
            archive=machine.archive if machine else ArchiveReader(self._root, mistakes).read(file.archive),
        )
        self._errors.extend(mistakes.found)
        return head

    # -- pipelines

    def _pipeline_files(self) -> list[Path]:
        folder = self._root / PIPELINES
        if not folder.is_dir():
            return []
        files = sorted(
            path for path in folder.iterdir() if path.suffix in (".yaml", ".yml") and path.is_file()
        )
        return files[:MAX_PIPELINES]

    def _pipeline(self, path: Path, head: _Head) -> None:
        opened = self._open(path)
        if opened is None:
            return
        mistakes, raw = opened
        reader = PipelineReader(raw, path.stem, self._root, mistakes)
        pipeline = reader.read(head.topics)
        self._texts.update(reader.files)
        if head.teams is not None and pipeline.owner not in head.teams:
            mistakes.add(
                f"the owner {pipeline.owner!r} is no team of {PROJECT_FILE}",
                f"name one of: {', '.join(head.teams)}",
                ("owner",),
            )
        if isinstance(head.log, KafkaLogSpec):
            _check_windows(pipeline, mistakes)
        name, file = pipeline.name, mistakes.document.file
        if name in self._files:
            mistakes.add(
                f"a second pipeline called {name!r}; the first is in {self._files[name]}",
                "give it another name",
                ("pipeline",),
            )
        else:
            self._files[name] = file
            definition = _without_tests(mistakes.document.value)
            self._pipelines[name] = replace(pipeline, version=_version(definition, pipeline))
            self._definitions[name] = definition
            self._examples[name] = reader.examples
        self._errors.extend(mistakes.found)

    def _check_topics(self) -> None:
        """One topic has one set of settings, whoever declares it."""
        declared: dict[str, tuple[TopicSpec, str]] = {}
        for name, pipeline in self._pipelines.items():
            for topic, spec in pipeline.topics.items():
                first, where = declared.setdefault(topic, (spec, self._files[name]))
                if first != spec:
                    what = f"{where} declares the topic {topic} with other settings than {self._files[name]}"
                    self._errors.append(ConfigError(what, "declare it in one of them"))


def _without_place(document: Document) -> Document:
    """`milkrun.yaml` without what another machine says of itself: its variables need not be set here."""
    if not isinstance(document.value, dict):
        return document
    kept = {key: value for key, value in document.value.items() if key not in ("log", "archive", "server")}
    return replace(document, value=kept)


def _without_tests(definition: Any) -> Any:
    """What decides what a pipeline does: a new test makes no new version."""
    if not isinstance(definition, dict):
        return definition
    return {key: value for key, value in definition.items() if key != "tests"}


def _check_windows(pipeline: PipelineSpec, mistakes: Mistakes) -> None:
    for source in pipeline.sources:
        if source.dedupe_seconds > KAFKA_DEDUPE_SECONDS:
            days = f"{KAFKA_DEDUPE_SECONDS / 86_400:g}d"
            path = ("sources", source.name, "dedupe")
            mistakes.add(f"a log on Kafka remembers ids for {days}", f"write dedupe: {days}, or less", path)


def _order(error: ConfigError) -> tuple[bool, str, int, int]:
    place = error.location
    if place is None:
        return (True, "", 0, 0)
    return (place.file != PROJECT_FILE, place.file, place.line, place.column)


def _version(definition: Any, pipeline: PipelineSpec) -> str:
    """A digest of all that decides what the pipeline does, with secrets as references."""
    base = pipeline.topic_defaults
    parts = [
        definition,
        pipeline.schema.by_type,
        [base.partitions, base.retention_seconds, base.retention_bytes, base.compact],
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def _warnings(project: ProjectSpec) -> list[str]:
    found = security_warnings(project.log) if isinstance(project.log, KafkaLogSpec) else []
    if not project.pipelines:
        found.append(f"the project has no pipelines: write one into {PIPELINES}/")
    for pipeline in project.pipelines:
        if not pipeline.sinks:
            found.append(f"pipeline {pipeline.name}: it has no sinks, events stay in the log")
        for sink in pipeline.sinks:
            if pipeline.sla is not None and sink.cut.seconds >= pipeline.sla.fresh_within:
                found.append(
                    f"pipeline {pipeline.name}: the sink {sink.name} may wait for {sink.cut.seconds:g} s before it writes, and the sla "
                    f"promises {pipeline.sla.fresh_within:g} s: give it a shorter cut: {{every: ...}}"
                )
            if not sink.topics:
                found.append(f"pipeline {pipeline.name}: the sink {sink.name} takes no topics: name some")
    return found


__all__ = [
    "NAME",
    "PIPELINES",
    "PROJECT_FILE",
    "LoadedProject",
    "load",
    "load_machine",
    "load_project",
    "load_version",
    "sketch_version",
]
