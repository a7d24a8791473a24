"""The demo's folder: whole, valid, private where it must be, and never somebody else's."""

import json
from pathlib import Path

import pytest

import milkrun
from milkrun.cli.demo.folder import MARK, DemoFolder, prepare
from milkrun.control.keys import hash_key
from milkrun.model.errors import Refused


def make(path: Path, *, url: str | None = None, fresh: bool = False) -> DemoFolder:
    return prepare(path, broker_url=url, queue="milkrun-demo-test", fresh=fresh)


def test_is_a_valid_project(tmp_path: Path) -> None:
    folder = make(tmp_path / "demo")
    with milkrun.open(folder.path) as project:
        assert project.loaded.warnings == ()
        [pipeline] = project.spec.pipelines
    app, services = pipeline.sources
    assert app.config["listen"] == f"127.0.0.1:{folder.http_port}"
    assert app.config["keys"] == [hash_key(folder.write_key)]
    assert services.connector == "files"
    assert set(pipeline.schema.by_type) == {"viewed", "ordered", "delivered"}


def test_with_a_broker(tmp_path: Path) -> None:
    folder = make(tmp_path, url="amqp://shop:hush@127.0.0.1/")
    assert "hush" not in (folder.path / "pipelines" / "shop.yaml").read_text()
    with milkrun.open(folder.path) as project:
        services = project.spec.pipelines[0].sources[1]
    assert services.connector == "rabbitmq"
    assert services.config["url"] == "amqp://shop:hush@127.0.0.1/"


def test_secrets_are_for_the_owner_alone(tmp_path: Path) -> None:
    folder = make(tmp_path)
    key = folder.path / "secrets" / "write-key"
    assert key.read_text() == folder.write_key + "\n"
    assert key.stat().st_mode & 0o077 == 0
    assert key.parent.stat().st_mode & 0o077 == 0
    assert folder.write_key not in (folder.path / "pipelines" / "shop.yaml").read_text()


def test_again_clears_what_the_last_run_left_and_nothing_else(tmp_path: Path) -> None:
    first = make(tmp_path)
    (first.path / "lake" / "topic=x").mkdir(parents=True)
    (first.path / "warehouse.duckdb").write_bytes(b"old")
    first.services_file.write_text("old\n")
    (first.path / "notes.txt").write_text("mine")
    second = make(tmp_path)
    assert second.write_key != first.write_key
    assert not (second.path / "lake").exists()
    assert not (second.path / "warehouse.duckdb").exists()
    assert second.services_file.read_text() == ""
    assert (second.path / "notes.txt").read_text() == "mine"


def test_changed_files_are_kept_unless_fresh(tmp_path: Path) -> None:
    pipeline = make(tmp_path).path / "pipelines" / "shop.yaml"
    pipeline.write_text(pipeline.read_text() + "# mine\n")
    with pytest.raises(Refused, match=r"you have changed pipelines/shop\.yaml .*--fresh"):
        make(tmp_path)
    assert pipeline.read_text().endswith("# mine\n")
    make(tmp_path, fresh=True)
    assert not pipeline.read_text().endswith("# mine\n")


@pytest.mark.parametrize("mark", [None, "", "[]", '{"files": 3}'])
def test_a_folder_that_is_not_the_demos_is_refused(tmp_path: Path, mark: str | None) -> None:
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "precious").write_text("mine")
    if mark is not None:
        (tmp_path / MARK).write_text(mark)
    with pytest.raises(Refused, match="isn't a folder of the demo"):
        make(tmp_path, fresh=True)
    assert (tmp_path / "lake" / "precious").read_text() == "mine"


def test_a_link_is_removed_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("mine")
    folder = make(tmp_path / "demo")
    (folder.path / "lake").symlink_to(elsewhere)
    make(tmp_path / "demo")
    assert (elsewhere / "precious").read_text() == "mine"


def test_a_file_in_the_way(tmp_path: Path) -> None:
    path = tmp_path / "demo"
    path.write_text("mine")
    with pytest.raises(Refused, match="is a file"):
        make(path)


def test_the_mark_names_every_project_file(tmp_path: Path) -> None:
    folder = make(tmp_path)
    known = set(json.loads((tmp_path / MARK).read_text())["files"])
    files = {str(path.relative_to(folder.path)) for path in folder.path.rglob("*") if path.is_file()}
    assert files - known == {MARK, "secrets/write-key", "data/services.ndjson"}
