# ruff: noqa: ASYNC110, ASYNC240 - files and other processes have no events to wait for, and nothing else runs on these loops
import asyncio
import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest

from crishim.errors import CrishimError, ResourceExhausted
from crishim.interfaces.capabilities import ProcessIO
from crishim.logs.lines import parse
from crishim.logs.pieces import MAX_CONTENT
from crishim.logs.stdio import ContainerStdio, ForeignStreams
from crishim.model.container import ContainerMetadata, ContainerSpec
from crishim.model.process import TerminalSize
from crishim.model.sandbox import PodSandboxConfig, PodSandboxMetadata, SandboxSpec
from crishim.model.values import ContainerId, ImageId, SandboxId
from crishim.testing.doubles import FakeClock

SPEC = ContainerSpec(
    id=ContainerId("c"),
    sandbox=SandboxSpec(id=SandboxId("s"), config=PodSandboxConfig(metadata=PodSandboxMetadata("pod", "default", "uid"))),
    metadata=ContainerMetadata("main"),
    image_id=ImageId("image"),
    argv=("true",),
)


class Running:
    """A process on a container's streams."""

    def __init__(self, stdio: ContainerStdio, spec: ContainerSpec, script: str) -> None:
        self.stdio = stdio
        self._spec = spec
        ends = stdio.open()
        self.process = subprocess.Popen(["sh", "-c", script], stdin=ends.stdin, stdout=ends.stdout, stderr=ends.stderr)
        stdio.started()

    async def end(self, grace: float = 30.0) -> None:
        """Wait for the process, and for its output."""
        async with asyncio.timeout(60):
            while self.process.poll() is None:
                await asyncio.sleep(0.005)
            await self.stdio.drained(grace)

    def log(self) -> list[tuple[str, bool, bytes]]:
        """What is in the log, without times."""
        lines = map(parse, Path(self._spec.log_path).read_bytes().splitlines(keepends=True))
        return [(line.stream, line.partial, line.content) for line in lines]

    async def logged(self, content: bytes) -> None:
        """Return when the log has a line of this content."""
        async with asyncio.timeout(60):
            while all(line[2] != content for line in self.log()):
                await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def running(folder: Path, script: str, *, backlog: int = 1 << 20, **requested: object) -> AsyncIterator[Running]:
    spec = attrs.evolve(SPEC, **{"log_path": str(folder / "0.log"), **requested})  # type: ignore[arg-type]
    before = len(list(Path("/proc/self/fd").iterdir()))
    stdio = ContainerStdio(spec, FakeClock(), backlog=backlog)
    run = Running(stdio, spec, script)
    try:
        yield run
        assert run.process.wait(60) is not None
    finally:
        run.process.kill()
        run.process.wait()
        await stdio.close()
        await stdio.close()
    assert before == len(list(Path("/proc/self/fd").iterdir()))


