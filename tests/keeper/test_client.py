"""The keeper's own beginnings and ends: started on demand, upgraded under load, killed."""

import asyncio
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from crishim.errors import CrishimError, InvalidArgument, NotFound, Unavailable, Unknown
from crishim.interfaces.capabilities import ProcessIO
from crishim.keeper import client, wire
from crishim.keeper.launcher import TAKEN
from crishim.linux import processes
from crishim.model.process import TerminalSize
from tests.keeper.world import Collector, KeeperWorld, Typed, until

COUNTING = "n=0; while [ $n -lt 20000 ]; do n=$((n+1)); echo $n; done; exit 5"


async def test_many_begin_one_keeper(world: KeeperWorld) -> None:
    """Requests that come at once, of several clients, begin one keeper."""
    other = KeeperWorld(world.folder)
    await asyncio.gather(*(who.run(f"c{number}", "sleep 600") for number, who in enumerate([world, other, world, other])))
    assert await other.pid() == await world.pid()
    assert {"c0", "c1", "c2", "c3"} == set(await world.keeper.containers())


async def test_no_keeper_is_begun_for_a_question(world: KeeperWorld) -> None:
    """Only a container needs a keeper."""
    assert (None, {}, False) == (await world.keeper.identify(), await world.keeper.containers(), await world.keeper.upgrade())
    with pytest.raises(Unavailable):
        await world.ended("c1")


async def test_an_idle_keeper_ends(world: KeeperWorld) -> None:
    """Without containers and clients it ends after some seconds; the next container begins another."""
    await world.run("c1", "true")
    first = processes.read(await world.pid())
    assert first is not None
    await world.keeper.forget("c1")
    await asyncio.wait_for(processes.ended(first.identity), 30)
    await world.run("c1", "exit 2")
    assert 2 == (await world.ended("c1")).code


async def test_a_long_path(tmp_path: Path) -> None:
    """A keeper's folder may have a path that is longer than a socket's may be."""
    folder = tmp_path / ("x" * 100) / ("y" * 100)
    folder.mkdir(parents=True)
    world = KeeperWorld(folder)
    pid = await world.run("c1", "sleep 600")
    assert {"c1": pid} == await world.keeper.containers()
    os.kill(pid, signal.SIGKILL)
    await world.ended("c1")
    os.kill(await world.pid(), signal.SIGKILL)


async def test_an_upgrade_under_load(world: KeeperWorld) -> None:
    """A keeper that executes its successor again and again loses no line and doubles none, in the log and for clients, and
    answers who waits; its pid stays, and the exit is the container's.
    """
    await world.run("c1", f"read go; {COUNTING}", stdin=True)
    typed, out = Typed(), Collector()
    attached = asyncio.ensure_future(world.keeper.attach("c1", ProcessIO(stdin=typed, stdout=out)))
    waiting = asyncio.ensure_future(world.ended("c1"))
    pid, upgrades = await world.pid(), 0
    typed.queue.put_nowait(b"go\n")
    while not waiting.done():
        await world.keeper._execute(client._command(client._code("daemon")))
        upgrades += 1
    expected = b"".join(b"%d\n" % number for number in range(1, 20001))
    await asyncio.wait_for(attached, 20)
    assert (expected, expected, 5, pid) == (world.log("c1"), out.text, waiting.result().code, await world.pid())
    assert 1 < upgrades


async def test_an_upgrade_in_the_middle_of_everything(world: KeeperWorld) -> None:
    """A half line, input that waits, a creation, a terminal, a grace and an exit go over to the successor."""
    go, bundle = world.folder / "go", world.folder / "created"
    hold = f"while ! [ -e {go} ]; do sleep 0.02; done"
    await world.run("half", f"printf 'half a '; {hold}; echo line")
    await world.run("reads", f"{hold}; wc -c", stdin=True, stdin_once=True)
    await world.run("ended", "exit 9")
    await world.ended("ended")
    await world.run("left", f"({hold}; echo late; sleep 30) & exit 4")
    await world.run("terminal", f"{hold}; stty size", terminal=True)
    creation = asyncio.ensure_future(
        world.run(
            "created",
            f"touch {world.folder}/creating; echo creating; {hold}; (sleep 0.1; exit 3) & echo $! > {bundle}/pid",
            pid_file=bundle / "pid",
        )
    )
    typed, out = Typed(), Collector()
    for _ in range(64):
        typed.queue.put_nowait(bytes(64 * 1024))
    typed.queue.put_nowait(b"")
    attached = asyncio.ensure_future(world.keeper.attach("reads", ProcessIO(stdin=typed, stdout=out)))
    await until(lambda: typed.queue.qsize() < 64)
    await until((world.folder / "creating").exists)
    await world.keeper._execute(client._command(client._code("daemon")))
    await world.keeper.resize("terminal", TerminalSize(width=44, height=11))
    go.touch()
    await asyncio.wait_for(attached, 20)
    codes = {name: (await asyncio.wait_for(world.ended(name), 20)).code for name in ("half", "reads", "ended", "left")}
    assert {"half": 0, "reads": 0, "ended": 9, "left": 4} == codes
    assert (b"half a line\n", 64 * 64 * 1024) == (world.log("half"), int(out.text))
    await world.ended("terminal")
    assert b"11 44\r\n" == world.log("terminal")
    assert 0 < await creation
    assert (3, b"creating\n") == ((await world.ended("created")).code, world.log("created"))


