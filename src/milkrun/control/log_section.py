"""Reads the `log:` of milkrun.yaml: an embedded log, or one on Kafka. Every mistake is gathered at its place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from milkrun.control.documents import DocumentPath
from milkrun.control.kafka_security import security_options
from milkrun.control.mistakes import Mistakes
from milkrun.control.pipelines import NAME
from milkrun.control.sections import EmbeddedSection, KafkaSection, LogSection
from milkrun.model.errors import ConfigError
from milkrun.model.spec import EmbeddedLogSpec, KafkaLogSpec, LogSpec

FOLDER = ".milkrun"
"""What this machine keeps of a project on Kafka, below the project folder."""

_BROKER = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?):(?P<port>[0-9]{1,5})"
)
_BOOTSTRAP_REMEDY = "write host:port, several after commas: kafka-1:9092,kafka-2:9092"
_KAFKA = 'log: {kafka: {bootstrap: "host:9092"}}'
_PATH: DocumentPath = ("log", "kafka")


class LogReader:
    """Reads the `log:` of the project `name` in the folder `root`."""

    def __init__(self, root: Path, name: str, mistakes: Mistakes) -> None:
        self._root = root
        self._name = name
        self._mistakes = mistakes

    def read(self, raw: Any) -> LogSpec:
        """The log. Where it has mistakes, which are gathered, any will do: nobody opens it."""
        if raw == "kafka":
            self._mistakes.add("nothing says where the cluster is", f"write {_KAFKA}", ("log",))
        elif isinstance(raw, Mapping):
            if "kafka" in raw and "embedded" in raw:
                self._mistakes.add("a project has one log, not two", "leave one of them out", ("log",))
            section = self._mistakes.section(
                LogSection, {k: v for k, v in raw.items() if k != "kafka"}, ("log",)
            )
            if "kafka" in raw:
                return self._kafka(raw["kafka"])
            return self._embedded(section.embedded or EmbeddedSection())
        elif raw != "embedded":
            self._mistakes.add(f"{str(raw)[:60]!r} is no log", f"write log: embedded, or {_KAFKA}", ("log",))
        return self._embedded(EmbeddedSection())

    def _embedded(self, section: EmbeddedSection) -> EmbeddedLogSpec:
        return EmbeddedLogSpec(self._root / section.path)

    # -- Kafka

    def _kafka(self, raw: Any) -> LogSpec:
        mapping = self._mistakes.mapping(raw, _PATH)
        if mapping is not raw and raw is not None:
            return self._embedded(EmbeddedSection())
        section = self._mistakes.section(KafkaSection, mapping, _PATH)
        if section.replication is not None and not section.manage:
            self._mistakes.add(
                "with manage: false no topic is made, so none gets a replication",
                "leave it out, or write manage: true",
                (*_PATH, "replication"),
            )
        return KafkaLogSpec(
            bootstrap=self._bootstrap(section.bootstrap, given=mapping.get("bootstrap") is not None),
            project=self._project(section.project, given=mapping.get("project") is not None),
            folder=self._root / FOLDER,
            security=self._security(section),
            replication=section.replication,
            manage=section.manage,
        )

    def _bootstrap(self, text: str | None, *, given: bool) -> str:
        if text is None:
            # Given and yet None: it is of another type, which has been said.
            if not given:
                self._mistakes.add("option 'bootstrap' is missing", _BOOTSTRAP_REMEDY, _PATH)
            return ""
        path = (*_PATH, "bootstrap")
        return self._mistakes.attempt(lambda: _brokers(text, path), path) or ""

    def _project(self, text: str | None, *, given: bool) -> str:
        if text is None and given:
            return ""
        name = self._name if text is None else text
        if not NAME.fullmatch(name):
            what = f"{name[:80]!r} can't name a project on Kafka"
            rule = "1 to 63 letters, digits, '-' or '_', beginning with a letter or digit"
            if given:
                self._mistakes.add(what, f"use {rule}", (*_PATH, "project"))
            else:
                self._mistakes.add(
                    f"the project's name {what}", f"give it another there: `project:` of {rule}", _PATH
                )
        return name

    def _security(self, section: KafkaSection) -> dict[str, str]:
        if section.security is None:
            return {}
        security, path = section.security, (*_PATH, "security")
        return self._mistakes.attempt(lambda: security_options(security, self._root, path), path) or {}


def _brokers(text: str, path: DocumentPath) -> str:
    """The list without spaces and repetitions. ConfigError about the first broker that can't be one."""
    brokers = [each.strip() for each in text.split(",")]
    for number, broker in enumerate(brokers, start=1):
        if "@" in broker:
            # What stands before the @ may be a password.
            raise ConfigError(
                f"broker {number} has a login in it", "put the login into `security:`", path=path
            )
        match = _BROKER.fullmatch(broker)
        if match is None:
            raise ConfigError(f"{broker[:60]!r} is no broker's address", _BOOTSTRAP_REMEDY, path=path)
        if not 1 <= int(match["port"]) <= 65535:
            raise ConfigError(f"{broker[:60]!r} has no port from 1 to 65535", _BOOTSTRAP_REMEDY, path=path)
    return ",".join(dict.fromkeys(brokers))
