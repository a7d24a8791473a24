"""The fenced blocks of a Markdown page, with what the page says of them: language, words after it, place.

A comment `<!-- stop -->` before a block ends what the blocks before it left running in the background.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parent.parent.parent / "docs"
README = DOCS.parent / "README.md"

_FENCE = re.compile(r"(?P<indent> *)(?P<fence>```+)(?P<language>[a-z]*) *(?P<words>.*)")
_STOP = "<!-- stop -->"


@dataclass(frozen=True)
class Block:
    """A block at `line` (from 1) of `page`; `words` stand after the language, `stops` says that a stop comes before it."""

    page: Path
    line: int
    language: str
    words: tuple[str, ...]
    text: str
    stops: bool = False

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """The page's blocks, in order."""
    stops = False
    lines = iter(enumerate(page.read_text(encoding="utf-8").splitlines(), start=1))
    for number, line in lines:
        stops = stops or line.strip() == _STOP
        opened = _FENCE.fullmatch(line)
        if opened is None:
            continue
        inside = []
        for _, text in lines:
            if text.strip() == opened["fence"]:
                break
            inside.append(text.removeprefix(opened["indent"]))
        words = tuple(opened["words"].split())
        yield Block(page, number, opened["language"], words, "\n".join(inside) + "\n", stops)
        stops = False


def pages() -> list[Path]:
    """The README and every page of the documentation."""
    return [README, *sorted(DOCS.rglob("*.md"))]
