"""A project's `log: kafka`: what it means to librdkafka, every mistake at its exact place, and no secret in any text."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka import Producer
from cryptography.hazmat.primitives import serialization

from milkrun.control.loading import LoadedProject, load, load_project
from milkrun.model.errors import ConfigErrors
from milkrun.model.spec import EmbeddedLogSpec, KafkaLogSpec
from tests.control.conftest import Write
from tests.servers.certificates import Authority

PIPELINE = "sources: {in: {queue: {url: x}}}\nsinks: {out: {table: {}}}\n"
PASSWORD = "open sesame"
HEAD = "log:\n  kafka:\n    bootstrap: localhost:9092\n"


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `ca.pem`, `cert.pem`, `key.pem` and, opened by PASSWORD, `encrypted.pem`; `other-` begins those of another."""
    folder = tmp_path_factory.mktemp("certs")
    make_certificates(folder)
    make_certificates(folder, "other-")
    return folder


def make_certificates(folder: Path, prefix: str = "") -> None:
    Authority("ours").write(folder, "127.0.0.1", prefix)
    key = serialization.load_pem_private_key((folder / f"{prefix}key.pem").read_bytes(), None)
    form, locked = (
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(PASSWORD.encode()),
    )
    pem = key.private_bytes(serialization.Encoding.PEM, form, locked)
    (folder / f"{prefix}encrypted.pem").write_bytes(pem)


def loaded(write: Write, head: str, environment: dict[str, str] | None = None) -> LoadedProject:
    return load(write({"milkrun.yaml": head, "pipelines/p.yaml": PIPELINE}), environment or {})


def kafka_log(write: Write, head: str, environment: dict[str, str] | None = None) -> KafkaLogSpec:
    log = loaded(write, head, environment).spec.log
    assert isinstance(log, KafkaLogSpec)
    return log


def secured(write: Write, text: str, environment: dict[str, str] | None = None) -> dict[str, str]:
    """The options of a `security:` with these keys in flow style; librdkafka must take them."""
    head = f"log: {{kafka: {{bootstrap: 'localhost:9092', security: {{{text}}}}}}}\n"
    options = dict(kafka_log(write, head, environment).security)
    assert all(type(value) is str for value in options.values())
    taken_by_librdkafka(options)
    return options


def taken_by_librdkafka(options: dict[str, str]) -> None:
    """A client made of these options: it reads the files, and connects to nothing before it is used."""
    Producer(options | {"bootstrap.servers": "", "log_level": "0"})


def mistakes(write: Write, head: str, environment: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigErrors) as raised:
        loaded(write, head, environment)
    return [str(error) for error in raised.value.errors]


def test_all_of_it(write: Write) -> None:
    head = (
        "name: the shop\nlog: {kafka: {bootstrap: ' kafka-1:9092, [::1]:1,kafka_2.example.com:65535,kafka-1:9092',"
        " project: shop-1, replication: 3, manage: true}}\n"
    )
    log = kafka_log(write, head)
    assert log.bootstrap == "kafka-1:9092,[::1]:1,kafka_2.example.com:65535"
    assert (log.project, log.replication, log.manage, log.security) == ("shop-1", 3, True, {})


def test_the_least(write: Write) -> None:
    folder = write({"milkrun.yaml": HEAD, "pipelines/p.yaml": PIPELINE})
    expected = KafkaLogSpec("localhost:9092", "shop", folder / ".milkrun")
    assert load_project(folder).log == expected


def test_keys_without_a_value_are_not_given(write: Write) -> None:
    log = kafka_log(write, HEAD + "    project:\n    replication:\n    security:\n")
    assert (log.project, log.replication, log.security) == ("shop", None, {})


def test_the_operators_topics(write: Write) -> None:
    assert not kafka_log(write, HEAD + "    manage: false\n").manage


def test_addresses_from_the_environment(write: Write) -> None:
    head = 'log: {kafka: {bootstrap: "${KAFKA:-localhost:9092}", project: "${WHO}"}}\n'
    log = kafka_log(write, head, {"KAFKA": "a:1,b:2", "WHO": "shop-eu"})
    assert (log.bootstrap, log.project) == ("a:1,b:2", "shop-eu")