class Client:
    """An attached client: its output, its input, and whether it reads."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.typed: asyncio.Queue[bytes] = asyncio.Queue()
        self.reads = asyncio.Event()
        self.reads.set()
        self.changed = asyncio.Event()

    async def read(self) -> bytes:
        return await self.typed.get()

    async def write(self, data: bytes) -> None:
        await self.reads.wait()
        self.got += data
        self.changed.set()

    async def has(self, what: bytes) -> None:
        async with asyncio.timeout(60):
            while what not in self.got:
                self.changed.clear()
                await self.changed.wait()


class Gone(Client):
    async def read(self) -> bytes:
        raise ConnectionResetError

    async def write(self, data: bytes) -> None:
        raise BrokenPipeError


async def test_both_streams_reach_the_log(tmp_path: Path) -> None:
    """Each stream's lines are logged under its name and the clock's time, with a part where one ends without newline."""
    async with running(tmp_path, "echo out; echo err >&2; printf 'a\\n\\nb'; printf c >&2") as run:
        await run.end()
        log = run.log()
        assert [("stdout", False, b"out"), ("stdout", False, b"a"), ("stdout", False, b""), ("stdout", True, b"b")] == [
            line for line in log if line[0] == "stdout"
        ]
        assert [("stderr", False, b"err"), ("stderr", True, b"c")] == [line for line in log if line[0] == "stderr"]
        assert (tmp_path / "0.log").read_bytes().startswith(b"2001-09-09T01:46:40.000000000Z std")


async def test_a_line_split_over_writes_is_one(tmp_path: Path) -> None:
    """A line that came in pieces is one line, also while the other stream writes in between."""
    async with running(tmp_path, "printf a; echo x >&2; read go; printf b; echo y >&2; echo", stdin=True) as run:
        await run.logged(b"x")
        client = Client()
        attached = asyncio.create_task(run.stdio.attach(ProcessIO(stdin=client)))
        client.typed.put_nowait(b"go\n")
        await run.end()
        await attached
        assert [("stdout", False, b"ab")] == [line for line in run.log() if line[0] == "stdout"]


async def test_without_stdin_a_container_reads_nothing(tmp_path: Path) -> None:
    """A container without stdin reads EOF at once, and no attached client reaches it."""
    async with running(tmp_path, "cat; echo end") as run:
        client = Client()
        client.typed.put_nowait(b"not for you")
        attached = asyncio.create_task(run.stdio.attach(ProcessIO(stdin=client)))
        await run.end()
        await attached
        assert client.typed.qsize() == 1
        assert [("stdout", False, b"end")] == run.log()


async def test_a_hundred_megabytes_without_a_newline(tmp_path: Path) -> None:
    """A line of 100 MB is logged in parts of 16 KiB, and costs no memory to speak of."""
    async with running(tmp_path, "head -c 100000000 /dev/zero") as run:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        await run.end()
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000
        size = 0
        with (tmp_path / "0.log").open("rb") as file:
            for number, raw in enumerate(file):
                line = parse(raw)
                size += len(line.content)
                assert line.partial
                assert len(line.content) == min(MAX_CONTENT, 100_000_000 - number * MAX_CONTENT)
        assert size == 100_000_000


async def test_a_log_is_reopened_without_loss(tmp_path: Path) -> None:
    """Through many rotations every line lands in exactly one file, in order."""
    async with running(tmp_path, "i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done") as run:
        files: list[Path] = []
        while run.process.poll() is None:
            await asyncio.sleep(0.002)
            files.append((tmp_path / "0.log").rename(tmp_path / f"{len(files):04}.log"))
            run.stdio.reopen()
            assert (tmp_path / "0.log").exists()
        await run.end()
        whole = b"".join(file.read_bytes() for file in [*files, tmp_path / "0.log"])
        assert list(range(3000)) == [int(parse(raw).content) for raw in whole.splitlines()]


async def test_a_container_without_a_log_runs(tmp_path: Path) -> None:
    """Without a log path output goes to attached clients alone, and a reopen does nothing."""
    async with running(tmp_path, "read go; echo $go", log_path="", stdin=True) as run:
        client = Client()
        client.typed.put_nowait(b"hello\n")
        attached = asyncio.create_task(run.stdio.attach(ProcessIO(stdin=client, stdout=client)))
        run.stdio.reopen()
        await run.end()
        await attached
        assert client.got == b"hello\n"
        assert [] == list(tmp_path.iterdir())


async def test_clients_attach_beside_each_other(tmp_path: Path) -> None:
    """Each client gets the streams it wants from its coming to its going, and the container hears all of them."""
    async with running(
        tmp_path, "while read line; do echo out $line; echo err $line >&2; done", stdin=True, stdin_once=False
    ) as run:
        first, second, third = Client(), Client(), Client()
        one = asyncio.create_task(run.stdio.attach(ProcessIO(stdin=first, stdout=first, stderr=first)))
        first.typed.put_nowait(b"1\n")
        await first.has(b"err 1\n")
        two = asyncio.create_task(run.stdio.attach(ProcessIO(stdin=second, stdout=second)))
        three = asyncio.create_task(run.stdio.attach(ProcessIO(stderr=third)))
        second.typed.put_nowait(b"2\n")
        await asyncio.gather(first.has(b"err 2\n"), first.has(b"out 2\n"), second.has(b"out 2\n"), third.has(b"err 2\n"))
        two.cancel()
        await asyncio.wait({two})
        first.typed.put_nowait(b"")
        run.process.terminate()
        await run.end()
        await asyncio.gather(one, three)
        assert (b"out 2\n", b"err 2\n") == (bytes(second.got), bytes(third.got))


@pytest.mark.parametrize("leaves", ["the end of its input", "cancelled"])
async def test_stdin_once_ends_with_the_first_client(tmp_path: Path, leaves: str) -> None:
    """With stdin_once the container's input ends when the first client's does, or when that client goes."""
    async with running(tmp_path, "cat", stdin=True, stdin_once=True) as run:
        client = Client()
        client.typed.put_nowait(b"all\n")
        attached = asyncio.create_task(run.stdio.attach(ProcessIO(stdin=client, stdout=client)))
        await client.has(b"all\n")
        if leaves == "cancelled":
            attached.cancel()
        else:
            client.typed.put_nowait(b"")
        await run.end()
        await asyncio.wait({attached})
        assert [("stdout", False, b"all")] == run.log()


async def test_stdin_stays_open_between_clients(tmp_path: Path) -> None:
    """Without stdin_once the container's input outlives its clients, however they went."""
    async with running(tmp_path, "read a; read b; echo $a$b", stdin=True) as run:
        for typed in (b"1\n", b"2\n"):
            client = Client()
            client.typed.put_nowait(typed)
            client.typed.put_nowait(b"")
            attached = asyncio.create_task(run.stdio.attach(ProcessIO(stdin=client)))
            async with asyncio.timeout(60):
                while client.typed.qsize():
                    await asyncio.sleep(0.005)
            attached.cancel()
            await asyncio.wait({attached})
        await run.end()
        assert [("stdout", False, b"12")] == run.log()


