"""The sink against a scripted S3: stores that ignore conditions, and what is made of each kind of failure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from milkrun.connectors.parquet import ParquetConfig, ParquetSink, S3Options
from milkrun.model.errors import GapError, MilkrunError, Refused, Transient, Unreachable
from milkrun.storage import bucket
from milkrun.storage.bucket import TEST_OBJECT
from milkrun.testing.sink_contract import ORDER, context, cut, orders
from tests.connectors.parquet.lake import deliver, make_s3
from tests.connectors.parquet.scripted_s3 import Store, serving
from tests.servers.s3 import S3Server

FIRST = cut(orders(0, 1), ORDER)
URL = "s3://lake/p"


@pytest.fixture(params=[True, False], ids=["conditional", "careless"])
def store(request: pytest.FixtureRequest) -> Store:
    return Store(conditional=request.param)


@pytest.fixture(autouse=True)
def _quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    soon = timedelta(milliseconds=1)
    backoff = {"init_backoff": soon, "max_backoff": soon, "base": 2}
    monkeypatch.setattr(bucket, "RETRY", {**bucket.RETRY, "backoff": backoff})


@pytest.fixture
def server(store: Store) -> Iterator[S3Server]:
    with serving(store) as running:
        yield running


conditional = pytest.mark.parametrize("store", [True], indirect=True, ids=["conditional"])


def make(server: S3Server, folder: Path, **options: Any) -> ParquetSink:
    return make_s3(server, folder, URL, **options)


def test_the_self_test_tells_whether_conditions_are_kept(
    store: Store, server: S3Server, tmp_path: Path
) -> None:
    wanted = "storage.conditional_put" if store.conditional else "storage.no_conditional_put"
    for _ in range(2):
        with capture_logs() as logs:
            sink = make(server, tmp_path)
            sink.open()
            sink.close()
        assert [entry["event"] for entry in logs] == [wanted]
    assert list(store.objects) == [f"p/{TEST_OBJECT}"]


@conditional
def test_a_store_that_refuses_the_header_is_written_without(
    store: Store, server: S3Server, tmp_path: Path
) -> None:
    store.answers = [("PUT .*conditional-put-test", 501, "NotImplemented")] * 3
    deliver(make(server, tmp_path), FIRST, FIRST)
    assert len(store.data) == 1


def test_written_twice_is_written_once(store: Store, server: S3Server, tmp_path: Path) -> None:
    deliver(make(server, tmp_path), FIRST)
    before = dict(store.data)
    deliver(make(server, tmp_path), FIRST)
    assert store.data == before
    (name,) = before
    puts = [request for request in store.requests if request.startswith("PUT") and name in request]
    # Without conditions the store is asked first, and nothing is put again.
    assert len(puts) == (2 if store.conditional else 1)


def test_other_content_is_never_overwritten(store: Store, server: S3Server, tmp_path: Path) -> None:
    deliver(make(server, tmp_path), FIRST)
    (name,) = store.data
    store.objects[name] = b"something else"
    with pytest.raises(GapError, match="is there already with other content") as caught:
        deliver(make(server, tmp_path), FIRST)
    assert name.removeprefix("p/") in str(caught.value)
    assert store.objects[name] == b"something else"


@conditional
def test_an_answer_that_got_lost_is_no_conflict(store: Store, server: S3Server, tmp_path: Path) -> None:
    sink = make(server, tmp_path)
    sink.open()
    planned = sink.plan(FIRST)
    # As if the first try had arrived and its answer had not: the client tries again and meets its own object.
    sink.write(planned)
    sink.write(planned)
    assert len(store.data) == 1
    assert sink.audit("shop.order").num_rows == 2


@conditional
def test_a_single_failure_is_smoothed_over(store: Store, server: S3Server, tmp_path: Path) -> None:
    store.answers = [(r"PUT .*\.parquet", 503, "SlowDown"), (r"PUT .*\.parquet", 500, "InternalError")]
    deliver(make(server, tmp_path), FIRST)
    assert len(store.data) == 1


@conditional
@pytest.mark.parametrize(
    ("status", "code", "kind", "said"),
    [
        (503, "SlowDown", Transient, r"the store is busy or failing \(SlowDown\)"),
        (500, "", Transient, r"the store is busy or failing \(500\)"),
        (429, "", Transient, r"the store is busy or failing \(429\)"),
        (400, "RequestTimeout", Transient, r"the store is busy or failing \(RequestTimeout\)"),
        (403, "AccessDenied", Refused, r"access is denied \(AccessDenied\); the keys need s3:GetObject"),
        (403, "InvalidAccessKeyId", Refused, "does not accept the keys .* correct s3.access_key"),
        (403, "SignatureDoesNotMatch", Refused, "does not accept the keys"),
        (403, "RequestTimeTooSkewed", Refused, "the machine's clock is wrong"),
        (401, "", Refused, "access is denied"),
        (400, "ExpiredToken", Refused, r"no longer valid \(ExpiredToken\); renew s3.session_token"),
        (404, "NoSuchBucket", Refused, "there is no such bucket; create it, or correct url"),
        (
            400,
            "AuthorizationHeaderMalformed",
            Refused,
            "in another region or at another endpoint; set s3.region",
        ),
        (400, "InvalidRequest", Refused, r"the store refuses \(InvalidRequest\)"),
    ],
)
@pytest.mark.parametrize("at", [r"PUT .*conditional-put-test", r"PUT .*\.parquet", r"GET .*list-type"])
def test_each_failure_says_what_to_do(
    store: Store,
    server: S3Server,
    tmp_path: Path,
    at: str,
    status: int,
    code: str,
    kind: type[MilkrunError],
    said: str,
) -> None:
    store.answers = [(at, status, code)] * 3
    sink = make(server, tmp_path)
    with pytest.raises(kind, match=said) as caught:
        sink.open()
        sink.write(sink.plan(FIRST))
        sink.audit("shop.order")
    assert str(caught.value).startswith("s3://lake/p")
    # The client's error holds the server's whole answer: it may not come along into a log.
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    assert store.data.keys() <= {f"p/{file.name}" for file in sink.plan(FIRST).files}


@conditional
def test_a_failure_in_the_middle_of_an_audit_is_no_damage(
    store: Store, server: S3Server, tmp_path: Path
) -> None:
    sink = make(server, tmp_path)
    sink.open()
    sink.write(sink.plan(FIRST))
    store.answers = [(r"GET .*\.parquet", 503, "SlowDown")] * 3
    with pytest.raises(Transient, match="busy"):
        sink.audit("shop.order")
    assert sink.audit("shop.order").num_rows == 2


@conditional
def test_of_several_failures_the_one_for_a_person_comes_first(
    store: Store, server: S3Server, tmp_path: Path
) -> None:
    sink = make(server, tmp_path, partition_by=["body.count"])
    sink.open()
    store.answers = [("PUT .*by_count=0", 503, "SlowDown")] * 3 + [("PUT .*by_count=1", 403, "AccessDenied")]
    with pytest.raises(Refused, match="access is denied"):
        sink.write(sink.plan(FIRST))


def test_a_store_that_nobody_serves(tmp_path: Path) -> None:
    with serving(Store(conditional=True)) as gone:
        pass
    with pytest.raises(Unreachable, match="the store can't be reached"):
        make(gone, tmp_path).open()


def test_secrets_are_in_no_error(server: S3Server, store: Store, tmp_path: Path) -> None:
    store.answers = [("PUT", 403, "SignatureDoesNotMatch")]
    sink = make(server, tmp_path)
    with pytest.raises(Refused) as caught:
        sink.open()
    assert "not-a-secret" not in repr(caught.value) + repr(sink.config)


def test_without_keys_the_error_says_where_they_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    with serving(Store(conditional=True)) as gone:
        pass
    # Where a machine would ask for its role nothing answers.
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", gone.endpoint)
    options = S3Options(region="us-east-1", endpoint="https://store.invalid")
    sink = ParquetSink(ParquetConfig(url=URL, s3=options), context(tmp_path))
    with pytest.raises(Refused, match=r"there are no credentials; set s3\.access_key"):
        sink.open()
