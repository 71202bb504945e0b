import io
import tarfile as tar
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crishim.images.headers import Entry

USED = ("name", "mode", "uid", "gid", "size", "mtime", "type", "linkname")
NAMES = st.text(st.characters(min_codepoint=1, max_codepoint=0x2FF), min_size=1, max_size=120)


def read(kind: type[tar.TarInfo], header: bytes) -> tuple[Any, ...]:
    """What of a header is used, or the name of the error."""
    try:
        entry = kind.frombuf(header, "utf-8", "surrogateescape")
    except tar.TarError as error:
        return (type(error).__name__,)
    return tuple(getattr(entry, name) for name in USED)


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    """The last block that tarfile writes for an entry, and sometimes a damaged or re-summed one."""
    entry = tar.TarInfo(draw(NAMES))
    entry.type = draw(st.sampled_from([b"0", b"\0", b"1", b"2", b"3", b"5", b"6", b"7", b"L", b"x", b"S"]))
    entry.linkname = draw(NAMES)
    entry.mode, entry.uid = draw(st.integers(0, 0o7777)), draw(st.integers(0, 1 << 40))
    entry.size, entry.mtime = draw(st.integers(0, 1 << 40)), draw(st.integers(0, 1 << 40))
    header = bytearray(entry.tobuf(draw(st.sampled_from([tar.USTAR_FORMAT, tar.GNU_FORMAT, tar.PAX_FORMAT])))[-512:])
    if draw(st.booleans()):
        for place, value in draw(
            st.dictionaries(st.integers(0, 328) | st.integers(345, 499), st.integers(0, 255), max_size=4)
        ).items():
            header[place] = value
        if draw(st.booleans()):
            total = 256 + sum(header[:148]) + sum(header[156:])
            header[148:156] = b"%06o\0 " % total
    return bytes(header)


@st.composite
def possible(draw: st.DrawFn) -> bytes:
    """A header, where tarfile can write one at all."""
    try:
        return draw(headers())
    except ValueError:
        return bytes(512)


@given(possible())
def test_a_header_is_what_tarfile_reads(header: bytes) -> None:
    """Every field that unpacking uses, and every error, is that of tarfile."""
    assert read(tar.TarInfo, header) == read(Entry, header)


@pytest.mark.parametrize("number", [b"0000_11", b"     11", b"      9", b"\0      ", b"\x80      ", b"11\0 99 ", b"-000011"])
def test_odd_numbers(number: bytes) -> None:
    """Numbers in any form are what tarfile makes of them."""
    header = bytearray(tar.TarInfo("f").tobuf())
    header[108:115] = number
    header[148:156] = b"%06o\0 " % (256 + sum(header[:148]) + sum(header[156:]))
    assert read(tar.TarInfo, bytes(header)) == read(Entry, bytes(header))


def test_plain_headers_do_without_tarfile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files, folders and links with octal numbers are not read by tarfile."""
    buffer = io.BytesIO()
    with tar.TarFile(fileobj=buffer, mode="w", format=tar.USTAR_FORMAT) as archive:
        for name, kind in (("d", tar.DIRTYPE), ("d/f", tar.REGTYPE), ("d/s", tar.SYMTYPE), (f"{'p' * 99}/h", tar.LNKTYPE)):
            entry = tar.TarInfo(name)
            entry.type, entry.linkname = kind, "to" if kind in {tar.SYMTYPE, tar.LNKTYPE} else ""
            archive.addfile(entry)
    monkeypatch.setattr(tar.TarInfo, "frombuf", None)
    blocks = [buffer.getvalue()[number * 512 :][:512] for number in range(4)]
    assert ["d", "d/f", "d/s", f"{'p' * 99}/h"] == [read(Entry, block)[0] for block in blocks]
