"""SPDY/3's header blocks: names and values, compressed with a preset dictionary.

A block, before compression, is a 32-bit count and then name and value of each header, each with its 32-bit length in
front; all numbers are big-endian (SPDY/3 draft, 2.6.10). Names are lower case, not empty and not repeated; several
values of one name are joined by NUL. Each direction of a connection is **one** zlib stream that is never finished: a
block ends with a sync flush, and every block of that direction must pass through the same `HeaderInflater` or
`HeaderDeflater`, in order, also those of refused streams.

The dictionary is built from the words that the draft publishes (2.6.10.1). Its Adler-32 is in the first
block of every zlib stream, so a single wrong byte would make every peer fail at the first frame.
"""

import struct
import zlib

from crishim.streaming.events import Headers, ProtocolError

FORBIDDEN = frozenset({"connection", "host", "keep-alive", "proxy-connection", "transfer-encoding"})
"""Names of HTTP/1.1 connections only; a peer that sends one is refused, as Go's reader does."""

_COUNTED_WORDS = (
    "options|head|post|put|delete|trace|accept|accept-charset|accept-encoding|accept-language|accept-ranges|age|allow|"
    "authorization|cache-control|connection|content-base|content-encoding|content-language|content-length|"
    "content-location|content-md5|content-range|content-type|date|etag|expect|expires|from|host|if-match|"
    "if-modified-since|if-none-match|if-range|if-unmodified-since|last-modified|location|max-forwards|pragma|"
    "proxy-authenticate|proxy-authorization|range|referer|retry-after|server|te|trailer|transfer-encoding|upgrade|"
    "user-agent|vary|via|warning|www-authenticate|method|get|status|200 OK|version|HTTP/1.1|url|public|set-cookie|"
    "keep-alive|origin"
)
_PLAIN_TEXT = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,"
    "text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)

DICTIONARY = b"".join(struct.pack(">I", len(word)) + word.encode() for word in _COUNTED_WORDS.split("|")) + _PLAIN_TEXT.encode()
"""1423 bytes, Adler-32 0xE3C6A7C2."""

# The headers that we compress are small, and the window need only span the dictionary: with 2 KiB, and the least memory for
# matches, a deflater takes 10 KiB instead of 260. The peer reads the window's size from the stream.
_DEFLATE_WINDOW_BITS = 11
_DEFLATE_MEMORY_LEVEL = 1


def encode_headers(headers: Headers) -> bytes:
    """The block before compression. Names must be lower case and unique; see `decode_headers`."""
    parts = [struct.pack(">I", len(headers))]
    for text in (text for pair in headers for text in pair):
        raw = text.encode("latin-1")
        parts += (struct.pack(">I", len(raw)), raw)
    return b"".join(parts)


def decode_headers(block: bytes) -> Headers:
    """The headers of an inflated block. Raises `ProtocolError` for a block that is cut short, has bytes left over, or invalid
    names.
    """
    count, offset = _number(block, 0)
    headers: dict[str, str] = {}
    for _ in range(count):
        name, offset = _text(block, offset)
        value, offset = _text(block, offset)
        if not name or name in headers or name in FORBIDDEN or any("A" <= letter <= "Z" for letter in name):
            raise ProtocolError(f"header name {name[:64]!r} is empty, repeated, forbidden or not in lower case")
        headers[name] = value
    if offset != len(block):
        raise ProtocolError(f"{len(block) - offset} bytes after the last header")
    return tuple(headers.items())


class HeaderDeflater:
    """One direction's compressor."""

    def __init__(self) -> None:
        self._zlib = zlib.compressobj(wbits=_DEFLATE_WINDOW_BITS, memLevel=_DEFLATE_MEMORY_LEVEL, zdict=DICTIONARY)

    def encode(self, headers: Headers) -> bytes:
        """The next block of this direction."""
        return self._zlib.compress(encode_headers(headers)) + self._zlib.flush(zlib.Z_SYNC_FLUSH)


class HeaderInflater:
    """One direction's decompressor. A block that inflates to more than `limit` bytes is refused as soon as it does."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._zlib = zlib.decompressobj(zdict=DICTIONARY)

    def decode(self, block: bytes) -> Headers:
        """The headers of this direction's next block. After a `ProtocolError` the inflater cannot be used again."""
        try:
            inflated = self._zlib.decompress(block, self._limit + 1)
        except zlib.error as error:
            raise ProtocolError(f"header block: {error}") from error
        if len(inflated) > self._limit:
            raise ProtocolError(f"header block inflates to more than {self._limit} bytes")
        if self._zlib.eof:
            raise ProtocolError("header block finishes the compressed stream")
        return decode_headers(inflated)


def _number(block: bytes, offset: int) -> tuple[int, int]:
    end = offset + 4
    if end > len(block):
        raise ProtocolError("header block is cut short")
    return int.from_bytes(block[offset:end], "big"), end


def _text(block: bytes, offset: int) -> tuple[str, int]:
    length, offset = _number(block, offset)
    end = offset + length
    if end > len(block):
        raise ProtocolError("header block is cut short")
    return block[offset:end].decode("latin-1"), end
