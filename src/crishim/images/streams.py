"""Reads a layer's blob as one stream of plain tar, and hashes it.

Supported are gzip (with several members, as pigz and eStargz write them), zstd and plain tar, recognised by their first bytes.
Memory use is limited to a few chunks, whatever the compression ratio. ISA-L reads gzip at more than twice zlib's speed; it
comes with the extra `images`, as zstd does before Python 3.14.
"""

import hashlib
import sys
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

from crishim.errors import DataLoss, Unavailable

try:
    from isal import isal_zlib as zlib
except ImportError:
    import zlib  # type: ignore[no-redef]  # the same face

CHUNK: Final = 1 << 16
"""Bytes that are read and unpacked at once. Buffers of a megabyte would be mapped anew each time: a quarter of the CPU time."""

_LONGEST_READ: Final = 8 << 20
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE: Final = range(0x184D2A50, 0x184D2A60)


class LayerStream:
    """The file object for `tarfile`: `read`, `tell`, and `seek`, forward only. For one thread, inside a `with`.

    Invalid compressed data, and a header of more than 8 MiB, raise `DataLoss`; without a module for zstd `Unavailable` is
    raised.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._hash = hashlib.sha256()
        self._pieces = _pieces(self._file)
        self._piece = memoryview(b"")
        self._position = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pieces.close()
        self._file.close()

    def read(self, size: int) -> bytes:
        """`size` bytes, or fewer at the end."""
        if not 0 <= size <= _LONGEST_READ:
            raise DataLoss(f"the layer has a header of {size} bytes")
        if size <= len(self._piece):
            return bytes(self._take(size))
        parts = [self._take(size)]
        missing = size - len(parts[0])
        while missing and self._more():
            parts.append(self._take(missing))
            missing -= len(parts[-1])
        return b"".join(parts)

    def some(self, size: int) -> memoryview:
        """1 to `size` bytes, without a copy; none at the end."""
        return self._take(size) if self._piece or self._more() else memoryview(b"")

    def tell(self) -> int:
        """Bytes read so far."""
        return self._position

    def seek(self, position: int) -> int:
        """Skip forward to `position`."""
        if position < self._position:
            raise DataLoss("the layer's headers are out of order")
        while self._position < position and (self._piece or self._more()):
            self._take(position - self._position)
        return self._position

    def digest(self) -> str:
        """The digest of the whole stream, which is read to its end first."""
        while self._more():
            pass
        return f"sha256:{self._hash.hexdigest()}"

    def _take(self, size: int) -> memoryview:
        taken, self._piece = self._piece[:size], self._piece[size:]
        self._position += len(taken)
        return taken

    def _more(self) -> bool:
        piece = next(self._pieces, b"")
        self._hash.update(piece)
        self._piece = memoryview(piece)
        return bool(piece)


def compression(path: Path) -> str:
    """What a layer is compressed by, `gzip` or `zstd`; empty for anything else."""
    with path.open("rb") as file:
        return _compression(file.read(4))


def _pieces(file: BinaryIO) -> Generator[bytes, None, None]:
    head = file.read(4)
    file.seek(0)
    return {"gzip": _gunzipped, "zstd": _unzstd, "": _plain}[_compression(head)](file)


def _compression(head: bytes) -> str:
    if head.startswith(_GZIP):
        return "gzip"
    return "zstd" if head == _ZSTD or int.from_bytes(head, "little") in _ZSTD_SKIPPABLE else ""


def _plain(file: BinaryIO) -> Generator[bytes, None, None]:
    while piece := file.read(CHUNK):
        yield piece


def _gunzipped(file: BinaryIO) -> Generator[bytes, None, None]:
    decoder = zlib.decompressobj(31)
    data, inside = b"", False
    try:
        while data := data or file.read(CHUNK):
            if not inside and not data.strip(b"\0"):
                data = b""
                continue
            inside = True
            if piece := decoder.decompress(data, CHUNK):
                yield piece
            data = decoder.unconsumed_tail
            if decoder.eof:
                data, inside, decoder = decoder.unused_data, False, zlib.decompressobj(31)
    except zlib.error as error:  # type: ignore[misc]  # an instance, as it is typed
        raise DataLoss(f"the layer's gzip is broken: {error}") from error
    if inside:
        raise DataLoss("the layer's gzip ends too early")


def _unzstd(file: BinaryIO) -> Generator[bytes, None, None]:
    """Concatenated frames, like a gzip's members; skippable frames are empty."""
    try:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError as error:
        raise Unavailable("the image has zstd layers, which need the extra: pip install 'crishim[images]'") from error
    decoder = zstd.ZstdDecompressor()
    data, inside = b"", False
    try:
        while not decoder.needs_input or (data := data or file.read(CHUNK)):
            inside = True
            if piece := decoder.decompress(data, CHUNK):
                yield piece
            data = b""
            if decoder.eof:
                data, inside, decoder = decoder.unused_data, False, zstd.ZstdDecompressor()
    except zstd.ZstdError as error:
        raise DataLoss(f"the layer's zstd is broken: {error}") from error
    if inside:
        raise DataLoss("the layer's zstd ends too early")
