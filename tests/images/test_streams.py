import gzip
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd

from crishim.errors import DataLoss, Unavailable
from crishim.images.streams import LayerStream

DATA = os.urandom(1_000_000) + bytes(5_000_000)


def zstd_of(data: bytes) -> bytes:
    """Two frames, and a skippable one before them."""
    skippable = (0x184D2A50).to_bytes(4, "little") + (3).to_bytes(4, "little") + b"abc"
    return skippable + zstd.compress(data[:1000]) + zstd.compress(data[1000:])


@pytest.mark.parametrize(
    "pack",
    [
        bytes,
        gzip.compress,
        lambda data: gzip.compress(data[:1000]) + gzip.compress(data[1000:]) + bytes(512),
        zstd_of,
    ],
    ids=["plain", "gzip", "members", "zstd"],
)
def test_every_packing_gives_the_same_stream(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """Plain tar, gzip of one and of several members, and zstd give the same bytes and the same digest."""
    blob = tmp_path / "blob"
    blob.write_bytes(pack(DATA))
    with LayerStream(blob) as stream:
        assert (DATA[:10], 10) == (stream.read(10), stream.tell())
        assert 2_000_000 == stream.seek(2_000_000)
        assert DATA[2_000_000:5_000_000] == stream.read(3_000_000)
        assert f"sha256:{hashlib.sha256(DATA).hexdigest()}" == stream.digest()


def test_the_end(tmp_path: Path) -> None:
    """A read over the end gives what there is, and a seek beyond it stops there."""
    blob = tmp_path / "blob"
    blob.write_bytes(b"abc")
    with LayerStream(blob) as stream:
        assert (b"abc", b"", 3) == (stream.read(100), stream.read(1), stream.seek(50))


def test_headers_that_ask_for_nonsense(tmp_path: Path) -> None:
    """Reading a negative or enormous amount at once, and going back, are `DataLoss`."""
    blob = tmp_path / "blob"
    blob.write_bytes(b"abc")
    with LayerStream(blob) as stream:
        stream.read(2)
        for nonsense in (lambda: stream.read(-1), lambda: stream.read(1 << 30), lambda: stream.seek(1)):
            with pytest.raises(DataLoss):
                nonsense()


def test_a_missing_zstd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zstd layer where nothing reads zstd says which extra does."""
    blob = tmp_path / "blob"
    blob.write_bytes(zstd_of(DATA))
    monkeypatch.setitem(sys.modules, "backports", None)
    with LayerStream(blob) as stream, pytest.raises(Unavailable, match=r"crishim\[images\]"):
        stream.read(1)


@pytest.mark.parametrize("cut", [3, 1000, 900_000])
def test_a_zstd_that_ends_too_early(tmp_path: Path, cut: int) -> None:
    """A blob that was cut off is broken, wherever that was."""
    blob = tmp_path / "blob"
    blob.write_bytes(zstd_of(DATA)[:-cut])
    with LayerStream(blob) as stream, pytest.raises(DataLoss, match="zstd ends too early"):
        stream.digest()
