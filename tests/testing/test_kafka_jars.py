"""What a Kafka broker needs on the machine: that it is fetched whole or not at all, and that what is missing is said.

Maven is played by a script, so nothing here uses the network.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from milkrun.testing import kafka_cluster

TOOLS = Path(__file__).resolve().parents[2] / "tools"
JARS = {"kafka_2.13-4.4.0.jar": b"broker", "slf4j-simple-1.7.36.jar": b"log"}

# Puts the files of FAKE_JARS where it is told to, one line a call into FAKE_CALLS.
MAVEN = """\
#!/bin/sh
echo called >>"$FAKE_CALLS"
for argument; do
    case $argument in
    -DoutputDirectory=*) mkdir "${argument#*=}" && cp "$FAKE_JARS"/* "${argument#*=}" ;;
    esac
done
exit "${FAKE_STATUS:-0}"
"""


class Checkout:
    """A folder with the script, the sums of `JARS`, and a Maven that has other jars if a test says so."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.target = folder / ".cache/kafka" / kafka_cluster.VERSION
        (folder / "tools").mkdir()
        shutil.copy(TOOLS / "kafka-jars.sh", folder / "tools")
        sums = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in JARS.items()]
        (folder / "tools/kafka-jars.sha256").write_text("".join(sums))
        (folder / "bin").mkdir()
        (folder / "bin/mvn").write_text(MAVEN)
        (folder / "bin/mvn").chmod(0o755)
        self.offered = folder / "offered"
        self.offered.mkdir()
        for name, content in JARS.items():
            (self.offered / name).write_bytes(content)

    def start(self, *arguments: str, status: int = 0) -> subprocess.Popen[str]:
        environment = {
            "PATH": f"{self.folder / 'bin'}:/usr/local/bin:/usr/bin:/bin",
            "FAKE_JARS": str(self.offered),
            "FAKE_CALLS": str(self.folder / "calls"),
            "FAKE_STATUS": str(status),
        }
        return subprocess.Popen(
            ["tools/kafka-jars.sh", *arguments],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, status: int = 0) -> tuple[int, str]:
        """The script's own status, and what it said."""
        with self.start(*arguments, status=status) as process:
            _, said = process.communicate()
        return process.returncode, said

    def found(self) -> Mapping[str, bytes]:
        """The jars that are there now, and nothing else but them."""
        assert [path.name for path in self.target.parent.iterdir()] in ([], [self.target.name])
        return {path.name: path.read_bytes() for path in self.target.glob("*")}

    def calls(self) -> int:
        return len((self.folder / "calls").read_text().splitlines())


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_jars_are_fetched_once(checkout: Checkout) -> None:
    assert checkout.run("check")[0] == 1
    assert checkout.run()[0] == 0
    assert checkout.run()[0] == 0
    assert checkout.run("check")[0] == 0
    assert checkout.found() == JARS
    assert checkout.calls() == 1


def test_two_at_once_fetch_once(checkout: Checkout) -> None:
    if shutil.which("flock") is None:
        pytest.skip("flock is not installed")
    with checkout.start() as one, checkout.start() as other:
        one.communicate()
        other.communicate()
    assert (one.returncode, other.returncode) == (0, 0)
    assert checkout.found() == JARS
    assert checkout.calls() == 1


@pytest.mark.parametrize("damage", ["removed", "changed"])
def test_a_damaged_folder_is_fetched_anew(checkout: Checkout, damage: str) -> None:
    checkout.run()
    jar = checkout.target / "kafka_2.13-4.4.0.jar"
    if damage == "removed":
        jar.unlink()
    else:
        jar.write_bytes(b"half")
    assert checkout.run("check")[0] == 1
    assert checkout.run()[0] == 0
    assert checkout.found() == JARS


def test_other_jars_than_the_pinned_are_refused(checkout: Checkout) -> None:
    (checkout.offered / "kafka_2.13-4.4.0.jar").write_bytes(b"evil")
    status, said = checkout.run()
    assert status == 1
    assert "other files than tools/kafka-jars.sha256 names" in said
    assert checkout.found() == {}


def test_a_failure_of_maven_leaves_nothing(checkout: Checkout) -> None:
    status, said = checkout.run(status=1)
    assert status == 1
    assert "mvn could not fetch Apache Kafka 4.4.0" in said
    assert checkout.found() == {}


def test_pin_writes_the_sums_of_what_maven_brings(checkout: Checkout) -> None:
    (checkout.offered / "kafka_2.13-4.4.0.jar").write_bytes(b"newer")
    assert checkout.run("pin")[0] == 0
    assert checkout.found() == JARS | {"kafka_2.13-4.4.0.jar": b"newer"}
    assert checkout.run("check")[0] == 0


def test_the_script_and_the_package_mean_one_release() -> None:
    script = (TOOLS / "kafka-jars.sh").read_text()
    assert re.findall(r"^version=(\S+)", script, re.MULTILINE) == [kafka_cluster.VERSION]
    assert f"kafka_2.13-{kafka_cluster.VERSION}.jar" in (TOOLS / "kafka-jars.sha256").read_text()


def java(folder: Path, release: str) -> None:
    """A JVM in the folder that says it is of that release."""
    program = folder / "bin/java"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho '    java.specification.version = {release}' >&2\n")
    program.chmod(0o755)


def test_no_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert kafka_cluster.missing() == "java is not installed: Apache Kafka needs version 17 or later"


@pytest.mark.parametrize(("release", "shown"), [("11", "Java 11"), ("1.8", "Java 8"), ("none", "no Java")])
def test_an_old_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, release: str, shown: str) -> None:
    java(tmp_path, release)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert (
        kafka_cluster.missing() == f"{tmp_path}/bin/java is {shown}: Apache Kafka needs version 17 or later"
    )


def test_no_jars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java(tmp_path, "21")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("MILKRUN_KAFKA_JARS", str(tmp_path / "jars"))
    reason = kafka_cluster.missing()
    assert (
        reason
        == f"the jars of Apache Kafka 4.4.0 are not in {tmp_path}/jars: tools/kafka-jars.sh fetches them"
    )
    (tmp_path / "jars").mkdir()
    (tmp_path / "jars/kafka_2.13-4.4.0.jar").touch()
    assert kafka_cluster.missing() is None
