import asyncio
import os
import pty
import termios

import pytest

from crishim.logs.descriptors import CHUNK, DescriptorReader, DescriptorWriter
from crishim.model.process import TerminalSize


async def read_all(reader: DescriptorReader) -> bytes:
    async with asyncio.timeout(30):
        whole = b""
        while data := await reader.read():
            whole += data
        return whole


async def test_bytes_travel_with_back_pressure() -> None:
    """More than a pipe holds goes through it unchanged, as fast as it is read; at the end every read is empty."""
    out, into = os.pipe()
    reader, writer = DescriptorReader(out), DescriptorWriter(into)
    sent = os.urandom(1_000_000)
    writing = asyncio.create_task(writer.write(sent))
    first = await reader.read()
    assert not writing.done()
    assert len(first) <= CHUNK
    rest = asyncio.create_task(read_all(reader))
    await writing
    writer.close()
    writer.close()
    assert sent == first + await rest
    assert b"" == await reader.read()
    reader.close()
    reader.close()
    assert b"" == await reader.read()


async def test_a_write_without_a_reader_is_a_broken_pipe() -> None:
    """Writing to a pipe without a reader, or after the close, raises BrokenPipeError, also to one who was waiting."""
    out, into = os.pipe()
    writer = DescriptorWriter(into)
    waiting = asyncio.create_task(writer.write(bytes(1_000_000)))
    await asyncio.sleep(0)
    os.close(out)
    with pytest.raises(BrokenPipeError):
        await waiting
    writer.close()
    with pytest.raises(BrokenPipeError):
        await writer.write(b"x")


async def test_writers_take_turns() -> None:
    """Two writers at once do not mix their pieces."""
    out, into = os.pipe()
    reader, writer = DescriptorReader(out), DescriptorWriter(into)
    writes = [asyncio.create_task(writer.write(letter * 200_000)) for letter in (b"a", b"b")]
    reading = asyncio.create_task(read_all(reader))
    await asyncio.gather(*writes)
    writer.close()
    assert b"a" * 200_000 + b"b" * 200_000 == await reading
    reader.close()


async def test_a_cancelled_wait_leaves_nothing() -> None:
    """A read or a write that was cancelled can be tried again."""
    out, into = os.pipe()
    reader, writer = DescriptorReader(out), DescriptorWriter(into)
    read = asyncio.create_task(reader.read())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await asyncio.shield(read)
    read.cancel()
    await asyncio.wait({read})
    await writer.write(b"x")
    assert await reader.read() == b"x"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await writer.write(bytes(1_000_000))
    writer.close()
    assert set(await read_all(reader)) == {0}
    reader.close()


async def test_a_pipe_that_others_hold_comes_to_an_end() -> None:
    """After the grace the pipe's content is still read, and then the read ends although other processes have the pipe open."""
    out, into = os.pipe()
    reader = DescriptorReader(out)
    os.write(into, b"before")
    assert await reader.read() == b"before"
    waiting = asyncio.create_task(reader.read())
    await asyncio.sleep(0)
    os.write(into, b"within")
    reader.end_within(0)
    reader.end_within(1000)
    assert await waiting == b"within"
    assert await read_all(reader) == b""
    os.write(into, b"too late")
    assert b"" == await reader.read()
    os.close(into)
    reader.close()


async def test_an_endless_writer_is_cut() -> None:
    """From a process that continues to write no more is read than was in the pipe at the end of the grace."""
    out, into = os.pipe()
    reader, writer = DescriptorReader(out), DescriptorWriter(into)

    async def write_forever() -> None:
        while True:
            await writer.write(bytes(100_000))

    writing = asyncio.create_task(write_forever())
    reader.end_within(0.01)
    assert len(await read_all(reader)) > 0
    writing.cancel()
    reader.close()
    writer.close()


async def test_a_closed_terminal_is_at_its_end() -> None:
    """A terminal's output ends when its last user is gone, all of it having been read."""
    master, slave = pty.openpty()
    reader = DescriptorReader(master)
    os.write(slave, b"bye")
    os.close(slave)
    assert await read_all(reader) == b"bye"
    reader.close()


@pytest.mark.parametrize(("line", "expected"), [(b"half", [b"half", b""]), (b"whole\n", [b"whole\n", b""])])
async def test_the_end_of_input_of_a_terminal_is_its_character(line: bytes, expected: list[bytes]) -> None:
    """In line mode a terminal's reader sees the end of the input, behind a half line too; in raw mode it sees nothing."""
    master, slave = pty.openpty()
    writer = DescriptorWriter(master)
    await writer.write(line)
    await writer.end_of_input()
    assert expected == [os.read(slave, 100) for _ in expected]
    modes = termios.tcgetattr(slave)
    modes[3] &= ~(termios.ICANON | termios.ECHO)
    termios.tcsetattr(slave, termios.TCSANOW, modes)
    await writer.end_of_input()
    await writer.write(b"x")
    assert os.read(slave, 100) == b"x"
    writer.close()
    await writer.end_of_input()
    os.close(slave)


async def test_the_end_of_input_closes_a_pipe() -> None:
    """A pipe's reader sees the end; a pipe has no size."""
    out, into = os.pipe()
    writer = DescriptorWriter(into)
    writer.resize(TerminalSize(80, 24))
    await writer.end_of_input()
    await writer.end_of_input()
    assert os.read(out, 1) == b""
    os.close(out)


async def test_a_terminal_has_a_size() -> None:
    """A size is taken as given, and at most what a terminal can have."""
    master, slave = pty.openpty()
    writer = DescriptorWriter(master)
    writer.resize(TerminalSize(120, 40))
    assert os.get_terminal_size(slave) == (120, 40)
    writer.resize(TerminalSize(1 << 20, 1 << 20))
    assert os.get_terminal_size(slave) == (65535, 65535)
    writer.close()
    writer.resize(TerminalSize(1, 1))
    os.close(slave)