def test_the_embedded_log_is_as_before(write: Write) -> None:
    for head in ("log: embedded\n", "log: {}\n", "log: {embedded: {}}\n", "name: shop\n"):
        assert isinstance(loaded(write, head).spec.log, EmbeddedLogSpec)


def test_ids_are_remembered_for_a_week_at_most(write: Write) -> None:
    sources = "sources:\n  a: {queue: {url: x}, dedupe: 7d}\n  b: {queue: {url: x}, dedupe: 8d}\n"
    files = {"pipelines/p.yaml": sources, "milkrun.yaml": HEAD}
    with pytest.raises(ConfigErrors) as raised:
        load(write(files), {})
    assert str(raised.value) == (
        "pipelines/p.yaml:3:24: sources.b.dedupe: a log on Kafka remembers ids for 7d; write dedupe: 7d, or less"
    )
    assert load(write(files | {"milkrun.yaml": "log: embedded\n"}), {}).spec.pipelines


# -- what security means to librdkafka


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("protocol: plaintext", {"security.protocol": "plaintext"}),
        ("protocol: tls", {"security.protocol": "ssl", "ssl.endpoint.identification.algorithm": "https"}),
        (
            "protocol: sasl_plaintext, mechanism: PLAIN, username: shop, password: geheim",
            {
                "security.protocol": "sasl_plaintext",
                "sasl.mechanism": "PLAIN",
                "sasl.username": "shop",
                "sasl.password": "geheim",
            },
        ),
        (
            "mechanism: SCRAM-SHA-512, username: shop, password: '${PASSWORD}'",
            {
                "security.protocol": "sasl_ssl",
                "ssl.endpoint.identification.algorithm": "https",
                "sasl.mechanism": "SCRAM-SHA-512",
                "sasl.username": "shop",
                "sasl.password": "ge,he=im",
            },
        ),
        (
            "mechanism: SCRAM-SHA-256, username: shop, password: x",
            {
                "security.protocol": "sasl_ssl",
                "ssl.endpoint.identification.algorithm": "https",
                "sasl.mechanism": "SCRAM-SHA-256",
                "sasl.username": "shop",
                "sasl.password": "x",
            },
        ),
        (
            "token_url: 'https://login.example.com/token', client_id: shop, client_secret: geheim, scope: 'a b',"
            " extensions: {logicalCluster: lkc-1, identityPoolId: pool-2}",
            {
                "security.protocol": "sasl_ssl",
                "ssl.endpoint.identification.algorithm": "https",
                "sasl.mechanism": "OAUTHBEARER",
                "sasl.oauthbearer.method": "oidc",
                "sasl.oauthbearer.token.endpoint.url": "https://login.example.com/token",
                "sasl.oauthbearer.client.id": "shop",
                "sasl.oauthbearer.client.secret": "geheim",
                "sasl.oauthbearer.scope": "a b",
                "sasl.oauthbearer.extensions": "logicalCluster=lkc-1,identityPoolId=pool-2",
            },
        ),
    ],
)
def test_logins(write: Write, text: str, expected: dict[str, str]) -> None:
    assert secured(write, text, {"PASSWORD": "ge,he=im"}) == expected


def test_certificates(write: Write, certs: Path) -> None:
    folder = write({})
    (folder / "certs").mkdir()
    make_certificates(folder / "certs")
    found = secured(write, "ca: certs/ca.pem")
    assert (found["security.protocol"], found["ssl.ca.location"]) == ("ssl", str(folder / "certs/ca.pem"))
    found = secured(write, "cert: certs/cert.pem, key: certs/key.pem")
    assert found["ssl.certificate.location"] == str(folder / "certs/cert.pem")
    assert found["ssl.key.location"] == str(folder / "certs/key.pem")
    found = secured(write, f"{TOKEN}, token_ca: certs/ca.pem")
    assert found["https.ca.location"] == str(folder / "certs/ca.pem")
    encrypted = f"cert: '{certs}/cert.pem', key: '{certs}/encrypted.pem', key_password: {PASSWORD}"
    found = secured(write, f"{encrypted}, mechanism: PLAIN, username: u, password: p")
    assert found["security.protocol"] == "sasl_ssl"
    assert (found["ssl.key.location"], found["ssl.key.password"]) == (
        f"{certs}/encrypted.pem",
        PASSWORD,
    )


