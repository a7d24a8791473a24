"""The logins that docs/how-to/kafka.md shows, and the rights that it names, on a broker that checks both."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from milkrun.control.loading import load_project
from milkrun.model.spec import KafkaLogSpec
from milkrun.testing.kafka_cluster import KafkaCluster
from milkrun.testing.kafka_settings import Protocol
from tests.control.conftest import Write
from tests.needs import need_kafka
from tests.servers.certificates import Authority

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("kafka_control")]

PASSWORD = "apples/and:pears"
SECONDS = 20.0


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs")
    Authority("ours").write(folder, "127.0.0.1")
    Authority("others").write(folder, "127.0.0.1", "other-")
    return folder


@pytest.fixture(scope="module")
def cluster(certs: Path) -> Iterator[KafkaCluster]:
    """A broker with the user `shop`, who may do nothing yet; on the plain listener everybody may do all."""
    need_kafka()
    overrides = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }
    with KafkaCluster(sasl={"shop": PASSWORD}, tls=certs, overrides=overrides) as cluster:
        yield cluster


class _Tokens(BaseHTTPRequestHandler):
    """An OAuth 2 token endpoint, RFC 6749 section 4.4, whose tokens are unsigned JWTs; to one client alone."""

    client = "Basic " + base64.b64encode(b"milkrun:geheim").decode()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        right = self.headers["authorization"] == self.client and "scope=kafka" in body
        claims = {"sub": "shop", "iat": 1_700_000_000, "exp": 4_000_000_000, "scope": "kafka"}
        parts = [
            base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
            for part in ({"alg": "none"}, claims)
        ]
        token = b".".join([*parts, b""]).decode()
        answer = (
            {"access_token": token, "token_type": "bearer", "expires_in": 3600}
            if right
            else {"error": "invalid_client"}
        )
        self.send_response(200 if right else 401)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    def log_message(self, format: str, *args: object) -> None:
        """Not to standard error."""


@pytest.fixture(scope="module")
def token_url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Tokens)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/token"
    server.shutdown()
    thread.join()
    server.server_close()


def brokers(write: Write, servers: str, security: str, timeout: float = SECONDS) -> list[int]:
    """The brokers that a client sees that is made as the project says."""
    head = f"log: {{kafka: {{bootstrap: '{servers}', security: {{{security}}}}}}}\n"
    log = load_project(write({"milkrun.yaml": head}), {"KAFKA_PASSWORD": PASSWORD}).log
    assert isinstance(log, KafkaLogSpec)
    admin = AdminClient({"bootstrap.servers": log.bootstrap, "log_level": 0, **log.security})
    return list(admin.list_topics(timeout=timeout).brokers)


LOGIN = "username: shop, password: '${KAFKA_PASSWORD}'"
TOKENS = "token_url: '@', client_id: milkrun, scope: kafka, extensions: {logicalCluster: lkc-1}"


@pytest.mark.parametrize(
    ("protocol", "security"),
    [
        ("SASL_SSL", f"mechanism: PLAIN, {LOGIN}, ca: '#/ca.pem'"),
        ("SASL_SSL", f"mechanism: SCRAM-SHA-256, {LOGIN}, ca: '#/ca.pem'"),
        ("SASL_PLAINTEXT", f"protocol: sasl_plaintext, mechanism: SCRAM-SHA-512, {LOGIN}"),
        ("SASL_SSL", f"{TOKENS}, client_secret: geheim, ca: '#/ca.pem'"),
        ("SSL", "ca: '#/ca.pem'"),
        ("SSL", "ca: '#/ca.pem', cert: '#/cert.pem', key: '#/key.pem'"),
        ("PLAINTEXT", "protocol: plaintext"),
    ],
)
def test_logins(
    write: Write, cluster: KafkaCluster, certs: Path, token_url: str, protocol: Protocol, security: str
) -> None:
    security = security.replace("#", str(certs)).replace("@", token_url)
    assert brokers(write, cluster.servers(protocol), security) == [1]


@pytest.mark.parametrize(
    ("protocol", "security"),
    [
        ("SASL_SSL", "mechanism: PLAIN, username: shop, password: wrong, ca: '#/ca.pem'"),
        ("SASL_SSL", f"{TOKENS}, client_secret: wrong, ca: '#/ca.pem'"),
        ("SASL_SSL", f"mechanism: PLAIN, {LOGIN}, ca: '#/other-ca.pem'"),
        ("SSL", "protocol: tls"),
    ],
)
def test_logins_that_are_refused(
    write: Write, cluster: KafkaCluster, certs: Path, token_url: str, protocol: Protocol, security: str
) -> None:
    security = security.replace("#", str(certs)).replace("@", token_url)
    with pytest.raises(KafkaException):
        brokers(write, cluster.servers(protocol), security, timeout=2)


def test_the_brokers_name_is_verified(write: Write, cluster: KafkaCluster, certs: Path) -> None:
    servers = cluster.servers("SSL").replace("127.0.0.1", "localhost")
    with pytest.raises(KafkaException):
        brokers(write, servers, f"ca: '{certs}/ca.pem'", timeout=2)
