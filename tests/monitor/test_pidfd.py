"""Waiting for processes, and for what they say."""

import asyncio
import os
import subprocess
from pathlib import Path

from crishim.monitor.pidfd import ended, is_running, read_pid, read_pipe


def cat() -> "subprocess.Popen[bytes]":
    """A process that ends with its input."""
    return subprocess.Popen(["cat"], stdin=subprocess.PIPE)


async def test_an_end_is_seen() -> None:
    """The wait lasts as long as the process, also for one that nobody has collected; of none it is over at once."""
    with cat() as process:
        waiting = asyncio.ensure_future(ended(process.pid))
        await asyncio.sleep(0)
        assert not waiting.done()
        assert process.stdin is not None
        process.stdin.close()
        await asyncio.wait_for(waiting, 30)
        assert 0 == process.wait()
    await asyncio.wait_for(ended(process.pid), 30)


def test_pid_files(tmp_path: Path) -> None:
    """A pid file has a number; what is missing or broken is no process."""
    (tmp_path / "pid").write_text("12\n")
    (tmp_path / "bad").write_text("x")
    assert [12, 0, 0] == [read_pid(tmp_path / name) for name in ("pid", "bad", "none")]


def test_a_pid_that_is_somebody_else_s() -> None:
    """A process counts only if its command line holds the mark."""
    assert is_running(os.getpid(), "pytest")
    assert not is_running(os.getpid(), "a mark that nobody has")
    assert not is_running(0, "pytest")


async def test_what_a_pipe_says() -> None:
    """A line, or all of it to the end."""
    for line, expected in ((True, b"one\n"), (False, b"one\ntwo")):
        reader, writer = os.pipe()
        os.write(writer, b"one\ntwo")
        os.close(writer)
        assert expected == await read_pipe(reader, line=line)
