"""A worker reads requests in large pieces, and finds in them what TorchServe's own reader finds."""

from __future__ import annotations

import socket
import struct
import sys
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ts.protocol import otf_message_handler as codec

from handlers.worker.receive import BufferedReader, patch_socket_reader


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "_retrieve_buffer", codec._retrieve_buffer)


def field(content: bytes) -> bytes:
    return struct.pack("!i", len(content)) + content


END = struct.pack("!i", -1)
texts = st.binary(max_size=20)
bodies = st.one_of(texts, st.sampled_from([bytes(range(256)) * 300, b"x" * 65536, b"x" * 200_000]))
requests = st.tuples(
    st.lists(st.tuples(texts, texts), max_size=3), st.lists(st.tuples(st.just(b"body"), bodies), max_size=2)
)


def message(batch: list[tuple[list[tuple[bytes, bytes]], list[tuple[bytes, bytes]]]]) -> bytes:
    """As the frontend's ModelRequestEncoder writes a batch (frontend/server, util/codec, v0.12.0)."""
    parts = [b"I"]
    for headers, parameters in batch:
        parts.append(field(b"an-id"))
        parts += [field(name) + field(value) for name, value in headers]
        parts.append(END)
        parts += [field(name) + field(b"image/jpeg") + field(value) for name, value in parameters]
        parts.append(END)
    return b"".join([*parts, END])


def received(messages: list[bytes], sizes: Iterator[int]) -> list[object]:
    """What retrieve_msg makes of them, all over one connection, sent in pieces of these sizes."""
    ours, theirs = socket.socketpair()

    def send() -> None:
        for content in messages:
            start = 0
            while start < len(content):
                start += ours.send(content[start : start + next(sizes, 100_000)])

    with ours, theirs:
        sender = threading.Thread(target=send)
        sender.start()
        found = [codec.retrieve_msg(theirs) for _ in messages]
        sender.join()
        return found


@given(
    batches=st.lists(st.lists(requests, max_size=3), min_size=1, max_size=3),
    sizes=st.lists(st.integers(1, 70_000), max_size=20),
)
def test_it_reads_what_torchserves_own_reader_reads(
    batches: list[list[tuple[list[tuple[bytes, bytes]], list[tuple[bytes, bytes]]]]], sizes: list[int]
) -> None:
    """Whole batches in a row, however the frontend's bytes arrive; the same types, too."""
    messages = [message(batch) for batch in batches]
    stock = codec._retrieve_buffer
    expected = received(messages, iter(sizes))
    codec._retrieve_buffer = BufferedReader()
    try:
        found = received(messages, iter(sizes))
    finally:
        codec._retrieve_buffer = stock
    assert found == expected
    assert repr(found) == repr(expected)


def test_it_ends_the_worker_with_the_frontend() -> None:
    """In the middle of a message or between two: otherwise it would live on and hold its memory."""
    for content in (b"", b"I\0\0"):
        ours, theirs = socket.socketpair()
        with theirs:
            ours.sendall(content)
            ours.close()
            codec._retrieve_buffer = BufferedReader()
            with pytest.raises(SystemExit) as ended:
                codec.retrieve_msg(theirs)
        assert ended.value.code == 0


def test_it_is_put_in_place_once() -> None:
    """A reader put on top of another would lose what that one has read ahead."""
    patch_socket_reader()
    first = codec._retrieve_buffer
    assert isinstance(first, BufferedReader)
    patch_socket_reader()
    assert codec._retrieve_buffer is first


def test_another_torchserve_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose codec is written differently, and a process that is no worker."""
    monkeypatch.delattr(codec, "_retrieve_buffer")
    patch_socket_reader()
    assert not hasattr(codec, "_retrieve_buffer")
    monkeypatch.delitem(sys.modules, codec.__name__)
    patch_socket_reader()
