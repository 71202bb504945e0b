"""A container's streams in the keeper: log, input, terminal, clients that are attached."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from crishim.errors import NotFound, Unavailable
from crishim.interfaces.capabilities import ProcessIO
from crishim.keeper import wire
from crishim.keeper.connection import BACKLOG
from crishim.logs.pieces import MAX_CONTENT
from crishim.model.process import Exit, TerminalSize
from tests.keeper.world import Collector, KeeperWorld, Typed, until


async def test_the_log_has_both_streams(world: KeeperWorld) -> None:
    """Lines of stdout and stderr are in the log when `wait` returns; a line without its end is a part."""
    await world.run("c1", "echo out; echo err >&2; printf rest")
    await world.ended("c1")
    assert (b"out\nrest", b"err\n") == (world.log("c1"), world.log("c1", "stderr"))


async def test_long_lines_and_much_output(world: KeeperWorld) -> None:
    """No byte is lost or added."""
    await world.run("c1", f"head -c {3 * MAX_CONTENT + 7} /dev/zero; echo; seq 1 20000")
    await world.ended("c1")
    assert bytes(3 * MAX_CONTENT + 7) + b"\n" + b"".join(b"%d\n" % number for number in range(1, 20001)) == world.log("c1")


async def test_who_holds_the_pipes_after_the_exit(world: KeeperWorld) -> None:
    """A process that is left with the pipes delays the exit by the grace, and its later output is not read."""
    await world.run("c1", "(echo early; sleep 30; echo late) & exit 4")
    assert 4 == (await asyncio.wait_for(world.ended("c1"), 20)).code
    assert b"early\n" == world.log("c1")


async def test_a_log_is_opened_anew(world: KeeperWorld) -> None:
    """After a rotation the file is there when `reopen_log` returns; no line is in both files or in none."""
    await world.run("c1", "n=0; while [ $n -lt 3000 ]; do n=$((n+1)); echo $n; done; sleep 0.3; echo end")
    log = world.folder / "logs" / "c1.log"
    await until(lambda: world.log("c1").count(b"\n") > 10)
    old = log.rename(log.with_suffix(".1"))
    await world.keeper.reopen_log("c1")
    assert await asyncio.to_thread(log.exists)
    await world.ended("c1")
    new, text = world.log("c1"), b"".join(b"%d\n" % number for number in range(1, 3001)) + b"end\n"
    old.rename(log)
    assert text == world.log("c1") + new
    with pytest.raises(Unavailable):
        await world.keeper.reopen_log("c1")


async def test_a_full_disk_does_not_block(world: KeeperWorld) -> None:
    """Output that cannot be written is lost, and the container goes on to its end."""
    (world.folder / "logs").mkdir()
    (world.folder / "logs" / "c1.log").symlink_to("/dev/full")
    with pytest.raises(Exception, match="symbolic"):
        await world.run("c1", "true")
    await world.run("c1", "seq 1 100000; exit 3", log_path="/dev/full")
    assert 3 == (await world.ended("c1")).code
    assert 1 == (world.folder / "keeper" / "log").read_text().count("output of a container is lost: /dev/full")


async def test_an_attached_client_has_a_copy(world: KeeperWorld) -> None:
    """It gets the output from now on, stream by stream, and ends with the container."""
    await world.run("c1", "read line; echo out $line; echo err >&2", stdin=True)
    out, err, typed = Collector(), Collector(), Typed()
    typed.queue.put_nowait(b"typed\n")
    await asyncio.wait_for(world.keeper.attach("c1", ProcessIO(stdin=typed, stdout=out, stderr=err)), 20)
    assert (b"out typed\n", b"err\n") == (out.text, err.text)
    assert b"out typed\n" == world.log("c1")
    await world.ended("c1")
    await asyncio.wait_for(world.keeper.attach("c1", ProcessIO(stdout=out)), 20)


async def test_input_ends_once(world: KeeperWorld) -> None:
    """With `stdin_once` the first client's end of input is the container's; without it the container waits for the next."""
    for name, once in (("c1", True), ("c2", False)):
        await world.run(name, "cat; exit 6", stdin=True, stdin_once=once)
        typed, out = Typed(), Collector()
        for piece in (b"one ", b""):
            typed.queue.put_nowait(piece)
        attached = asyncio.ensure_future(world.keeper.attach(name, ProcessIO(stdin=typed, stdout=out)))
        if not once:
            await until(lambda: out.text == b"one ")  # noqa: B023 - it is called in this round
            second = Typed()
            second.queue.put_nowait(b"two")
            other = asyncio.ensure_future(world.keeper.attach(name, ProcessIO(stdin=second, stdout=Collector())))
            await until(lambda: out.text == b"one two")  # noqa: B023
            other.cancel()
            await world.keeper.kill(name, 9)
        await asyncio.wait_for(attached, 20)
        assert (6 if once else 137) == (await world.ended(name)).code


async def test_input_that_is_not_read(world: KeeperWorld) -> None:
    """A container that reads nothing holds its clients back, and others go on; all of it arrives when it reads."""
    go = world.folder / "go"
    await world.run("c1", f"while ! [ -e {go} ]; do sleep 0.05; done; wc -c", stdin=True, stdin_once=True)
    typed = Typed()
    for _ in range(64):
        typed.queue.put_nowait(bytes(64 * 1024))
    typed.queue.put_nowait(b"")
    out = Collector()
    attached = asyncio.ensure_future(world.keeper.attach("c1", ProcessIO(stdin=typed, stdout=out)))
    await until(lambda: typed.queue.qsize() < 64)
    await world.run("c2", "echo goes on")
    await world.ended("c2")
    assert 0 < typed.queue.qsize()
    go.touch()
    await asyncio.wait_for(attached, 20)
    assert 64 * 64 * 1024 == int(out.text)


async def test_a_slow_client_is_dropped(world: KeeperWorld) -> None:
    """A client that does not read is dropped, and holds nobody up: the log has everything."""
    await world.run("c1", "read go; head -c 8000000 /dev/zero", stdin=True)
    slow, typed = Collector(), Typed()
    slow.reading.clear()
    attached = asyncio.ensure_future(world.keeper.attach("c1", ProcessIO(stdin=typed, stdout=slow)))
    typed.queue.put_nowait(b"go\n")
    await world.ended("c1")
    assert 8_000_000 == len(world.log("c1"))
    await asyncio.wait_for(attached, 20)
    assert b"" == slow.text


async def test_output_that_comes_faster_than_it_is_read(world: KeeperWorld) -> None:
    """The container waits while the server has a full queue to read, and the server gets every byte without an error."""
    await world.run("c1", "read go; head -c 8000000 /dev/zero; echo", stdin=True)
    async with world.keeper._asked({"verb": "attach", "name": "c1", "stdin": False}) as (_, connection, buffer):
        await fed(world, "c1")
        await until(lambda: len(world.log("c1")) > BACKLOG)
        assert len(world.log("c1")) < 8_000_000
        kinds, received = set(), 0
        connection.settimeout(20)
        while data := await asyncio.to_thread(connection.recv, 1 << 20):
            buffer.extend(data)
            while (frame := wire.take(buffer)) is not None:
                kinds.add(frame[0])
                received += len(frame[1])
    assert ({wire.STDOUT}, 8_000_001) == (kinds, received)
    assert 8_000_001 == len(world.log("c1"))


async def test_a_client_that_never_reads_its_socket(world: KeeperWorld) -> None:
    """The keeper drops a connection whose queue stays full, with an error, and the container goes on."""
    await world.run("c1", "read go; head -c 8000000 /dev/zero; echo; sleep 600", stdin=True)
    async with world.keeper._asked({"verb": "attach", "name": "c1", "stdin": False}) as (_, connection, buffer):
        await fed(world, "c1")
        await until(lambda: len(world.log("c1")) == 8_000_001)
        connection.settimeout(20)
        while data := await asyncio.to_thread(connection.recv, 1 << 20):
            buffer.extend(data)
        frames = []
        while (frame := wire.take(buffer)) is not None:
            frames.append(frame)
    assert (wire.MESSAGE, "Aborted") == (frames[-1][0], json.loads(frames[-1][1])["error"])
    assert sum(len(payload) for _, payload in frames[:-1]) < 8_000_000


async def test_a_client_that_goes_away_while_it_is_behind(world: KeeperWorld) -> None:
    """A connection that ends with a full queue lets the container go on at once."""
    await world.run("c1", "read go; head -c 8000000 /dev/zero; echo", stdin=True)
    async with world.keeper._asked({"verb": "attach", "name": "c1", "stdin": False}):
        await fed(world, "c1")
        await until(lambda: len(world.log("c1")) > BACKLOG)
    await world.ended("c1")
    assert 8_000_001 == len(world.log("c1"))


async def fed(world: KeeperWorld, name: str) -> None:
    """Send a line to a container, by a client that is gone afterwards."""
    typed = Typed()
    feeding = asyncio.ensure_future(world.keeper.attach(name, ProcessIO(stdin=typed)))
    typed.queue.put_nowait(b"go\n")
    await until(lambda: len(world.log(name)) > 0)
    feeding.cancel()
    await asyncio.gather(feeding, return_exceptions=True)


async def test_a_terminal(world: KeeperWorld) -> None:
    """The process has a controlling terminal; its output is all stdout, its size is set, and its end of input is a key."""
    script = "trap 'stty size; exit 8' WINCH; tty </dev/tty; echo err >&2; cat; read x; while :; do sleep 0.05; done"
    await world.run("c1", script, terminal=True, stdin=True, stdin_once=True)
    typed, out = Typed(), Collector()
    attached = asyncio.ensure_future(world.keeper.attach("c1", ProcessIO(stdin=typed, stdout=out)))
    await until(lambda: b"err\r\n" in world.log("c1"))
    for piece in (b"line\n", b""):
        typed.queue.put_nowait(piece)
    await until(lambda: b"line\r\nline\r\n" in out.text)
    await world.keeper.resize("c1", TerminalSize(width=99, height=33))
    await asyncio.wait_for(attached, 20)
    assert b"33 99\r\n" in out.text
    assert (8, b"/dev/") == ((await world.ended("c1")).code, world.log("c1")[:5])


async def test_streams_of_others(world: KeeperWorld) -> None:
    """Named pipes that a shim has made are read and written; when its task has exited, the rest is read."""
    pipes = {}
    for name, flags in (("stdin", os.O_RDWR), ("stdout", os.O_RDONLY), ("stderr", os.O_RDONLY)):
        path = world.folder / name
        os.mkfifo(path)
        pipes[name] = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    theirs = os.open(world.folder / "stdout", os.O_WRONLY)
    log = world.folder / "logs" / "c1.log"
    await world.keeper.adopt("c1", pipes, log_path=str(log))
    for fd in pipes.values():
        os.close(fd)
    typed = Typed()
    typed.queue.put_nowait(b"typed")
    attached = asyncio.ensure_future(world.keeper.attach("c1", ProcessIO(stdin=typed, stdout=Collector())))
    stdin = os.open(world.folder / "stdin", os.O_RDONLY)
    assert b"typed" == await asyncio.to_thread(os.read, stdin, 100)
    os.close(stdin)
    os.write(theirs, b"from the shim\n")
    assert {"c1": 0} == await world.keeper.containers()
    assert Exit(code=3, at=1_000) == await asyncio.wait_for(world.keeper.drain("c1", Exit(code=3, at=1_000)), 20)
    assert b"from the shim\n" == world.log("c1")
    os.close(theirs)
    await asyncio.wait_for(attached, 20)
    await world.keeper.forget("c1")
    with pytest.raises(NotFound):
        await world.keeper.drain("c1", Exit(code=3, at=1_000))


async def test_a_log_in_no_folder(world: KeeperWorld, tmp_path: Path) -> None:
    """A container without a log runs, and one whose log cannot be opened does not begin."""
    await world.run("c1", "echo nowhere", log_path="")
    assert 0 == (await world.ended("c1")).code
    with pytest.raises(Exception, match="File exists"):
        await world.run("c2", "true", log_path="/dev/null/log")
    assert {"c1"} == set(await world.keeper.containers())
