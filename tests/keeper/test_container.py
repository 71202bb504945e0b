"""How containers of the keeper begin and end: programs, creators, exits."""

import asyncio
import os
import resource
import signal
import socket
from pathlib import Path

import pytest

from crishim.errors import AlreadyExists, CreateRefused, InvalidArgument, NotFound, Unknown
from crishim.interfaces.keeper import KeepRequest
from crishim.keeper.container import events_of, kills
from crishim.linux import processes
from tests.keeper.world import KeeperWorld, until

CREATOR = "{ trap 'exit 5' TERM; echo $$ > ready; while :; do sleep 0.05; done; } & echo $! > pid"
"""As a runtime's create: it leaves a process behind, and says which."""


async def test_an_exit_is_reported_and_in_its_file(world: KeeperWorld) -> None:
    """The exit code is what `wait` answers, as often as it is asked, and what the file has, whose time is the exit's."""
    await world.run("c1", "exit 7")
    end = await world.ended("c1")
    file = world.folder / "c1" / "exit"
    assert (7, "7", end.at) == (end.code, file.read_text(), file.stat().st_mtime_ns)
    assert end == await world.ended("c1")


async def test_a_signal_is_128_and_its_number(world: KeeperWorld) -> None:
    """Whoever is killed has ended with 128 and the signal's number, and cannot be signalled any more."""
    await world.run("c1", "sleep 600")
    await world.keeper.kill("c1", signal.SIGKILL)
    end = await world.ended("c1")
    assert (137, False) == (end.code, end.oom)
    with pytest.raises(NotFound):
        await world.keeper.kill("c1", signal.SIGKILL)


async def test_a_forgotten_container_is_not_found(world: KeeperWorld) -> None:
    """After `forget` its name is free; whoever waited gets `NotFound`."""
    await world.run("c1", "sleep 600")
    with pytest.raises(AlreadyExists):
        await world.run("c1", "true")
    waiting = asyncio.ensure_future(world.ended("c1"))
    await asyncio.sleep(0)
    await world.keeper.kill("c1", signal.SIGKILL)
    await waiting
    await world.keeper.forget("c1")
    with pytest.raises(NotFound):
        await world.ended("c1")
    assert {} == await world.keeper.containers()


async def test_a_program_that_is_missing(world: KeeperWorld) -> None:
    """The error is the kernel's, and nothing is left of the container."""
    with pytest.raises(Unknown, match="No such file"):
        await world.keeper.keep(KeepRequest(name="c1", argv=("/no/such/program",)))
    assert {} == await world.keeper.containers()


async def test_what_a_program_gets(world: KeeperWorld) -> None:
    """Its environment, its folder, a session of its own, /dev/null as stdin, default signals, and our own limits."""
    script = (
        "pwd; echo $NAME; cat; ulimit -n; cut -d' ' -f6 /proc/$$/stat; echo $$; grep SigIgn /proc/$$/status; ls /proc/$$/fd"
    )
    await world.run("c1", script, env={"PATH": os.defpath, "NAME": "caf\udce9"}, cwd="/usr")
    await world.ended("c1")
    folder, name, limit, session, pid, ignored, *fds = world.log("c1").split(b"\n")[:-1]
    assert (b"/usr", b"caf\xe9", str(resource.getrlimit(resource.RLIMIT_NOFILE)[0]).encode()) == (folder, name, limit)
    pythons = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1
    assert (pid, 0) == (session, int(ignored.split()[1], 16) & pythons)
    assert {b"0", b"1", b"2"} == set(fds) - {b"255", b"10"}  # shells have one for their script


async def test_a_creator_leaves_its_process_to_the_keeper(world: KeeperWorld) -> None:
    """What a creator has left is the container's process: its pid is the reply, and its exit the container's."""
    bundle = world.folder / "c1"
    pid = await world.run("c1", CREATOR, pid_file=bundle / "pid", cwd=str(bundle))
    assert int((bundle / "pid").read_text()) == pid
    found = processes.read(pid)
    assert found is not None
    assert found.parent == await world.pid()
    await until((bundle / "ready").exists)
    os.kill(pid, signal.SIGTERM)
    assert 5 == (await world.ended("c1")).code


async def test_a_process_that_has_ended_before_its_creator(world: KeeperWorld) -> None:
    """Its exit is not lost: it was collected before anybody knew whose it was."""
    bundle = world.folder / "c1"
    script = "sh -c 'sh -c \"sleep 0.05; exit 9\" & echo $! > pid'; sleep 0.3"
    pid = await world.run("c1", script, pid_file=bundle / "pid", cwd=str(bundle))
    assert 0 < pid
    assert 9 == (await world.ended("c1")).code


