"""Who may send: keys, origins, rates, and which of two sources gets it."""

from __future__ import annotations

import hashlib
import shutil
import socket
import subprocess
import sys
import threading
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from milkrun.connectors.http.listening import PROBES, Tls, identity_of, probe
from milkrun.model.errors import ConfigError, ConfigErrors, Transient
from milkrun.testing.clock import ManualClock
from tests.connectors.http.service import EVENTS, Service, code, counts, event, make_source, serve
from tests.needs import require

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("http")]

ORIGIN = "https://shop.example"


def hashed(key: str) -> str:
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer secret"},
        {"authorization": "Basic " + b64encode(b"app:secret").decode()},
        {"x_milkrun_key": "secret"},
    ],
)
def test_a_key_opens(tmp_path: Path, headers: dict[str, str]) -> None:
    with serve(tmp_path, keys=[hashed("other"), hashed("secret")]) as service:
        assert service.post(event(1), **headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer wrong"}, {"x_milkrun_key": "k" * 50_000}, {"authorization": "Basic ???"}],
)
def test_without_the_key_nothing_is_read(tmp_path: Path, headers: dict[str, str]) -> None:
    with serve(tmp_path, keys=[hashed("secret")]) as service:
        response = service.post(event(1), **headers)
        assert (response.status_code, code(response)) == (401, "key")
        assert response.headers["www-authenticate"].startswith("Bearer")
        assert service.runtime.settled == []


def test_a_head_of_any_size_is_not_read(tmp_path: Path) -> None:
    with serve(tmp_path) as service:
        response = service.post(event(1), x_milkrun_key="k" * 1_000_000)
        assert response.status_code == 431


def test_a_key_where_none_is_needed_must_still_be_right(tmp_path: Path) -> None:
    with serve(tmp_path) as service:
        assert service.post(event(1), authorization="Bearer stray").status_code == 401


def test_a_key_in_the_address_opens_only_where_that_is_allowed(tmp_path: Path) -> None:
    for allowed, status in ((False, 401), (True, 200)):
        with serve(tmp_path, keys=[hashed("secret")], query_key=allowed) as service:
            response = service.client.post(
                f"{EVENTS}?key=secret", content=event(1), headers={"content-type": "application/json"}
            )
            assert response.status_code == status


def test_the_rate_of_a_key(tmp_path: Path) -> None:
    clock = ManualClock()
    options: dict[str, Any] = {"keys": [hashed("a"), hashed("b")], "rate_limit": 2.0}
    with serve(tmp_path, running=False, clock=clock, **options) as service:
        stop = threading.Event()
        # A manual clock moves on while a poll waits; here it stands still, and a poll is tried again.
        thread = threading.Thread(target=lambda: [service.runtime.step(0) for _ in iter(stop.is_set, True)])
        thread.start()
        try:
            assert service.post(b"[{},{},{}]", x_milkrun_key="a").status_code == 200
            response = service.post(event(1), x_milkrun_key="a")
            assert (response.status_code, code(response)) == (429, "rate")
            assert response.headers["retry-after"] == "1"
            assert service.post(event(1), x_milkrun_key="b").status_code == 200
            clock.advance(1)
            assert service.post(event(1), x_milkrun_key="a").status_code == 200
        finally:
            stop.set()
            thread.join()


def preflight(service: Service, origin: str) -> Any:
    return service.client.options(
        EVENTS,
        headers={
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "Content-Type, X-Milkrun-Key, ce-id, x-evil",
        },
    )