# -- mistakes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("log: kafka\n", "1:1: log: nothing says where the cluster is; write log: {kafka: {bootstrap:"),
        ("log: kafak\n", "1:1: log: 'kafak' is no log; write log: embedded, or log: {kafka:"),
        (
            "log:\n  kafak: {}\n",
            "2:3: log.kafak: unknown option 'kafak'; perhaps 'kafka' is meant; known are: embedded, kafka",
        ),
        ("log:\n  kafka:\n", "2:3: log.kafka: option 'bootstrap' is missing; write host:port"),
        ("log:\n  kafka:\n    bootstrap:\n", "2:3: log.kafka: option 'bootstrap' is missing"),
        ("log:\n  kafka: x:1\n", "2:3: log.kafka: 'x:1' where a mapping belongs"),
        (
            "log:\n  embedded: {}\n  kafka: {bootstrap: 'a:1'}\n",
            "1:1: log: a project has one log, not two; leave one of them out",
        ),
        ("log:\n  kafka:\n    bootstrap: 5\n", "3:5: log.kafka.bootstrap: 5 is not text"),
        ("log:\n  kafka:\n    bootstrap: [a:1]\n", "3:5: log.kafka.bootstrap: ['a:1'] is not text"),
        (
            "log:\n  kafka:\n    bootstrap: kafka\n",
            "3:5: log.kafka.bootstrap: 'kafka' is no broker's address; write host:port, several after commas",
        ),
        ("log:\n  kafka:\n    bootstrap: 'a:1,'\n", "3:5: log.kafka.bootstrap: '' is no broker's address"),
        (
            "log:\n  kafka:\n    bootstrap: a:0\n",
            "3:5: log.kafka.bootstrap: 'a:0' has no port from 1 to 65535",
        ),
        ("log:\n  kafka:\n    bootstrap: 'a:70000'\n", "3:5: log.kafka.bootstrap: 'a:70000' has no port"),
        (
            "log:\n  kafka:\n    bootstrap: ssl://a:1\n",
            "3:5: log.kafka.bootstrap: 'ssl://a:1' is no broker's address",
        ),
        (HEAD + "    bootstraps: x\n", "4:5: log.kafka.bootstraps: unknown option 'bootstraps'; perhaps"),
        (
            HEAD + "    project: a.b\n",
            "4:5: log.kafka.project: 'a.b' can't name a project on Kafka; use 1 to",
        ),
        (HEAD + "    project: 7\n", "4:5: log.kafka.project: 7 is not text"),
        (HEAD + "    replication: 0\n", "4:5: log.kafka.replication: 0 is out of range"),
        (HEAD + "    manage: sometimes\n", "4:5: log.kafka.manage: 'sometimes' is not true or false"),
        (
            HEAD + "    replication: 3\n    manage: false\n",
            "4:5: log.kafka.replication: with manage: false no topic is made",
        ),
        (
            "name: my shop\n" + HEAD,
            "3:3: log.kafka: the project's name 'my shop' can't name a project on Kafka; give it another there",
        ),
    ],
)
def test_mistakes(write: Write, text: str, expected: str) -> None:
    (only,) = mistakes(write, text)
    assert only.startswith("milkrun.yaml:" + expected)