async def test_a_successor_that_cannot_be_executed(world: KeeperWorld) -> None:
    """The keeper goes on as if nobody had asked."""
    await world.run("c1", f"read go; {COUNTING}", stdin=True)
    with pytest.raises(Unknown, match="No such file"):
        await world.keeper._execute(["/no/such/python"])
    typed = Typed()
    typed.queue.put_nowait(b"go\n")
    await asyncio.wait_for(world.keeper.attach("c1", ProcessIO(stdin=typed)), 20)
    assert (5, 20000) == ((await world.ended("c1")).code, world.log("c1").count(b"\n"))


async def test_who_is_upgraded(world: KeeperWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A keeper of the same code is not, one of other code is; with another table, or a successor that fails, not."""
    pid = await world.run("c1", "sleep 600")
    assert not await world.keeper.upgrade()
    monkeypatch.setattr(wire, "CODE", 1)
    assert await world.keeper.upgrade()
    monkeypatch.setattr(wire, "TABLE", wire.TABLE + 1)
    assert not await world.keeper.upgrade()
    monkeypatch.undo()
    monkeypatch.setattr(wire, "CODE", 1)
    monkeypatch.setattr(client, "_ROOT", "/no/such/folder")
    assert not await world.keeper.upgrade()
    assert {"c1": pid} == await world.keeper.containers()


async def test_no_descriptors_are_left(world: KeeperWorld) -> None:
    """A keeper that cannot accept a client does so when it can again, and says so once a second."""
    await world.run("c1", "sleep 600")
    pid = await world.pid()
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (4, limits[1]))
    asking = asyncio.ensure_future(world.keeper.identify())
    log = world.folder / "keeper" / "log"
    await until(lambda: "no client is accepted" in log.read_text())
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    assert pid == await asyncio.wait_for(asking, 20)
    assert log.read_text().count("no client is accepted") <= 3


async def test_more_clients_than_may_wait(world: KeeperWorld) -> None:
    """Hundreds of waits begin at once after a restart: each is served, however slowly the keeper accepts them."""
    await world.run("c1", "read x; exit 4", stdin=True, stdin_once=True)
    pid = await world.pid()
    os.kill(pid, signal.SIGSTOP)
    waiting = [asyncio.ensure_future(world.ended("c1")) for _ in range(300)]
    await asyncio.sleep(0.1)
    assert not any(one.done() for one in waiting)
    os.kill(pid, signal.SIGCONT)
    typed = Typed()
    typed.queue.put_nowait(b"")
    await asyncio.wait_for(world.keeper.attach("c1", ProcessIO(stdin=typed)), 20)
    assert [4] * 300 == [end.code for end in await asyncio.gather(*waiting)]


async def test_files_that_are_replaced_below_a_keeper(
    world: KeeperWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upgrade in place is noticed: a keeper's code is what it began with, and not what its files are now."""
    shutil.copytree(Path(client._ROOT) / "crishim", tmp_path / "package" / "crishim")
    with monkeypatch.context() as patched:
        patched.setattr(client, "_ROOT", str(tmp_path / "package"))
        await world.run("c1", "sleep 600")
    with (tmp_path / "package" / "crishim" / "keeper" / "daemon.py").open("a") as file:
        file.write("# of a newer version\n")
    assert not await world.keeper.upgrade()


async def test_a_keeper_that_is_killed(world: KeeperWorld) -> None:
    """Its containers go on, whoever waits gets `Unavailable`, exits that were seen are in their files, and the next container
    begins a new keeper, which does not know the older ones.
    """
    await world.run("ended", "exit 9")
    await world.ended("ended")
    pid = await world.run("c1", "sleep 600")
    first = await world.pid()
    waiting = asyncio.ensure_future(world.ended("c1"))
    await asyncio.sleep(0.05)
    os.kill(first, signal.SIGKILL)
    with pytest.raises(Unavailable):
        await asyncio.wait_for(waiting, 20)
    found = processes.read(pid)
    assert found is not None
    assert ("9", False) == ((world.folder / "ended" / "exit").read_text(), found.ended)
    await world.run("c2", "exit 2")
    assert 2 == (await world.ended("c2")).code
    with pytest.raises(NotFound):
        await world.ended("c1")
    os.kill(pid, signal.SIGKILL)


async def test_a_server_that_is_killed(world: KeeperWorld) -> None:
    """The keeper outlives whoever has begun it, and so do the logs and the exits of its containers."""
    script = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from tests.keeper.world import KeeperWorld\n"
        "async def main():\n"
        "    await KeeperWorld(Path(sys.argv[2])).run('c1', sys.argv[3])\n"
        "    print('running', flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    root, go = str(Path(__file__).parents[2]), world.folder / "go"
    counting = f"while ! [ -e {go} ]; do sleep 0.02; done; {COUNTING}"
    with subprocess.Popen(  # noqa: ASYNC220 - it is killed at once
        [sys.executable, "-c", script, root, str(world.folder), counting], stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        assert b"running\n" == await asyncio.to_thread(server.stdout.readline)
        server.kill()
    go.touch()
    assert 5 == (await world.ended("c1")).code
    assert b"".join(b"%d\n" % number for number in range(1, 20001)) == world.log("c1")


async def test_a_client_that_is_no_client(world: KeeperWorld) -> None:
    """What is no request ends its connection alone, and an unknown verb is refused."""
    await world.run("c1", "sleep 600")
    for nonsense in (
        wire.frame(wire.MESSAGE, b"[]"),
        wire.frame(wire.MESSAGE, b"{"),
        b"\xff" * 9,
        wire.message({"verb": "hello"})[:7],
    ):
        connection = world.keeper._connect()
        assert connection is not None
        with connection:
            connection.setblocking(True)
            connection.sendall(nonsense)
            if nonsense[0] != 0 or len(nonsense) != 7:
                assert b"" == await asyncio.to_thread(connection.recv, 100)
    for request in ({"verb": "dance"}, {"verb": "wait"}, {"verb": "resize", "name": "c1"}):
        with pytest.raises(Exception, match=r"dance|name|height"):
            await world.keeper._ask(request)
    assert {"c1"} == set(await world.keeper.containers())


def test_a_folder_that_is_taken(tmp_path: Path) -> None:
    """A second keeper for a folder does not begin: its launcher says that the folder is taken."""
    tmp_path.joinpath("lock").touch()
    with subprocess.Popen(["flock", str(tmp_path / "lock"), "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write(b"x\n")
        holder.stdin.flush()
        holder.stdout.readline()
        command = [*client._command(client._code("launcher")), str(tmp_path), "pass"]
        assert TAKEN == subprocess.run(command, check=False).returncode
        holder.stdin.close()


def test_the_keeper_imports_little() -> None:
    """Neither asyncio nor attrs nor another part of this package: an interpreter with them is three times as big."""
    program = client._code("daemon", trial=True) + "; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-IS", "-c", program], capture_output=True, text=True, check=True).stdout.split()
    ours = {name for name in modules if name.startswith("crishim.")}
    assert set() == {"asyncio", "attr", "typing", "logging", "pathlib", "subprocess", "datetime", "ctypes"} & set(modules)
    assert {"crishim.logs", "crishim.logs.appending", "crishim.logs.pieces"} == {name for name in ours if "keeper" not in name}


async def test_an_exit_that_cannot_be_written(world: KeeperWorld) -> None:
    """A container whose folder is gone takes no other's exit with it, though both end at once."""
    go = world.folder / "go"
    script = f"while [ ! -e {go} ]; do sleep 0.01; done; exit 3"
    for name in ("one", "two"):
        await world.run(name, script)
    shutil.rmtree(world.folder / "one")
    go.touch()
    ends = await asyncio.wait_for(asyncio.gather(*(world.keeper.wait(name) for name in ("one", "two"))), 20)
    assert [3, 3] == [end.code for end in ends]


async def test_errors_name_what_is_missing(world: KeeperWorld) -> None:
    """A program that is not there is named, and a request that makes no sense has an answer."""
    with pytest.raises(CrishimError, match="/no/such/program"):
        await world.run("one", "", argv=("/no/such/program",))
    with pytest.raises(InvalidArgument):
        await world.run("two", "", argv=("/bin/sh", "-c", "a\0b"))
    await world.run("three", "exit 0")
    assert 0 == (await world.keeper.wait("three")).code


async def test_a_keeper_that_hangs_is_no_missing_one(world: KeeperWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the keeper does not answer, its containers are not taken for gone."""
    await world.run("one", "sleep 600")
    pid = await world.keeper.identify()
    assert pid is not None
    monkeypatch.setattr("crishim.keeper.client._WITHIN", 0.2)
    os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable):
            await world.keeper.containers()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert {"one"} == set(await world.keeper.containers())


async def test_a_keeper_that_cannot_start(tmp_path: Path) -> None:
    """Why it ends at once is the error, and it is not started again and again."""
    (tmp_path / "keeper").mkdir()
    (tmp_path / "keeper" / "log").mkdir()
    with pytest.raises(CrishimError, match="keeper"):
        await asyncio.wait_for(KeeperWorld(tmp_path).run("one", "exit 0"), 15)


def test_all_of_the_keepers_code_is_compared() -> None:
    """What decides about an upgrade covers every module that the keeper's process loads."""
    code = "import sys, crishim.keeper.daemon; print(*(n for n in sys.modules if n.startswith('crishim.')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    source = Path(wire.__file__).read_text()
    names = {name.rpartition(".")[2] for name in loaded} - {"crishim", "keeper", "logs"}
    assert set() == {name for name in names if f'"{name}"' not in source and f'/{name}"' not in source}
