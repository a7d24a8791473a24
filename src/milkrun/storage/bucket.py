"""An S3 bucket, or a prefix in one, as a store.

A put is atomic on S3, so nobody sees half an object. Whether the store keeps If-None-Match, which makes "create, never overwrite" one
step, is tested at `open`, as some S3 stand-ins ignore it; without it the store looks first and then overwrites, which is
safe while a partition has one owner.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import IO, TYPE_CHECKING, Any

import obstore
import pyarrow as pa
import structlog
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from milkrun.model.errors import Refused
from milkrun.storage.failures import OPENING, error_code, translated
from milkrun.storage.ranged import open_ranged
from milkrun.storage.store import OWN_FOLDER, Store, skipped
from milkrun.storage.target import Bucket, S3Options

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

_log = structlog.get_logger()

TEST_OBJECT = f"{OWN_FOLDER}/conditional-put-test"
_TEST_CONTENT = b"Milkrun puts this twice at each start to learn whether the store honours If-None-Match.\n"

MAX_PUT_BYTES = 5 << 30
"""S3's limit for one put (Amazon S3 user guide, "Uploading objects"); in parts there is no conditional create in the client."""

_UNSUPPORTED = ("NotImplemented", "501")

RETRY: RetryConfig = {
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {
        "init_backoff": timedelta(milliseconds=50),
        "max_backoff": timedelta(seconds=1),
        "base": 2,
    },
}
"""The client only smooths over single failures; waiting and trying again is the runtime's."""


class BucketStore(Store):
    """The objects of a bucket below a prefix."""

    def __init__(self, bucket: Bucket, options: S3Options) -> None:
        self._bucket = bucket
        self._options = options
        self._client: S3Store | None = None
        self.conditional = False

    def look(self) -> None:
        try:
            with translated(str(self._bucket), "connecting"):
                self._client = _connect(self._bucket, self._options)
        except ValueError:
            raise Refused(
                f"{self._bucket} is no name the client takes; give a plainer prefix in url"
            ) from None

    def open(self) -> None:
        self.look()
        with translated(str(self._bucket), OPENING):
            self.conditional = self._keeps_conditions()
        if self.read(TEST_OBJECT) is None:
            raise Refused(
                f"{self._bucket}: the store does not give back the object {TEST_OBJECT} that was just put; is it S3-compatible?"
            )
        event = "storage.conditional_put" if self.conditional else "storage.no_conditional_put"
        (_log.info if self.conditional else _log.warning)(event, url=str(self._bucket))

    def create(self, name: str, data: Any) -> bool:
        # The client takes unsigned bytes only; Arrow's buffers call themselves signed.
        data = memoryview(data).cast("B")
        size = data.nbytes
        if size > MAX_PUT_BYTES:
            raise Refused(
                f"{self._bucket}/{name}: {size} bytes are more than one put may have ({MAX_PUT_BYTES}); "
                "make the files smaller, by the sink's cut or the archive's file_size"
            )
        with translated(f"{self._bucket}/{name}", "writing"):
            if self.conditional:
                return self._create(name, data)
            if self._exists(name):
                return False
            obstore.put(self._opened, name, data, use_multipart=False)
            return True

    def settle(self, name: str) -> None:
        """Nothing: what S3 shows is durable."""

    def replace(self, name: str, data: bytes) -> None:
        with translated(f"{self._bucket}/{name}", "writing"):
            obstore.put(self._opened, name, data, use_multipart=False)

    def read(self, name: str) -> bytes | None:
        with translated(f"{self._bucket}/{name}", "reading"):
            try:
                return bytes(obstore.get(self._opened, name).bytes())
            except FileNotFoundError as error:
                if error_code(error) == "NoSuchBucket":
                    raise
                return None

    def names(self) -> Iterator[str]:
        with translated(str(self._bucket), "listing"):
            for chunk in obstore.list(self._opened):
                for meta in chunk:
                    if not skipped(meta["path"]):
                        yield meta["path"]

    def reader(self, name: str) -> AbstractContextManager[IO[bytes]]:
        place = f"{self._bucket}/{name}"
        size = None
        with translated(place, "reading"):
            try:
                size = obstore.head(self._opened, name)["size"]
            except FileNotFoundError as error:
                if error_code(error) == "NoSuchBucket":
                    raise
        if size is None:
            raise FileNotFoundError(name)
        return open_ranged(self._opened, name, size, place)

    def close(self) -> None:
        self._client = None

    def input(self, name: str) -> pa.NativeFile:
        return pa.PythonFile(self.reader(name), mode="r")

    def delete(self, name: str) -> None:
        with translated(f"{self._bucket}/{name}", "removing"):
            try:
                obstore.delete(self._opened, name)
            except FileNotFoundError as error:
                if error_code(error) == "NoSuchBucket":
                    raise

    @property
    def place(self) -> str:
        return str(self._bucket)

    @property
    def _opened(self) -> S3Store:
        if self._client is None:
            raise RuntimeError("the store is not open")
        return self._client

    def _create(self, name: str, data: Any) -> bool:
        try:
            obstore.put(self._opened, name, data, mode="create", use_multipart=False)
        except AlreadyExistsError:
            return False
        return True

    def _keeps_conditions(self) -> bool:
        """Put an object twice that must not exist: the second time, at the latest, the store has to refuse.

        The object stays: its refusal by the next start is the same proof, and no right to delete is needed.
        """
        try:
            if not self._create(TEST_OBJECT, _TEST_CONTENT):
                return True
            return not self._create(TEST_OBJECT, _TEST_CONTENT)
        except BaseError as error:
            if error_code(error) not in _UNSUPPORTED:
                raise
        obstore.put(self._opened, TEST_OBJECT, _TEST_CONTENT, use_multipart=False)
        return False

    def _exists(self, name: str) -> bool:
        try:
            obstore.head(self._opened, name)
        except FileNotFoundError:
            return False
        return True


def _connect(bucket: Bucket, options: S3Options) -> S3Store:
    config: S3Config = {"virtual_hosted_style_request": options.virtual_hosted}
    if options.region is not None:
        config["region"] = options.region
    if options.endpoint is not None:
        config["endpoint"] = options.endpoint
    if options.access_key is not None and options.secret_key is not None:
        config["access_key_id"] = options.access_key.reveal()
        config["secret_access_key"] = options.secret_key.reveal()
    if options.session_token is not None:
        config["session_token"] = options.session_token.reveal()
    client: ClientConfig = {
        "allow_http": options.allow_http,
        "connect_timeout": timedelta(seconds=5),
        # For all of a request; the largest cut over a slow line takes its time.
        "timeout": timedelta(minutes=5),
        "user_agent": "milkrun",
    }
    return S3Store(
        bucket.name,
        prefix=bucket.prefix or None,
        config=config,
        client_options=client,
        retry_config=RETRY,
    )
