"""The byte stream, cut anywhere: the deliveries are those that were sent, and all other frames reach pika."""

from __future__ import annotations

import itertools

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika.exceptions import InvalidFrameError
from pika.frame import Body, Header, Heartbeat, Method
from pika.spec import Basic

from milkrun.connectors.rabbitmq.wire import Delivery, Frames

MAX_FRAME = 4096


def frames_of(delivery: Delivery, *, piece: int = MAX_FRAME - 8) -> list[bytes]:
    """The frames in which a broker sends a delivery, made by pika."""
    method = Basic.Deliver(
        "consumer",
        delivery.tag,
        delivery.redelivered,
        delivery.exchange.decode(),
        delivery.routing_key.decode(),
    )
    body = delivery.body
    header = Header(delivery.channel, len(body), pika.BasicProperties(message_id=f"{delivery.tag}")).marshal()
    pieces = [body[start : start + piece] for start in range(0, len(body), piece)]
    return [
        Method(delivery.channel, method).marshal(),
        header,
        *(Body(delivery.channel, each).marshal() for each in pieces),
    ]


def delivery(channel: int, tag: int, body: bytes, exchange: bytes = b"shop") -> Delivery:
    properties = b"".join(pika.BasicProperties(message_id=f"{tag}").encode())
    return Delivery(channel, tag, tag % 3 == 0, exchange, b"order.placed", properties, body)


class Read:
    """Feeds a stream in pieces, and keeps what comes out, in order."""

    def __init__(self, max_frame: int = MAX_FRAME) -> None:
        self.come: list[Delivery | bytes] = []
        self.frames = Frames(self.come.extend, self.come.append, max_frame)

    def feed(self, stream: bytes, cuts: list[int]) -> list[Delivery | bytes]:
        places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
        for start, end in itertools.pairwise(places):
            self.frames.feed(stream[start:end])
        return self.come


BODIES = st.binary(max_size=30) | st.integers(1, 3 * MAX_FRAME).map(bytes)


@given(st.lists(BODIES, min_size=1, max_size=6), st.lists(st.integers(0, 40_000), max_size=12))
def test_any_cut(bodies: list[bytes], cuts: list[int]) -> None:
    sent: list[Delivery | bytes] = []
    stream = b""
    for tag, body in enumerate(bodies, 1):
        item = delivery(1, tag, body)
        sent += [item, Heartbeat().marshal()]
        stream += b"".join(frames_of(item)) + Heartbeat().marshal()
    assert Read().feed(stream, cuts) == sent


@given(st.lists(st.integers(0, 3_000), max_size=5), st.randoms(use_true_random=False))
def test_channels_interleaved(cuts: list[int], random: object) -> None:
    # Frames of one content keep their order, and may alternate with those of other channels.
    one, two = delivery(1, 1, b"a" * 50), delivery(2, 1, b"b" * 50)
    first, second = frames_of(one, piece=20), frames_of(two, piece=20)
    stream = b"".join(itertools.chain(*itertools.zip_longest(first, second, fillvalue=b"")))
    assert Read().feed(stream, cuts) == [one, two]


def test_byte_by_byte() -> None:
    item = delivery(7, 2, b"body", exchange=b"")
    stream = b"".join(frames_of(item))
    assert Read().feed(stream, list(range(len(stream)))) == [item]


def test_a_frame_that_does_not_end() -> None:
    stream = bytearray(b"".join(frames_of(delivery(1, 1, b"body"))))
    stream[-1] = 0
    with pytest.raises(InvalidFrameError):
        Read().feed(bytes(stream), [])


@pytest.mark.parametrize("which", [0, 1])
def test_a_method_or_header_that_does_not_end(which: int) -> None:
    frames = [bytearray(frame) for frame in frames_of(delivery(1, 1, b"body"))]
    frames[which][-1] = 0
    with pytest.raises(InvalidFrameError):
        Read().feed(b"".join(frames), [])


def test_a_frame_larger_than_agreed() -> None:
    with pytest.raises(InvalidFrameError, match="agreed"):
        Read().feed(b"\x03\x00\x01\xff\xff\xff\xff" + bytes(20), [])


def test_a_body_longer_than_its_header_says() -> None:
    method, _, body = frames_of(delivery(1, 1, b"four"))
    header = Header(1, 3, pika.BasicProperties()).marshal()
    with pytest.raises(InvalidFrameError, match="longer"):
        Read().feed(method + header + body, [])


def test_content_of_no_delivery_is_pikas() -> None:
    stray = Body(3, b"of nobody").marshal()
    assert Read().feed(stray, []) == [stray]
