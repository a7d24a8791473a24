"""References in project files: `${NAME}`, `${NAME:-default}` and `${file:/path}`, in any text.

What a reference stands for is never shown: errors about a value that came from one name the reference instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from milkrun.control.documents import Document, DocumentPath
from milkrun.model.errors import ConfigError

MAX_SECRET_BYTES = 65_536

_REFERENCE = re.compile(r"\$\{([^${}]*)\}")
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


@dataclass(frozen=True)
class Resolved:
    """A document's values with references replaced; `hidden` has the paths at which one stood, with what was written there."""

    value: Any
    hidden: dict[DocumentPath, str] = field(default_factory=dict)
    mistakes: list[ConfigError] = field(default_factory=list)

    def conceal(self, error: ConfigError) -> ConfigError:
        """The error without what a reference stands for, where it is about such a value."""
        written = self.hidden.get(error.path)
        if written is None and not self._shows_secret(error):
            return error
        what = f"what {written or 'a reference in it'} stands for isn't right here"
        return ConfigError(what, error.remedy, path=error.path, location=error.location)

    def _shows_secret(self, error: ConfigError) -> bool:
        texts = (at(self.value, path) for path in self.hidden)
        return any(
            isinstance(text, str) and len(text) >= 3 and (text[:60] in error.what or text in error.remedy)
            for text in texts
        )


def at(value: Any, path: Iterable[str | int]) -> Any:
    """The value at a path of plain values that has it."""
    for step in path:
        value = value[step]
    return value


def resolve(document: Document, folder: Path, environment: Mapping[str, str]) -> Resolved:
    """Replace the references in a document. Files are relative to `folder`; what is missing is among the mistakes."""
    hidden: dict[DocumentPath, str] = {}
    mistakes: list[ConfigError] = []

    def text_of(text: str, path: DocumentPath) -> str:
        def replaced(match: re.Match[str]) -> str:
            try:
                return _look_up(match[1], folder, environment)
            except ConfigError as error:
                mistakes.append(
                    ConfigError(error.what, error.remedy, path=path, location=document.locate(path))
                )
                return ""

        if "${" not in text:
            return text
        hidden[path] = text
        return _REFERENCE.sub(replaced, text)

    def walk(value: Any, path: DocumentPath) -> Any:
        if isinstance(value, dict):
            return {key: walk(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [walk(item, (*path, index)) for index, item in enumerate(value)]
        return text_of(value, path) if isinstance(value, str) else value

    return Resolved(walk(document.value, ()), hidden, mistakes)


def _look_up(name: str, folder: Path, environment: Mapping[str, str]) -> str:
    if name.startswith("file:"):
        return _secret_file(name, folder / name.removeprefix("file:"))
    match = _VARIABLE.fullmatch(name)
    if not match:
        raise ConfigError(
            f"${{{name}}} is no reference", "write ${NAME}, ${NAME:-default} or ${file:/path/of/a/secret}"
        )
    if match[2] is None and match[1] not in environment:
        raise ConfigError(
            f"the environment variable {match[1]} isn't set",
            f"set it, or give a default: ${{{match[1]}:-...}}",
        )
    return environment.get(match[1]) or match[2] or ""


def _secret_file(name: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SECRET_BYTES + 1)
        if len(data) > MAX_SECRET_BYTES:
            raise ConfigError(
                f"the file of ${{{name}}} is larger than {MAX_SECRET_BYTES} bytes", "name the right file"
            )
        return data.decode().rstrip("\r\n")
    except OSError as error:
        raise ConfigError(
            f"the file of ${{{name}}} can't be read: {error.strerror}", "make it readable, or name another"
        ) from error
    except UnicodeDecodeError:
        raise ConfigError(f"the file of ${{{name}}} isn't UTF-8", "save the secret as text") from None
