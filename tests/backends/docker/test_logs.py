"""CRI logs from the engine's own copy: exact, rotated, of terminals; and what a fault leaves."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from crishim.errors import CrishimError
from crishim.model.container import ContainerState
from crishim.model.values import ContainerId
from tests.backends.docker.node import SLEEPS, Node, counts
from tests.backends.docker.world import Dockerd, backend_at, needs

pytestmark = [pytest.mark.node, needs("dockerd", "busybox", "catatonit")]


async def said(node: Node, argv: tuple[str, ...], **changes: Any) -> list[bytes]:
    """Run a container to its end; the lines of its log file."""
    container = await node.container(await node.sandbox(), "main", argv, **changes)
    await node.until_exited(container)
    lines = (node.folder / "logs" / "main.log").read_bytes().removesuffix(b"\n").split(b"\n")
    await node.clear()
    return [line.split(b" ", 1)[1] for line in lines]


async def test_every_byte(engine: Dockerd, tmp_path: Path) -> None:
    """Long lines come in pieces of 16 KiB, invalid text is unchanged, and an unfinished line is a part."""
    script = "head -c 40000 /dev/zero; echo; echo; head -c 3 /bin/busybox; echo; echo err >&2; echo -n end"
    async with Node(tmp_path, engine.socket).running() as node:
        seen = await said(node, ("sh", "-c", script))
        zeros = b"\0" * 16384
        expected = [
            *(b"stdout P " + zeros,) * 2,
            b"stdout F " + b"\0" * (40000 - 2 * 16384),
            b"stdout F ",
            b"stdout F \x7fEL",
            b"stdout P end",
        ]
        assert expected == [line for line in seen if line.startswith(b"stdout")]
        assert [b"stderr F err"] == [line for line in seen if line.startswith(b"stderr")]


async def test_a_terminals_output(engine: Dockerd, tmp_path: Path) -> None:
    """A terminal's output is all stdout, with its carriage returns, and long lines in pieces."""
    script = "echo one; echo err >&2; head -c 20000 /dev/zero; echo; echo two"
    async with Node(tmp_path, engine.socket).running() as node:
        expected = [
            b"stdout F one\r",
            b"stdout F err\r",
            b"stdout P " + b"\0" * 16384,
            b"stdout F " + b"\0" * (20000 - 16384) + b"\r",
            b"stdout F two\r",
        ]
        assert expected == await said(node, ("sh", "-c", script), tty=True)


async def test_much_output_through_a_small_copy(engine: Dockerd, tmp_path: Path) -> None:
    """More output than the engine keeps reaches the log, every line and in order, across its rotations.

    At a rotation this engine repeats some entries; on a busy machine one of them may be taken for a new one.
    """
    script = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); echo $i; [ $((i%2000)) = 0 ] && sleep 0.05; done; true"
    async with Node(tmp_path, engine.socket, log_size="512k", log_files=3).running() as node:
        container = await node.container(await node.sandbox(), "main", ("sh", "-c", script))
        assert (ContainerState.EXITED, 0, "Completed") == await node.until_exited(container)
        lines = node.log("main")
        assert [str(number) for number in range(1, 60001)] == list(dict.fromkeys(lines))
        assert len(lines) < 60010
        await node.clear()


async def test_rotation(engine: Dockerd, tmp_path: Path) -> None:
    """ReopenContainerLog: the renamed file keeps its lines, the new one gets the rest, and a restart continues in it."""
    node = Node(tmp_path, engine.socket)
    log, old = tmp_path / "logs" / "main.log", tmp_path / "logs" / "main.log.20260102-030405"
    async with node.running():
        container = await node.container(await node.sandbox(), "main", counts(150))
        await node.until_logged("main", 10)
        log.rename(old)
        await node.services.containers.reopen_log(container)
        assert log.exists()
    async with node.running():
        await node.until_exited(container)
        before = [int(line.split()[-1]) for line in old.read_text().splitlines()]
        after = [int(line) for line in node.log("main")]
        assert list(range(1, 151)) == before + after
        assert after
        await node.clear()


async def test_no_place_for_a_log(engine: Dockerd, tmp_path: Path) -> None:
    """A log that cannot be opened fails the start, and nothing runs."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "main.log").symlink_to("/etc/passwd")
    async with Node(tmp_path, engine.socket).running() as node:
        sandbox = await node.sandbox()
        container = await node.services.containers.create(sandbox, node.config("main", SLEEPS), None)
        with pytest.raises(CrishimError, match=r"main\.log"):
            await node.services.containers.start(container)
        assert (ContainerState.EXITED, 128, "StartError") == await node.seen(container)
        await node.clear()


async def test_a_file_that_is_no_log(engine: Dockerd, tmp_path: Path) -> None:
    """After a restart a log with foreign content is left alone; the container's exit is reported nevertheless."""
    node = Node(tmp_path, engine.socket)
    async with node.running():
        container = await node.container(await node.sandbox(), "main", counts(50))
        await node.until_logged("main", 5)
    (tmp_path / "logs" / "main.log").write_text("this is no log\n")
    async with node.running():
        assert (ContainerState.EXITED, 7, "Error") == await node.until_exited(container)
        assert "this is no log\n" == (tmp_path / "logs" / "main.log").read_text()
        await node.clear()


async def test_waits_end_without_logs(engine: Dockerd, tmp_path: Path) -> None:
    """Waits for the log of an unknown container, or of one without a log, return at once."""
    async with backend_at(tmp_path, engine.socket) as backend:
        await asyncio.wait_for(backend._logs.finished(ContainerId("nobody")), 5)
        backend._logs.reopen(ContainerId("nobody"))
        backend._logs.forget(ContainerId("nobody"))
        assert {} == backend._logs._logs
