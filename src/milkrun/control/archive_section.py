"""Reads the `archive:` of milkrun.yaml: the place, what goes there when, and what it costs. Every mistake is gathered at its place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from milkrun.control.alerting import duration
from milkrun.control.documents import DocumentPath
from milkrun.control.mistakes import Mistakes
from milkrun.control.sections import ArchiveRuleSection, ArchiveSection
from milkrun.model.errors import ConfigError
from milkrun.model.spec import ArchiveRule, ArchiveSpec
from milkrun.plugin.config import parse
from milkrun.storage.target import Bucket, S3Options, parse_target

S3_PRICE = 0.023
"""US dollars for a gigabyte a month in S3 Standard, first 50 TB, us-east-1 (aws.amazon.com/s3/pricing, November 2026)."""

_PATH: DocumentPath = ("archive",)
_URL_REMEDY = "write url: s3://bucket/prefix, or a folder such as url: archive"


class ArchiveReader:
    """Reads the `archive:` of the project in the folder `root`."""

    def __init__(self, root: Path, mistakes: Mistakes) -> None:
        self._root = root
        self._mistakes = mistakes

    def read(self, raw: Any) -> ArchiveSpec | None:
        """The archive; None where there is none. Where it has mistakes, which are gathered, any will do: nobody opens it."""
        if raw is None:
            return None
        section = self._mistakes.section(ArchiveSection, raw, _PATH)
        target = self._target(section, raw)
        base = self._base(section)
        return ArchiveSpec(
            url=section.url or "",
            folder=self._root,
            rules=self._rules(section.topics, base),
            s3=self._s3(section, target),
            price=self._price(section, target),
        )

    def _target(self, section: ArchiveSection, raw: Any) -> Path | Bucket | None:
        if section.url is None:
            # Given and yet None: it is of another type, which has been said.
            if isinstance(raw, Mapping) and raw.get("url") is None:
                self._mistakes.add("option 'url' is missing", _URL_REMEDY, _PATH)
            return None
        url, path = section.url, (*_PATH, "url")

        def parsed() -> Path | Bucket:
            try:
                return parse_target(url)
            except ConfigError as error:
                raise ConfigError(error.what, error.remedy, path=path) from None

        return self._mistakes.attempt(parsed, path)

    def _base(self, section: ArchiveSection) -> ArchiveRule:
        keep_hot = section.after if section.keep_hot is None else section.keep_hot
        rule = ArchiveRule(section.after, keep_hot, section.file_size)
        self._check(rule, _PATH)
        return rule

    def _check(self, rule: ArchiveRule, path: DocumentPath) -> None:
        if rule.after_seconds <= 0:
            self._mistakes.add(
                "events can't be archived before they are there",
                "write for example after: 7d",
                (*path, "after"),
            )
        if rule.keep_hot_seconds < rule.after_seconds:
            self._mistakes.add(
                f"the log can't give events up after {duration(rule.keep_hot_seconds)}, before they are archived after "
                f"{duration(rule.after_seconds)}",
                "write keep_hot as long as `after`, or longer",
                (*path, "keep_hot"),
            )

    # -- topics

    def _rules(self, raw: Any, base: ArchiveRule) -> dict[str, ArchiveRule | None]:
        path: DocumentPath = (*_PATH, "topics")
        if raw is None:
            return {"*": base}
        if isinstance(raw, list):
            for index, each in enumerate(raw):
                if not isinstance(each, str) or not each:
                    self._mistakes.add(
                        f"{str(each)[:60]!r} names no topics",
                        "write names or patterns such as shop.*",
                        (*path, index),
                    )
            return {each: base for each in raw if isinstance(each, str)}
        rules = {}
        for name, value in self._mistakes.mapping(raw, path).items():
            rules[str(name)] = None if value == "off" else self._rule(value, base, (*path, name))
        return rules

    def _rule(self, raw: Any, base: ArchiveRule, path: DocumentPath) -> ArchiveRule:
        section = self._mistakes.section(ArchiveRuleSection, raw, path)
        after = base.after_seconds if section.after is None else section.after
        longer = max(after, base.keep_hot_seconds) if section.after is None else after
        rule = ArchiveRule(
            after,
            longer if section.keep_hot is None else section.keep_hot,
            base.file_bytes if section.file_size is None else section.file_size,
        )
        self._check(rule, path)
        return rule

    # -- the place

    def _s3(self, section: ArchiveSection, target: Path | Bucket | None) -> Mapping[str, Any] | None:
        if section.s3 is None:
            return None
        path: DocumentPath = (*_PATH, "s3")
        if isinstance(target, Path):
            self._mistakes.add(
                "s3 is set, but url is a folder", "give url as s3://bucket/prefix, or leave out s3", path
            )
        options = self._mistakes.mapping(section.s3, path)
        self._mistakes.attempt(lambda: parse(S3Options, options, path=path), path)
        return options

    def _price(self, section: ArchiveSection, target: Path | Bucket | None) -> float:
        if section.price is not None:
            return section.price
        return S3_PRICE if isinstance(target, Bucket) else 0.0