LOGIN = "mechanism: PLAIN, username: u, password: p"
TOKEN = "token_url: 'https://x/t', client_id: u, client_secret: p"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("protocol: ssl", "protocol: 'ssl' is not one of plaintext, tls, sasl_plaintext, sasl_tls"),
        (
            "mechanism: GSSAPI",
            "mechanism: 'GSSAPI' is not one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHB",
        ),
        ("passwort: x", "passwort: unknown option 'passwort'; perhaps 'password' is meant"),
        ("ssl.ca.location: x", "ssl.ca.location: unknown option"),
        ("protocol: sasl_tls", "protocol: nothing says how to log in; give the mechanism: PLAIN"),
        ("username: u, password: p", "username: nothing says how to log in; give the mechanism: PLAIN"),
        ("mechanism: PLAIN, username: u", "mechanism: PLAIN needs a password; give password too"),
        ("mechanism: SCRAM-SHA-256, password: p", "mechanism: SCRAM-SHA-256 needs a username"),
        ("token_url: 'https://x/t', client_id: u", "token_url: OAUTHBEARER needs a client_secret"),
        (f"{LOGIN}, scope: x", "scope: PLAIN doesn't log in by it; leave it out, or choose another"),
        (f"{TOKEN}, username: x", "username: OAUTHBEARER doesn't log in by it"),
        ("protocol: tls, scope: x", "scope: with protocol: tls there is no login, so it has no use; write"),
        (
            f"protocol: sasl_plaintext, {LOGIN}, ca: x.pem",
            "ca: with protocol: sasl_plaintext nothing is encrypted, so it has no use; write protocol: sasl_tls",
        ),
        (
            "mechanism: PLAIN, username: u, password: ''",
            "password: it is empty; give a value, or leave it out",
        ),
        (
            'mechanism: PLAIN, username: "u\\n", password: p',
            "username: it has a line break or another control",
        ),
        (
            "token_url: 'x/t', client_id: u, client_secret: p",
            "token_url: it is no address of a token endpoint",
        ),
        (
            "token_url: 'https://x:y/t', client_id: u, client_secret: p",
            "token_url: it is no address of a token endpoint",
        ),
        (
            "token_url: 'https://u:p@x/t', client_id: u, client_secret: p",
            "token_url: it has a login in it; use client_id and client_secret",
        ),
        (f"{TOKEN}, extensions: {{auth: x}}", "extensions.auth: it can't name a SASL extension; use letters"),
        (f"{TOKEN}, extensions: {{a-b: x}}", "extensions.a-b: it can't name a SASL extension"),
        (
            f"{TOKEN}, extensions: {{a: 'x,b=y'}}",
            "extensions.a: its value can't be sent; use printable ASCII",
        ),
        (f"{TOKEN}, extensions: {{a: ''}}", "extensions.a: its value can't be sent"),
        (f"{TOKEN}, extensions: {{a: 7}}", "extensions.a: 7 is not text"),
    ],
)
def test_contradictions(write: Write, text: str, expected: str) -> None:
    found = mistakes(write, f"log: {{kafka: {{bootstrap: 'a:1', security: {{{text}}}}}}}\n")
    found = [each for each in found if "can't be read" not in each]
    assert [each.partition("log.kafka.security.")[2][: len(expected)] for each in found] == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ca: nix.pem", ["ca: the file 'nix.pem' can't be read: No such file or directory; mend the path"]),
        ("ca: .", ["ca: "]),
        (
            "ca: '@/key.pem'",
            ["ca: '@/key.pem' holds no PEM certificates; name a file of PEM certificates"],
        ),
        ("cert: '@/cert.pem'", ["cert: it is of no use without a key; give key too"]),
        (
            "cert: '@/nix.pem', key: '@/nix.key'",
            ["cert: the file '@/nix.pem' can't be read", "key: the file '@/nix.key' can't be read"],
        ),
        ("key: '@/key.pem'", ["key: it is of no use without a cert"]),
        ("key_password: x", ["key_password: it is of no use without a key"]),
        (
            "cert: '@/cert.pem', key: '@/other-key.pem'",
            [
                "cert: they are no certificate and its key that can be used; give PEM files that belong together"
            ],
        ),
        (
            f"cert: '@/cert.pem', key: '@/other-encrypted.pem', key_password: {PASSWORD}",
            ["cert: they are no certificate and its key that can be used"],
        ),
        (
            "cert: '@/cert.pem', key: '@/encrypted.pem'",
            ["key: the key is encrypted; give its key_password"],
        ),
        (
            "cert: '@/cert.pem', key: '@/encrypted.pem', key_password: wrong",
            ["key_password: it doesn't open the key; give the key's own password"],
        ),
    ],
)
def test_files_that_can_not_be_used(write: Write, certs: Path, text: str, expected: list[str]) -> None:
    text = text.replace("@", str(certs))
    found = mistakes(write, f"log: {{kafka: {{bootstrap: 'a:1', security: {{{text}}}}}}}\n")
    assert len(found) == len(expected)
    for each, start in zip(found, expected, strict=True):
        assert each.partition("log.kafka.security.")[2].startswith(start.replace("@", str(certs))[:60])


