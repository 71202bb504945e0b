import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crishim.streaming.events import Headers, ProtocolError
from crishim.streaming.spdy_headers import (
    DICTIONARY,
    FORBIDDEN,
    HeaderDeflater,
    HeaderInflater,
    decode_headers,
    encode_headers,
)

LIMIT = 16 * 1024

latin1 = st.text(st.characters(max_codepoint=255), max_size=40)
names = latin1.filter(lambda name: name and not any("A" <= letter <= "Z" for letter in name) and name not in FORBIDDEN)
header_lists = st.dictionaries(names, latin1, max_size=8).map(lambda headers: tuple(headers.items()))


def deflate(block: bytes, *, mode: int = zlib.Z_SYNC_FLUSH) -> bytes:
    compressor = zlib.compressobj(zdict=DICTIONARY)
    return compressor.compress(block) + compressor.flush(mode)


def word(text: bytes) -> bytes:
    return len(text).to_bytes(4, "big") + text


def test_the_dictionary_is_the_published_one() -> None:
    """The dictionary has 1423 bytes, the draft's first and last words, and the Adler-32 that peers name."""
    expected = (1423, 0xE3C6A7C2)
    assert expected == (len(DICTIONARY), zlib.adler32(DICTIONARY))
    assert DICTIONARY.startswith(b"\x00\x00\x00\x07options\x00\x00\x00\x04head")
    assert DICTIONARY.endswith(b"charset=iso-8859-1,utf-,*,enq=0.")


def test_a_block_is_a_count_and_lengths_with_words() -> None:
    """Count, name and value have 32-bit big-endian lengths in front."""
    expected = b"\x00\x00\x00\x01\x00\x00\x00\x0astreamtype\x00\x00\x00\x05error"
    assert expected == encode_headers((("streamtype", "error"),))


def test_the_first_block_names_the_dictionary() -> None:
    """The compressed stream begins with a zlib header whose dictionary id is the dictionary's Adler-32."""
    expected = b"\xe3\xc6\xa7\xc2"
    assert expected == HeaderDeflater().encode(())[2:6]


def test_blocks_of_go_are_read() -> None:
    """Go's first block of an exec, and its second in the same stream, say error and stdout."""
    inflater = HeaderInflater(LIMIT)
    first = bytes.fromhex("78f9e3c6a7c262606060 04a7b392a2d4c45c6851c29a0a0a680000 0000ffff".replace(" ", ""))
    second = bytes.fromhex("c22ac5565c92925f5a02000000ffff")
    expected = [(("streamtype", "error"),), (("streamtype", "stdout"),)]
    assert expected == [inflater.decode(first), inflater.decode(second)]


@given(st.lists(header_lists, max_size=4))
def test_decoding_undoes_encoding(blocks: list[Headers]) -> None:
    """Every block of a direction comes out as it went in, in order."""
    deflater, inflater = HeaderDeflater(), HeaderInflater(LIMIT)
    assert blocks == [inflater.decode(deflater.encode(headers)) for headers in blocks]


@given(header_lists)
def test_any_window_of_a_peer_is_read(headers: Headers) -> None:
    """A peer may compress with zlib's whole window."""
    assert headers == HeaderInflater(LIMIT).decode(deflate(encode_headers(headers)))


def test_several_values_stand_in_one_text() -> None:
    """Values joined by NUL are passed on unchanged."""
    block = b"\x00\x00\x00\x01" + word(b"x") + word(b"a\x00b")
    expected = (("x", "a\x00b"),)
    assert expected == decode_headers(block)


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x00\x00\x00\x01", id="fewer headers than counted"),
        pytest.param(b"\xff\xff\xff\xff", id="a count that cannot be"),
        pytest.param(b"\x00\x00\x00\x01\xff\xff\xff\xffx", id="a length that cannot be"),
        pytest.param(b"\x00\x00\x00\x01" + word(b"x") + b"\x00\x00", id="a value's length cut short"),
        pytest.param(b"\x00\x00\x00\x01" + word(b"x") + word(b"yy")[:-1], id="a value cut short"),
        pytest.param(b"\x00\x00\x00\x00x", id="bytes left over"),
        pytest.param(b"\x00\x00\x00\x01" + word(b"") + word(b"y"), id="an empty name"),
        pytest.param(b"\x00\x00\x00\x01" + word(b"StreamType") + word(b"y"), id="upper case"),
        pytest.param(b"\x00\x00\x00\x02" + 2 * (word(b"x") + word(b"y")), id="a name twice"),
        pytest.param(b"\x00\x00\x00\x01" + word(b"transfer-encoding") + word(b"y"), id="a name of HTTP/1.1"),
    ],
)
def test_malformed_blocks_are_refused(block: bytes) -> None:
    """A block that is cut short, too long, or has bad names is a protocol error."""
    with pytest.raises(ProtocolError):
        HeaderInflater(LIMIT).decode(deflate(block))


def test_a_header_bomb_is_refused_at_the_bound() -> None:
    """A block that inflates to 100 MB is refused without inflating more than the bound."""
    bomb = deflate(b"\x00\x00\x00\x01" + word(b"x") + word(bytes(100_000_000)))
    inflater = HeaderInflater(LIMIT)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="more than 16384 bytes"):
            inflater.decode(bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < len(bomb) + 8 * LIMIT


def test_a_block_of_exactly_the_bound_is_read() -> None:
    """The bound itself is allowed, one byte more is not."""
    value = "v" * (LIMIT - 4 - 4 - 1 - 4)
    assert (("x", value),) == HeaderInflater(LIMIT).decode(deflate(encode_headers((("x", value),))))
    with pytest.raises(ProtocolError):
        HeaderInflater(LIMIT).decode(deflate(encode_headers((("x", value + "v"),))))


def test_a_finished_stream_is_refused() -> None:
    """The compressed stream of a direction never ends."""
    with pytest.raises(ProtocolError, match="finishes"):
        HeaderInflater(LIMIT).decode(deflate(encode_headers(()), mode=zlib.Z_FINISH))


@pytest.mark.parametrize("block", [b"", b"garbage", zlib.compress(encode_headers(()))])
def test_blocks_without_the_dictionary_are_refused(block: bytes) -> None:
    """What is not compressed with the dictionary is a protocol error."""
    with pytest.raises(ProtocolError):
        HeaderInflater(LIMIT).decode(block)