def test_a_listed_origin_may_send(tmp_path: Path) -> None:
    with serve(tmp_path, cors_origins=[ORIGIN]) as service:
        response = preflight(service, ORIGIN)
        assert (response.status_code, response.content) == (204, b"")
        assert response.headers["access-control-allow-origin"] == ORIGIN
        assert response.headers["access-control-allow-methods"] == "POST"
        assert response.headers["access-control-allow-headers"] == "content-type, x-milkrun-key, ce-id"
        for body, status in ((event(1), 200), (b"", 400)):
            response = service.post(body, origin=ORIGIN)
            assert response.status_code == status
            assert response.headers["access-control-allow-origin"] == ORIGIN
            assert response.headers["vary"] == "origin"


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://shop.example", ORIGIN + ":8443"])
def test_another_origin_may_not(tmp_path: Path, origin: str) -> None:
    with serve(tmp_path, cors_origins=[ORIGIN]) as service:
        for response in (preflight(service, origin), service.post(event(1), origin=origin)):
            assert (response.status_code, code(response)) == (403, "origin")
            assert "access-control-allow-origin" not in response.headers
        assert service.runtime.settled == []


def test_any_origin_may_send_where_all_are_allowed(tmp_path: Path) -> None:
    with serve(tmp_path, cors_origins=["*"]) as service:
        assert preflight(service, "https://anyone.example").headers["access-control-allow-origin"] == "*"
        assert service.post(event(1), origin="https://anyone.example").status_code == 200


def test_two_sources_share_a_server_and_the_key_decides(tmp_path: Path) -> None:
    with serve(tmp_path, name="one", keys=[hashed("a")]) as one:
        listen = f"127.0.0.1:{one.port}"
        with serve(tmp_path, name="two", keys=[hashed("b")], listen=listen) as two:
            assert one.post(event(1), x_milkrun_key="a").status_code == 200
            assert one.post(event(2), x_milkrun_key="b").status_code == 200
            assert one.post(event(3)).status_code == 401
            assert (one.runtime.accepted, two.runtime.accepted) == ([event(1)], [event(2)])
        # A source that is away, perhaps for a moment, doesn't make its key wrong.
        response = one.post(event(4), x_milkrun_key="b")
        assert (response.status_code, code(response)) == (503, "stopping")
        with serve(tmp_path, name="two", keys=[hashed("b")], listen=listen) as again:
            assert one.post(event(5), x_milkrun_key="b").status_code == 200
            assert again.runtime.accepted == [event(5)]
        assert one.post(event(6), x_milkrun_key="a").status_code == 200


def test_one_of_two_sources_may_be_without_keys(tmp_path: Path) -> None:
    with (
        serve(tmp_path, name="one") as one,
        serve(tmp_path, name="two", keys=[hashed("b")], listen=f"127.0.0.1:{one.port}") as two,
    ):
        assert one.post(event(1)).status_code == 200
        assert one.post(event(2), x_milkrun_key="b").status_code == 200
        assert (one.runtime.accepted, two.runtime.accepted) == ([event(1)], [event(2)])


@pytest.mark.parametrize(
    ("first", "second", "path"),
    [
        ({}, {}, ("listen",)),
        ({"keys": [hashed("a")]}, {"keys": [hashed("b"), hashed("a")]}, ("keys",)),
        ({}, {"keys": [hashed("a")], "tls": {"cert": "c", "key": "k"}}, ("tls",)),
    ],
)
def test_sources_that_can_not_be_told_apart(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], path: tuple[str]
) -> None:
    with serve(tmp_path, name="one", **first) as service:
        other = make_source(tmp_path, {"listen": f"127.0.0.1:{service.port}"} | second, name="two")
        with pytest.raises(ConfigError) as raised:
            other.open(None)
        other.close()
        assert raised.value.path == path
        assert service.client.get("/v1/collector").status_code == 200


def test_a_port_of_another_program_is_refused(tmp_path: Path) -> None:
    with socket.socket() as other:
        # It even allows sharing, as another project's collector would.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()

        def hang_up() -> None:
            for _ in range(PROBES):
                other.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        source = make_source(tmp_path, {"listen": f"127.0.0.1:{other.getsockname()[1]}"})
        with pytest.raises(ConfigError, match="another program listens"):
            source.open(None)
        source.close()
        thread.join()


