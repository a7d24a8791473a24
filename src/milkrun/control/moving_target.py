"""Where a move leads, as the command is told, and the `log:` of milkrun.yaml that says the same.

`kafka://host:9092,host2:9092` names the brokers; everything else that the section `log: kafka:` may have stands in a file of settings.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode

from milkrun.control.documents import Document, parse_document, read_document, read_text
from milkrun.control.literals import literal_secrets
from milkrun.control.log_section import LogReader
from milkrun.control.mistakes import Mistakes
from milkrun.control.references import resolve
from milkrun.model.errors import ConfigError, ConfigErrors, Refused
from milkrun.model.spec import KafkaLogSpec

SCHEME = "kafka://"


@dataclass(frozen=True)
class MoveTarget:
    """A cluster to move to, and the section `log:` that names it, references not replaced."""

    log: KafkaLogSpec
    section: Mapping[str, Any]

    @property
    def text(self) -> str:
        """The section as YAML, with the key `log`."""
        writer = YAML(typ="safe", pure=True)
        writer.default_flow_style = False
        writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
        out = StringIO()
        writer.dump({"log": dict(self.section)}, out)
        return out.getvalue()


def read_target(
    to: str, settings: Path | None, root: Path, name: str, environment: Mapping[str, str] | None = None
) -> MoveTarget:
    """The target of the project `name` in the folder `root`.

    Refused where `to` isn't `kafka://` and brokers; ConfigErrors with every mistake in it and in the settings.
    """
    brokers = to.removeprefix(SCHEME).rstrip("/")
    if not to.startswith(SCHEME) or not brokers:
        shown = to.rpartition("@")[2]
        raise Refused(f"{shown[:80]!r} is nothing to move to; give kafka://host:9092[,host2:9092]")
    document = _document(brokers, settings)
    resolved = resolve(document, root, os.environ if environment is None else environment)
    mistakes = Mistakes(document, resolved)
    log = LogReader(root, name, mistakes).read(resolved.value["log"])
    if mistakes.found or not isinstance(log, KafkaLogSpec):
        raise ConfigErrors(mistakes.found)
    return MoveTarget(log, document.value["log"])


def _document(brokers: str, settings: Path | None) -> Document:
    given = Document("--to", {}) if settings is None else read_document(settings, settings.name)
    if not isinstance(given.value, dict):
        raise Refused(f"{settings}: settings are keys of the section `log: kafka:`, such as `replication: 3`")
    section = {"kafka": {"bootstrap": brokers, **given.value}}
    if section["kafka"]["bootstrap"] != brokers:
        raise Refused(f"{settings}: it names other brokers than --to; leave `bootstrap` out there")
    places = {("log", "kafka", *path): place for path, place in given.places.items()}
    return Document(given.file, {"log": section}, places)


def check_section(target: MoveTarget) -> None:
    """ConfigErrors where a secret stands in the settings as it is: the section goes to a project file, and with that to the cluster."""
    found = literal_secrets({"settings.yaml": target.text})
    if found:
        raise ConfigErrors([ConfigError(each.what, each.remedy, path=each.path) for each in found])


def write_section(path: Path, target: MoveTarget, archive: str | None = None) -> None:
    """Put the target's section in place of the `log:` of the project file `path`, and `archive` in place of the archive's url; all else
    stays.

    Refused where the file is written so that this can't be done line by line; it is unchanged then.
    """
    old = read_text(path, path.name)
    document = parse_document(old, path.name).value
    expected = {**document, "log": target.section}
    text: str | None = old
    if archive is not None:
        expected["archive"] = {**document["archive"], "url": archive}
        text = _with_url(old, archive)
    new = None if text is None else _replaced(text, target.text)
    if new is None or _values(new) != expected:
        also = "" if archive is None else f"\nand as the url of `archive:` {archive}"
        raise Refused(f"{path} can't be edited line by line; write into it yourself:\n{target.text}{also}")
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(new)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(path.stat().st_mode & 0o7777)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _values(text: str) -> Any:
    try:
        return parse_document(text, "milkrun.yaml").value
    except ConfigErrors:
        return None


def _with_url(text: str, url: str) -> str | None:
    """The text with another url in its section `archive`; None where that isn't written there as a scalar."""
    root = YAML().compose(text)
    node = root
    for name in ("archive", "url"):
        pairs = node.value if isinstance(node, MappingNode) else []
        node = next((value for key, value in pairs if key.value == name), None)
    if not isinstance(node, ScalarNode):
        return None
    return text[: node.start_mark.index] + json.dumps(url) + text[node.end_mark.index :]


def _replaced(text: str, section: str) -> str | None:
    """The text with another `log:`; None where it isn't a block of keys a line each."""
    try:
        document = YAML().load(text)
    except YAMLError:
        return None
    if not isinstance(document, CommentedMap):
        return section + text if document is None else None
    if document.fa.flow_style():
        return None
    lines = text.splitlines(keepends=True)
    if "log" not in document:
        glue = "" if not lines or lines[-1].endswith("\n") else "\n"
        return text + glue + section
    first = document.lc.key("log")[0]
    last = min((line for key in document if (line := document.lc.key(key)[0]) > first), default=len(lines))
    # Comments before the next key belong to that.
    while last > first + 1 and _is_between(lines[last - 1]):
        last -= 1
    return "".join([*lines[:first], section, *lines[last:]])


def _is_between(line: str) -> bool:
    return not line.strip() or line.startswith("#")