async def test_a_creator_that_collects_its_process_itself(world: KeeperWorld) -> None:
    """What it has ended with is unknown then, and nobody waits for ever."""
    bundle = world.folder / "c1"
    await world.run("c1", "(exit 9) & echo $! > pid; wait", pid_file=bundle / "pid", cwd=str(bundle))
    assert 255 == (await asyncio.wait_for(world.ended("c1"), 20)).code


async def test_a_creator_that_fails(world: KeeperWorld) -> None:
    """Its stderr is the message; nothing of it is in the log, and the name is free."""
    with pytest.raises(CreateRefused, match="no such mount"):
        await world.run("c1", "echo no such mount >&2; exit 1", pid_file=world.folder / "pid")
    assert (b"", {}) == (world.log("c1", "stderr"), await world.keeper.containers())


async def test_a_creation_that_is_cancelled(world: KeeperWorld) -> None:
    """Its creator has ended when the cancellation returns, and the name is free."""
    bundle = world.folder / "c1"
    creation = asyncio.ensure_future(
        world.run("c1", "echo $$ > creator; sleep 600", pid_file=bundle / "pid", cwd=str(world.folder))
    )
    file = world.folder / "creator"
    await until(lambda: file.exists() and bool(file.read_text()))
    creation.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creation
    assert processes.read(int(file.read_text())) is None
    assert {} == await world.keeper.containers()


async def test_a_start_that_is_cancelled(world: KeeperWorld) -> None:
    """A program without a creator is killed when its start is cancelled, and its name is free."""
    await world.run("other", "sleep 600")
    keeper = await world.pid()
    os.kill(keeper, signal.SIGSTOP)  # the request is sent, and is not answered
    try:
        start = asyncio.ensure_future(world.run("c1", "sleep 600", env={"PATH": os.defpath, "OF": str(world.folder)}))
        await asyncio.wait({start}, timeout=0.1)
        start.cancel()
        await asyncio.wait({start}, timeout=0.1)
    finally:
        os.kill(keeper, signal.SIGCONT)
    with pytest.raises(asyncio.CancelledError):
        await start
    assert {"other"} == set(await world.keeper.containers())
    await until(lambda: processes.with_variable("OF", str(world.folder)) == [])


async def test_a_creator_sends_a_terminal(world: KeeperWorld) -> None:
    """The terminal comes through the console's socket, whose file is gone then; its output is in the log."""
    bundle, console = world.folder / "c1", Path(f"/tmp/console{os.getpid()}")
    script = (
        "import os, socket, sys\n"
        f"console = socket.socket(socket.AF_UNIX); console.connect({str(console)!r})\n"
        "master, slave = os.openpty()\n"
        "pid = os.fork()\n"
        "if pid:\n"
        "    socket.send_fds(console, [b'/dev/ptmx'], [master])\n"
        f"    open({str(bundle / 'pid')!r}, 'w').write(str(pid))\n"
        "    sys.exit(0)\n"
        "os.close(master)\n"
        "os.write(slave, b'on a terminal\\n')\n"
        "os._exit(3)\n"
    )
    await world.run(
        "c1", "", argv=("/usr/bin/python3", "-c", script), terminal=True, stdin=True, pid_file=bundle / "pid", console=console
    )
    assert 3 == (await world.ended("c1")).code
    assert (b"on a terminal\r\n", False) == (world.log("c1"), await asyncio.to_thread(console.exists))


async def test_a_creator_without_its_terminal(world: KeeperWorld) -> None:
    """A creator that ends well and sends no terminal has failed."""
    console = Path(f"/tmp/console{os.getpid()}")
    with pytest.raises(CreateRefused, match="no terminal"):
        await world.run(
            "c1", "echo 1 > pid", terminal=True, pid_file=world.folder / "pid", console=console, cwd=str(world.folder)
        )
    assert not await asyncio.to_thread(console.exists)


def test_whom_the_killer_has_killed(tmp_path: Path) -> None:
    """The counter of kills is the line of that name, in cgroups of both versions; a file that is missing has none."""
    file = tmp_path / "memory.events"
    file.write_text("low 0\noom 4\noom_kill 3\noom_group_kill 1\n")
    assert (3, 0) == (kills(str(file)), kills(str(tmp_path / "none")))
    assert "" == events_of(0)
    assert Path(events_of(os.getpid())).name in {"memory.events", "memory.oom_control"}


async def test_descriptors_of_clients_stay_out(world: KeeperWorld) -> None:
    """Too many descriptors for a request are closed with its connection."""
    with socket.socket() as spare, pytest.raises(InvalidArgument, match="1 descriptors for 2 streams"):
        await world.keeper._ask(
            {
                "verb": "adopt",
                "name": "c1",
                "streams": ["stdout", "stderr"],
                "log": "",
                "terminal": False,
                "stdin_once": False,
            },
            [spare.fileno()],
            start=True,
        )
    assert {} == await world.keeper.containers()