async def test_a_slow_client_is_dropped_without_delay(tmp_path: Path) -> None:
    """A client that does not read is dropped; the container, its log and the other clients continue."""
    async with running(tmp_path, "read go; head -c 1000000 /dev/zero | tr '\\0' '\\n'", stdin=True, backlog=200_000) as run:
        slow, quick = Client(), Client()
        slow.reads.clear()
        dropped = asyncio.create_task(run.stdio.attach(ProcessIO(stdout=slow)))
        attached = asyncio.create_task(run.stdio.attach(ProcessIO(stdin=quick, stdout=quick)))
        quick.typed.put_nowait(b"go\n")
        await run.end()
        await asyncio.gather(dropped, attached)
        assert (0, 1_000_000) == (len(slow.got), len(quick.got))
        assert (tmp_path / "0.log").read_bytes().count(b"\n") == 1_000_000


async def test_broken_clients_affect_no_other(tmp_path: Path) -> None:
    """A client whose connection breaks is dropped at once, and the log has a line about its input."""
    async with running(tmp_path, "read go; echo 1; read go; echo 2", stdin=True) as run:
        gone, client = Gone(), Client()
        broken = asyncio.create_task(run.stdio.attach(ProcessIO(stdin=gone, stdout=gone)))
        attached = asyncio.create_task(run.stdio.attach(ProcessIO(stdin=client, stdout=client)))
        client.typed.put_nowait(b"\n")
        async with asyncio.timeout(60):
            await broken
        client.typed.put_nowait(b"\n")
        await run.end()
        await attached
        assert client.got == b"1\n2\n"


async def test_a_client_that_comes_too_late_leaves_at_once(tmp_path: Path) -> None:
    """An attach to a container that has ended returns without a word."""
    async with running(tmp_path, "echo hi") as run:
        await run.end()
        late = Client()
        await run.stdio.attach(ProcessIO(stdin=late, stdout=late))
        assert late.got == b""


async def test_a_terminal_is_one_stream(tmp_path: Path) -> None:
    """With tty all output is stdout, the terminal's carriage returns stay, and clients set its size and type into it."""
    script = "stty -echo; echo err >&2; read line; stty size; test -t 0 && echo $line"

    async def sizes() -> AsyncIterator[TerminalSize]:
        yield TerminalSize(120, 40)

    async with running(tmp_path, script, tty=True, stdin=True) as run:
        client = Client()
        attached = asyncio.create_task(run.stdio.attach(ProcessIO(stdin=client, stdout=client, sizes=sizes())))
        await run.logged(b"err\r")
        client.typed.put_nowait(b"hello\n")
        await run.end()
        await attached
        assert [("stdout", False, b"err\r"), ("stdout", False, b"40 120\r"), ("stdout", False, b"hello\r")] == run.log()


async def test_grandchildren_that_keep_the_pipes_do_not_keep_us(tmp_path: Path) -> None:
    """When the process has ended, others with its pipes are awaited for the grace only; the output so far is in the log."""
    async with running(tmp_path, "sleep 1000 & echo $!; exit 0", stdin=True) as run:
        client = Client()
        attached = asyncio.create_task(run.stdio.attach(ProcessIO(stdin=client, stdout=client)))
        await run.end(grace=0.01)
        await attached
        ((_, _, pid),) = run.log()
        os.kill(int(pid), 9)
        assert client.got == pid + b"\n"


async def test_waiting_for_the_drain_may_be_cancelled(tmp_path: Path) -> None:
    """Any number may wait for the last output, and a cancelled wait does not affect the others."""
    async with running(tmp_path, "read go; echo end", stdin=True) as run:
        waits = [asyncio.create_task(run.stdio.drained(1000.0)) for _ in range(3)]
        await asyncio.sleep(0)
        waits[0].cancel()
        client = Client()
        client.typed.put_nowait(b"\n")
        attached = asyncio.create_task(run.stdio.attach(ProcessIO(stdin=client)))
        await run.end()
        await asyncio.gather(attached, *waits[1:])
        assert [("stdout", False, b"end")] == run.log()


