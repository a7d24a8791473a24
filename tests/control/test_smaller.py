"""Keys, the first project, the catalogue of connectors, samples."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest

from milkrun.control.catalog import connectors
from milkrun.control.documents import parse_document
from milkrun.control.inferring import InferredSchema, sample_values, write_schemas
from milkrun.control.keys import new_write_key
from milkrun.control.scaffolding import init
from milkrun.model.errors import NotFound, Refused


def test_a_new_key_and_its_hash() -> None:
    made = new_write_key()
    assert made.hash == "sha256:" + hashlib.sha256(made.key.encode()).hexdigest()
    assert len(made.key) >= 43
    assert new_write_key() != made


def test_init_writes_a_project_and_nothing_over_another(tmp_path: Path) -> None:
    folder = tmp_path / "my shop"
    names = [path.relative_to(folder).as_posix() for path in init(folder)]
    assert names == ["milkrun.yaml", "pipelines/shop.yaml", ".gitignore"]
    head = parse_document((folder / "milkrun.yaml").read_text(), "milkrun.yaml").value
    assert head["name"] == "my-shop"
    assert set(parse_document((folder / "pipelines/shop.yaml").read_text(), "x").value["sinks"]) == {
        "warehouse",
        "lake",
    }
    with pytest.raises(Refused, match=r"milkrun\.yaml is there already"):
        init(folder)


def test_the_catalogue() -> None:
    source, sink = connectors()
    assert (source.kind, source.name, source.default_id) == ("source", "queue", "properties.message_id")
    assert [option.name for option in source.options] == ["url", "queues", "prefetch", "wait"]
    assert (sink.kind, sink.delivery) == ("sink", "exactly once")
    with pytest.raises(NotFound, match="installed are: queue, table"):
        connectors("tabel")


def test_samples(tmp_path: Path) -> None:
    array, zipped = tmp_path / "a.json", tmp_path / "b.ndjson.gz"
    array.write_text('[{"a": 1}, {"a": 2}]')
    zipped.write_bytes(gzip.compress(b'{"a": 1}\n\n{"a": 2}\n'))
    assert sample_values(array).to_pylist() == sample_values(zipped).to_pylist() == [b'{"a": 1}', b'{"a": 2}']
    zipped.write_bytes(gzip.compress(b"{}" * 1000)[:-9])
    with pytest.raises(Refused, match="truncated gzip"):
        sample_values(zipped)
    array.write_text("[1,")
    with pytest.raises(Refused, match="is no JSON"):
        sample_values(array)


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "a b", ""])
def test_types_that_can_name_no_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refused, match="can't name a file"):
        write_schemas([InferredSchema(name, 1, 0, {})], tmp_path)
    assert list(tmp_path.iterdir()) == []
