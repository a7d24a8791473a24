"""A small S3 in memory that can ignore If-None-Match and answers what a test tells it to.

It has what the sink uses (put, get with ranges, head, list) and none of the checks of a real one.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.servers.s3 import S3Server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Headers and body in one packet: apart, the second waits for the client's delayed acknowledgement.
    wbufsize = 1 << 16
    store: ClassVar[Store]

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self._scripted():
            return
        name = self._name()
        with self.store.lock:
            taken = name in self.store.objects
            if taken and self.store.conditional and self.headers["If-None-Match"] == "*":
                self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")
                return
            self.store.objects[name] = body
        self._answer(200)

    def do_GET(self) -> None:
        if self._scripted():
            return
        if "list-type" in parse_qs(urlsplit(self.path).query):
            self._answer(200, self._listing())
            return
        data = self.store.objects.get(self._name())
        if data is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
        if span is None:
            self._answer(200, data)
            return
        start, end = int(span[1]), int(span[2])
        self._answer(206, data[start : end + 1], {"Content-Range": f"bytes {start}-{end}/{len(data)}"})

    def do_HEAD(self) -> None:
        if self._scripted():
            return
        data = self.store.objects.get(self._name())
        self._answer(404 if data is None else 200, data or b"")

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _name(self) -> str:
        return unquote(urlsplit(self.path).path).split("/", 2)[2]

    def _scripted(self) -> bool:
        request = f"{self.command} {unquote(self.path)}"
        with self.store.lock:
            self.store.requests.append(request)
            found = next((answer for answer in self.store.answers if re.search(answer[0], request)), None)
            if found is None:
                return False
            self.store.answers.remove(found)
        _, status, code = found
        self._answer(status, f"<Error><Code>{code}</Code></Error>".encode() if code else b"")
        return True

    def _listing(self) -> bytes:
        contents = "".join(
            f"<Contents><Key>{escape(name)}</Key><Size>{len(data)}</Size><ETag>x</ETag>"
            "<LastModified>2026-11-24T12:00:00.000Z</LastModified></Contents>"
            for name, data in self.store.objects.items()
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>".encode()

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("ETag", '"x"')
        self.send_header("Last-Modified", "Tue, 24 Nov 2026 12:00:00 GMT")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class Store:
    """What the server holds and does. `answers`: pattern over `METHOD /path`, status, code; each is used once."""

    def __init__(self, *, conditional: bool) -> None:
        self.conditional = conditional
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.answers: list[tuple[str, int, str]] = []
        self.lock = threading.RLock()

    @property
    def data(self) -> dict[str, bytes]:
        """The Parquet files by name."""
        return {name: data for name, data in self.objects.items() if name.endswith(".parquet")}


@contextmanager
def serving(store: Store) -> Iterator[S3Server]:
    """The store on a free port of this machine within the block."""
    handler = type("Handler", (_Handler,), {"store": store})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield S3Server(server.server_port)
        finally:
            server.shutdown()
            thread.join()