@pytest.mark.parametrize("tty", [False, True])
async def test_a_failed_open_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, tty: bool) -> None:
    """When descriptors run out, ResourceExhausted is raised and those opened so far are closed."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    pipes = [os.pipe()]

    def scarce(*_: object) -> tuple[int, int]:
        if not pipes:
            raise OSError(24, "Too many open files")
        return pipes.pop()

    monkeypatch.setattr(os, "pipe", scarce)
    if tty:
        for end in pipes.pop():
            os.close(end)
        monkeypatch.setattr(os, "dup", scarce)
    stdio = ContainerStdio(attrs.evolve(SPEC, stdin=True, tty=tty, log_path=str(tmp_path / "0.log")), FakeClock())
    with pytest.raises(ResourceExhausted, match="Too many open files"):
        stdio.open()
    await stdio.close()
    assert before == len(list(Path("/proc/self/fd").iterdir()))


_FULL = """
import asyncio, subprocess, sys
import attrs
from crishim.logs.stdio import ContainerStdio, ForeignStreams
from crishim.system import SystemClock
sys.path.insert(0, sys.argv[2])
from test_stdio import SPEC, Client
from crishim.interfaces.capabilities import ProcessIO

async def main():
    stdio = ContainerStdio(attrs.evolve(SPEC, log_path=sys.argv[1]), SystemClock())
    ends = stdio.open()
    process = subprocess.Popen(["seq", "100000"], stdin=ends.stdin, stdout=ends.stdout, stderr=ends.stderr)
    stdio.started()
    client = Client()
    attached = asyncio.create_task(stdio.attach(ProcessIO(stdout=client)))
    while process.poll() is None:
        await asyncio.sleep(0.005)
    await stdio.drained()
    await attached
    await stdio.close()
    print(process.returncode, len(client.got.splitlines()))

asyncio.run(main())
"""


def test_a_full_disk_does_not_hold_up_the_container(tmp_path: Path) -> None:
    """With no room for the log the container runs to its end, clients get everything, and the log's lines are whole."""
    result = subprocess.run(
        [sys.executable, "-c", _FULL, str(tmp_path / "0.log"), str(Path(__file__).parent)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
        stdout=subprocess.PIPE,
        check=True,
    )
    assert result.stdout == b"0 100000\n"
    lines = [parse(raw) for raw in (tmp_path / "0.log").read_bytes().splitlines()]
    assert [b"%d" % (number + 1) for number in range(len(lines))] == [line.content for line in lines]
    assert len(lines) > 100


async def test_foreign_streams_are_adopted(tmp_path: Path) -> None:
    """Streams of another creator are logged and fed; the creator gets sizes and the end of stdin."""
    stdin, feed = os.pipe()
    from_out, out = os.pipe()
    from_err, err = os.pipe()
    notified: list[object] = []

    async def resize(size: TerminalSize) -> None:
        notified.append(size)

    async def stdin_ended() -> None:
        notified.append("stdin")

    async def sizes() -> AsyncIterator[TerminalSize]:
        yield TerminalSize(width=80, height=24)

    spec = attrs.evolve(SPEC, log_path=str(tmp_path / "log"), stdin=True, stdin_once=True, tty=True)
    stdio = ContainerStdio(spec, FakeClock())
    stdio.adopt(ForeignStreams(stdin=feed, stdout=from_out, stderr=from_err, resize=resize, stdin_ended=stdin_ended))
    os.write(out, b"one\n")
    os.write(err, b"two\n")
    attached = asyncio.create_task(stdio.attach(ProcessIO(stdin=Once(b"in"), sizes=sizes())))
    async with asyncio.timeout(60):
        while "stdin" not in notified:
            await asyncio.sleep(0.005)
    os.close(out)
    os.close(err)
    await stdio.drained()
    await attached
    await stdio.close()
    assert {TerminalSize(width=80, height=24), "stdin"} == set(notified)
    assert (b"in", b"") == (os.read(stdin, 10), os.read(stdin, 10))
    os.close(stdin)
    lines = [parse(line).content for line in (tmp_path / "log").read_bytes().splitlines(keepends=True)]
    assert [b"one", b"two"] == sorted(lines)


async def test_foreign_streams_are_let_go_of_without_a_log(tmp_path: Path) -> None:
    """When the log cannot be opened the streams that were handed over are closed."""
    reads, writes = os.pipe()
    (tmp_path / "folder").mkdir()

    async def nothing(*_: object) -> None:
        pass

    stdio = ContainerStdio(attrs.evolve(SPEC, log_path=str(tmp_path / "folder")), FakeClock())
    with pytest.raises(CrishimError):
        stdio.adopt(ForeignStreams(stdout=reads, resize=nothing, stdin_ended=nothing))
    with pytest.raises(BrokenPipeError):
        os.write(writes, b"x")
    os.close(writes)


class Once:
    """A `ByteReader` of one piece."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def read(self) -> bytes:
        data, self._data = self._data, b""
        return data