def test_a_port_where_nobody_answers_is_tried_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("milkrun.connectors.http.listening.PROBE_SECONDS", 0.05)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        source = make_source(tmp_path, {"listen": f"127.0.0.1:{other.getsockname()[1]}"})
        with pytest.raises(Transient):
            source.open(None)
        source.close()


def test_a_port_that_is_not_shared_is_refused(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        source = make_source(tmp_path, {"listen": f"127.0.0.1:{other.getsockname()[1]}"})
        with pytest.raises(ConfigError, match="another program listens"):
            source.open(None)
        source.close()


def test_an_address_of_another_machine_is_refused(tmp_path: Path) -> None:
    source = make_source(tmp_path, {"listen": "192.0.2.1:8080", "keys": [hashed("a")], "plain_http": True})
    with pytest.raises(ConfigError, match="can't listen"):
        source.open(None)
    source.close()


_WORKER = """
import sys
from pathlib import Path
from tests.connectors.http.service import serve

try:
    with serve(Path(sys.argv[1]), listen=sys.argv[2]) as service:
        print("listens", flush=True)
        sys.stdin.readline()
        print(len(service.runtime.accepted), flush=True)
except Exception as error:
    print(type(error).__name__, flush=True)
"""


def start_worker(folder: Path, listen: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _WORKER, str(folder), listen]
    root = Path(__file__).parents[3]
    return subprocess.Popen(
        command,
        cwd=root,
        env={"PYTHONPATH": f"{root / 'src'}:{root}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def say(worker: subprocess.Popen[str]) -> str:
    """The worker's next line that isn't its log."""
    assert worker.stdout is not None
    return next(line.strip() for line in worker.stdout if "collector listens" not in line)


def test_workers_of_a_project_share_the_port_and_other_projects_do_not(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    mine.mkdir()
    other.mkdir()
    with serve(mine) as service:
        listen = f"127.0.0.1:{service.port}"
        with start_worker(other, listen) as stranger:
            assert say(stranger) == "ConfigError"
        with start_worker(mine, listen) as worker:
            assert say(worker) == "listens"
            for number in range(40):
                # A new connection each time, which the kernel gives to either.
                assert service.post(event(number), connection="close").status_code == 200
            theirs = worker.communicate("\n", timeout=20)[0]
    assert len(service.runtime.accepted) + int(theirs.split()[-1]) == 40


@pytest.fixture
def certificate(tmp_path: Path) -> dict[str, str]:
    """A certificate of its own for this machine, made by openssl."""
    require("openssl is not installed", shutil.which("openssl") is not None)
    subject = ["-subj", "/CN=127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    subprocess.run(
        ["openssl", "req", "-x509", "-nodes", "-days", "1", *curve, *subject],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    return {"cert": "cert.pem", "key": "key.pem"}


def test_tls(tmp_path: Path, certificate: dict[str, str]) -> None:
    with serve(tmp_path, tls=certificate, keys=[hashed("a")]) as service:
        response = service.post(event(1), authorization="Bearer a")
        assert (response.status_code, counts(response)) == (200, (1, 0, []))


def test_workers_share_a_port_with_tls(tmp_path: Path, certificate: dict[str, str]) -> None:
    with serve(tmp_path, tls=certificate) as service:
        probe(service.source.address, identity_of(tmp_path), Tls(tmp_path / "cert.pem", tmp_path / "key.pem"))
        with pytest.raises(ConfigError):
            probe(service.source.address, identity_of(tmp_path), None)


def test_a_certificate_that_can_not_be_used(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_bytes(b"")
    for name in ("missing.pem", "empty.pem"):
        source = make_source(tmp_path, {"tls": {"cert": name, "key": name}})
        with pytest.raises(ConfigError) as raised:
            source.open(None)
        source.close()
        assert raised.value.path == ("tls",)


def test_everything_wrong_is_told_before_anything_is_opened(tmp_path: Path) -> None:
    source = make_source(tmp_path, {"listen": "0.0.0.0:0"})
    with pytest.raises(ConfigErrors):
        source.open(None)
    source.close()