def test_mistakes_of_all_parts_are_told_at_once(write: Write) -> None:
    head = (
        "log:\n  kafka:\n    bootstrap: kafka\n    replication: x\n    security:\n"
        "      mechanism: PLAIN\n      username: u\n      scope: x\n    project: '*'\n"
    )
    places = [error.split(" ")[0] for error in mistakes(write, head)]
    assert places == [
        f"milkrun.yaml:{line}:{column}:" for line, column in ((3, 5), (4, 5), (6, 7), (8, 7), (9, 5))
    ]


def test_an_unset_variable_is_one_mistake(write: Write) -> None:
    head = (
        "log:\n  kafka:\n    bootstrap: ${KAFKA}\n    project: ${WHO}\n"
        "    security: {mechanism: PLAIN, username: u, password: '${PASSWORD}'}\n"
    )
    found = mistakes(write, head)
    assert [each.rpartition("variable ")[2].split(" ")[0] for each in found] == ["KAFKA", "WHO", "PASSWORD"]


# -- secrets


@pytest.mark.parametrize(
    "text",
    [
        "bootstrap: 'u:hunter2@a:1'",
        "bootstrap: 'a:1', security: {mechanism: PLAIN, username: u, password: [hunter2]}",
        "bootstrap: 'a:1', security: {protocol: tls, password: hunter2}",
        'bootstrap: "a:1", security: {mechanism: PLAIN, username: u, password: "hunter2\\0"}',
        "bootstrap: 'a:1', security: {key_password: hunter2}",
        "bootstrap: 'a:1', security: {token_url: 'ftp://hunter2/', client_id: u, client_secret: hunter2}",
        "bootstrap: 'a:1', security: {token_url: 'https://u:hunter2@x/', client_id: u, client_secret: p}",
        "bootstrap: 'a:1', security: {cert: '@', key: '@.encrypted', key_password: hunter2}",
        "bootstrap: '${SECRET}'",
        "bootstrap: 'a:1', project: '${SECRET}.'",
        "bootstrap: 'a:1', security: {ca: '${SECRET}'}",
        "bootstrap: 'a:1', security: {protocol: '${SECRET}'}",
    ],
)
def test_no_mistake_shows_a_secret(write: Write, certs: Path, text: str) -> None:
    text = text.replace("@.encrypted", f"{certs}/encrypted.pem").replace("'@'", f"'{certs}/cert.pem'")
    found = mistakes(write, f"log: {{kafka: {{{text}}}}}\n", {"SECRET": "hunter2"})
    assert found
    assert "hunter2" not in "".join(found)


def test_no_text_of_a_project_shows_a_secret(write: Write) -> None:
    login = "{mechanism: PLAIN, username: u, password: hunter2}"
    project = loaded(write, f"log: {{kafka: {{bootstrap: 'a:1', security: {login}}}}}\n")
    assert isinstance(project.spec.log, KafkaLogSpec)
    assert project.spec.log.security["sasl.password"] == "hunter2"
    assert "hunter2" not in repr(project)
    assert "hunter2" not in str(project.spec.log)


# -- warnings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"bootstrap: 'a:1', security: {{protocol: sasl_plaintext, {LOGIN}}}", "protocol: sasl_tls"),
        (
            f"bootstrap: 'localhost:1,127.0.0.1:2,[::1]:3', security: {{protocol: sasl_plaintext, {LOGIN}}}",
            "",
        ),
        (f"bootstrap: 'a:1', security: {{{LOGIN}}}", ""),
        ("bootstrap: 'a:1'", ""),
        (f"bootstrap: 'a:1', security: {{{TOKEN}}}", ""),
        (f"bootstrap: 'a:1', security: {{{TOKEN.replace('https', 'http')}}}", "give one with https"),
        (f"bootstrap: 'a:1', security: {{{TOKEN.replace('https://x', 'http://127.0.0.1:8')}}}", ""),
    ],
)
def test_what_goes_unencrypted_is_warned_of(write: Write, text: str, expected: str) -> None:
    warnings = loaded(write, f"log: {{kafka: {{{text}}}}}\n").warnings
    assert len(warnings) == bool(expected)
    assert expected in "".join(warnings)
