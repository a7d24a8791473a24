"""What pages show must be true: YAML is read by Milkrun, Python compiles, links lead somewhere."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from milkrun.control.loading import load
from tests.docs.blocks import README, Block, blocks, pages
from tests.servers.certificates import Authority

_ENVIRONMENT = {
    "AMQP_URL": "amqp://guest:guest@127.0.0.1/",
    "POSTGRES_URL": "postgresql://shop:shop@127.0.0.1/warehouse",
    "RABBITMQ_URL": "amqp://guest:guest@127.0.0.1/",
    "KAFKA_PASSWORD": "password",
    "KAFKA_SECRET": "secret",
    "LAKE_KEY": "key",
    "LAKE_SECRET": "secret",
    "SNOWFLAKE_PASSPHRASE": "passphrase",
    "SNOWFLAKE_TOKEN": "token",
}
_HEAD = {"name", "log", "archive", "server", "defaults", "teams"}
_BODY = {
    "pipeline",
    "owner",
    "description",
    "sources",
    "schema",
    "topics",
    "sinks",
    "tests",
    "sla",
    "on_error",
    "hold_limit",
}
_SOURCE = {"app": {"http": {"listen": "127.0.0.1:8080"}, "topic": "shop.{body.type}"}}
_CONNECTORS: Mapping[str, tuple[str, str, dict[str, Any]]] = {
    "rabbitmq": ("sources", "rabbitmq", {"url": "${RABBITMQ_URL}", "queues": ["orders"]}),
    "http-collector": ("sources", "http", {}),
    "files": ("sources", "files", {"paths": ["*.csv"]}),
    "duckdb": ("sinks", "duckdb", {"path": "warehouse.duckdb"}),
    "snowflake": (
        "sinks",
        "snowflake",
        {"account": "acme-prod", "user": "MILKRUN", "database": "RAW", "warehouse": "LOADING"},
    ),
    "postgres": ("sinks", "postgres", {"url": "${POSTGRES_URL}"}),
    "parquet-and-s3": ("sinks", "parquet", {"url": "lake"}),
}
"""The connector that a page is about: source or sink, its name, the options it can't do without."""

_FOREIGN = re.compile(r"^ +outbox:", re.M)
"""The connector of examples/connector, which need not be installed."""

_PROMETHEUS = {"scrape_configs", "groups"}
"""What Prometheus reads, and `promtool` checks in tests/server."""

_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")

YAML_BLOCKS = [block for page in pages() for block in blocks(page) if block.language == "yaml"]
PYTHON_BLOCKS = [block for page in pages() for block in blocks(page) if block.language == "python"]


@pytest.mark.parametrize("block", YAML_BLOCKS, ids=str)
def test_yaml_is_a_projects(block: Block, tmp_path: Path) -> None:
    """A whole file of a project, or a part of a pipeline, to which the rest is added."""
    document = YAML(typ="safe", pure=True).load(block.text)
    assert isinstance(document, dict)
    if _FOREIGN.search(block.text) or document.keys() & _PROMETHEUS:
        return
    files = _files(block.page.stem, document)
    for name, part in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        YAML(typ="safe", pure=True).dump(part, out := StringIO())
        path.write_text(out.getvalue())
    (tmp_path / "certs").mkdir()
    Authority("ours").write(tmp_path / "certs", "milkrun.example.com")
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "order.json").write_text('{"type": "object"}')
    assert load(tmp_path, _ENVIRONMENT).spec.name


def _files(page: str, document: Mapping[str, Any]) -> dict[str, Any]:
    """The project files that hold what the block shows."""
    head: dict[str, Any] = {"name": "docs"}
    if document.keys() <= _HEAD:
        return {"milkrun.yaml": head | dict(document)}
    if not document.keys() <= _BODY:
        document = _around(page, document)
    return {"milkrun.yaml": head, "pipelines/shop.yaml": {"sources": _SOURCE} | dict(document)}


def _around(page: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A pipeline around some options of a connector, as its page shows them without the rest."""
    party, name, needed = _CONNECTORS[page]
    route = {"topic": "shop.event"} if party == "sources" else {}
    return {party: {"shown": {name: needed | dict(options)} | route}}


@pytest.mark.parametrize("block", PYTHON_BLOCKS, ids=str)
def test_python_compiles(block: Block) -> None:
    ast.parse(block.text, str(block))


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    missing = [
        target
        for target in _LINK.findall(text)
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert not missing


def test_the_index_names_every_page() -> None:
    index = README.parent / "docs" / "README.md"
    text = index.read_text(encoding="utf-8")
    targets = {(index.parent / target).resolve() for target in _LINK.findall(text) if "://" not in target}
    decisions = index.parent / "decisions"
    unnamed = [
        page
        for page in pages()
        if page not in (README, index) and page.parent != decisions and page.resolve() not in targets
    ]
    assert not unnamed
