"""The event splitter: any chunking of the bytes gives the same events."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.errors import UpstreamProtocolError
from shared.gateway.sse import EventSplitter, event_data

STREAMS = st.lists(
    st.sampled_from(
        [
            b'data: {"a":1}\n\n',
            b"data: [DONE]\n\n",
            b": ping\n\n",
            b"event: x\ndata: 1\ndata: 2\n\n",
            b"\n",
            b"data:nospace\n\n",
            "data: é漢\n\n".encode(),
        ]
    ),
    max_size=8,
).map(b"".join)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    splitter = EventSplitter(10_000)
    events: list[bytes] = []
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in itertools.pairwise(edges):
        if end > start:
            events += splitter.feed(data[start:end])
    return [*events, splitter.finish()]


@given(STREAMS, st.lists(st.integers(0, 500)), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_any_chunking_gives_the_same_events(
    stream: bytes, cuts: list[int], line_end: bytes
) -> None:
    """Cutting the stream anywhere, with any line end, changes no event."""
    whole = split(stream, [])
    assert split(stream.replace(b"\n", line_end), cuts) == whole


@given(STREAMS, st.lists(st.integers(0, 500)))
def test_a_byte_order_mark_is_dropped(stream: bytes, cuts: list[int]) -> None:
    """A leading byte order mark, even cut in the middle, is not part of the first event."""
    assert split(b"\xef\xbb\xbf" + stream, cuts) == split(stream, [])


def test_events_are_normalised() -> None:
    """Each event ends with one blank line, and an unfinished one stays until `finish`."""
    splitter = EventSplitter(100)
    assert splitter.feed(b"\n\ndata: 1\r\n\r\n\ndata: 2\n\ndata: 3") == [
        b"data: 1\n\n",
        b"data: 2\n\n",
    ]
    assert splitter.finish() == b"data: 3"


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_an_event_over_the_limit_is_refused(chunk: int) -> None:
    """An event without end does not grow memory past the limit, however it arrives."""
    splitter = EventSplitter(100)
    data = b"data: " + b"x" * 200 + b"\n\n"

    def feed_all() -> None:
        for start in range(0, len(data), chunk):
            splitter.feed(data[start : start + chunk])

    with pytest.raises(UpstreamProtocolError):
        feed_all()


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: 1\n\n", b"1"),
        (b"data:1\n\n", b"1"),
        (b"event: a\ndata: 1\ndata: 2\n\n", b"1\n2"),
        (b": ping\n\n", None),
        (b"data\n\n", b""),
        (b"database: 1\n\n", None),
    ],
)
def test_event_data(event: bytes, data: bytes | None) -> None:
    """The data lines of an event are joined; comments and other fields have none."""
    assert event_data(event) == data
