"""Finds secrets that stand in project files as they are. Applied to a cluster they would be stored there, for all who may read it.

A secret is what a `Secret` option has, and a password in any address. References are none, unless their default is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from milkrun.control.documents import DocumentPath, parse_document
from milkrun.control.sections import KafkaSecuritySection
from milkrun.model.errors import ConfigError, Refused
from milkrun.plugin.config import describe
from milkrun.runtime.registry import sink_class, source_class
from milkrun.storage.target import S3Options

_PASSWORD = re.compile(r"://[^/@:\s]*:(?!\$\{)[^/@\s]+@")
_REFERENCE = re.compile(r"\$\{[^${}]*\}")
_DEFAULT = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*:-([^${}]+)\}")
_BARE_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://[A-Za-z0-9.\[\]:,-]+/?", re.IGNORECASE)
"""Host and port alone: nothing that would have to be kept."""

_Found = tuple[DocumentPath, str]


def literal_secrets(files: Mapping[str, str]) -> list[ConfigError]:
    """A mistake for each secret that stands in these project files, at its place; none shows it."""
    found = []
    for name in sorted(files):
        if not name.endswith((".yaml", ".yml")):
            continue
        document = parse_document(files[name], name)
        seen: set[DocumentPath] = set()
        for path, remedy in _secrets(document.value):
            if path not in seen:
                seen.add(path)
                place = document.locate(path)
                what = "a secret stands here, and applying would store it in the cluster"
                found.append(ConfigError(what, remedy, path=path, location=place))
    return found


def _secrets(root: Any) -> Iterator[_Found]:
    for path, config, names in _declared(root):
        for name in names:
            for inner, value in _leaves(config.get(name), (*path, name)):
                if _literal(value):
                    yield inner, f"write ${{{_variable(inner)}}}, and set that variable where workers run"
    for path, value in _leaves(root, ()):
        if isinstance(value, str) and _PASSWORD.search(value):
            yield path, "write the password, or all of the address, as ${NAME}"


def _declared(root: Any) -> Iterator[tuple[DocumentPath, Mapping[str, Any], list[str]]]:
    """The mappings that have secrets by declaration, with the names of these."""
    security = _below(_below(_below(root, "log"), "kafka"), "security")
    yield ("log", "kafka", "security"), security, _secret_names(KafkaSecuritySection)
    yield ("archive", "s3"), _below(_below(root, "archive"), "s3"), _secret_names(S3Options)
    for group, load in (("sources", source_class), ("sinks", sink_class)):
        for party, chosen in _below(root, group).items():
            for connector, config in (chosen if isinstance(chosen, dict) else {}).items():
                if isinstance(config, dict):
                    yield (group, party, connector), config, _of_connector(load, connector)


def _below(value: Any, key: str) -> Mapping[str, Any]:
    inner = value.get(key) if isinstance(value, dict) else None
    return inner if isinstance(inner, dict) else {}


def _of_connector(load: Any, name: str) -> list[str]:
    try:
        return _secret_names(load(name).Config)
    except Refused:
        return []


def _secret_names(config: type[Any]) -> list[str]:
    return [option.name for option in describe(config) if "secret" in option.type]


def _leaves(value: Any, path: DocumentPath) -> Iterator[tuple[DocumentPath, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, index))
    else:
        yield path, value


def _literal(value: Any) -> bool:
    """Whether a secret option's value is one as it stands."""
    if value is None or value == "":
        return False
    text = str(value)
    defaults = _DEFAULT.findall(text)
    if any(not _BARE_ADDRESS.fullmatch(default) for default in defaults):
        return True
    return not _REFERENCE.search(text) and not _BARE_ADDRESS.fullmatch(text)


def _variable(path: DocumentPath) -> str:
    """A name to propose, of the last two words of the path."""
    words = [str(part) for part in path if isinstance(part, str)][-2:]
    return re.sub(r"[^A-Z0-9]+", "_", "_".join(words).upper()).strip("_") or "NAME"
