"""Kubernetes' own clients against the streaming server, with URLs of an API server: client-go, Python's and Node's."""

import asyncio
import hashlib
import io
import os
import re
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from tests.backends.runc.world import needs
from tests.clients.world import Client, Pod, client_go, client_node, client_python, served_pod
from tests.streaming.raw import closed

PROGRAMS: Final = {"client-go": client_go, "node": client_node, "python": client_python}
CLIENTS: Final = ("client-go spdy", "client-go websocket", "python", "node")
RUNC = pytest.param("runc", marks=[pytest.mark.node, needs("runc", "conmon", "busybox", "unshare")])


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, ...]]:
    """Programs that are there already, by name."""
    return {}


@pytest.fixture(params=["process", RUNC])
async def pod(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Pod]:
    async with served_pod(request.param, tmp_path) as served:
        yield served


@pytest.fixture(params=CLIENTS)
def client(
    request: pytest.FixtureRequest,
    pod: Pod,
    programs: dict[str, tuple[str, ...]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Client:
    name, _, transport = request.param.partition(" ")
    if name not in programs:
        programs[name] = PROGRAMS[name](tmp_path_factory.mktemp(name))
    return Client((*programs[name], *([f"--transport={transport}"] if transport else [])), pod)


async def test_exec(client: Client) -> None:
    """Stdin to its end, both outputs and the exit code come through."""
    sent = os.urandom(3_000_000)
    assert (3, sent, b"err\n") == await client.exec("sh", "-c", "cat; echo err >&2; exit 3", stdin=sent)


async def test_success(client: Client) -> None:
    """A command without stdin that succeeds ends the client with 0."""
    assert (0, b"out\n", b"") == await client.exec("echo", "out")


async def test_terminal(client: Client) -> None:
    """On a terminal a line comes back as typed and as answered, and Ctrl-D ends the command."""
    assert (0, b"word\r\nword\r\n", b"") == await client.exec("cat", stdin=b"word\n\x04", flags=("--tty",))


async def test_resize(client: Client) -> None:
    """The terminal gets the last of the client's sizes."""
    script = 'until [ "$(stty size 2>/dev/null)" = "40 120" ]; do sleep 0.05; done; echo sized; exit 6'
    words = ("sh", "-c", script)
    assert (6, b"sized\r\n", b"") == await client.exec(*words, stdin=b"", flags=("--tty", "--sizes=80x24 120x40"))


async def test_failed_start(client: Client) -> None:
    """A command that is not there is an error, and no exit code; its cause is what clients show."""
    code, stdout, stderr = await client.exec("/no/such/command")
    assert (255, b"") == (code, stdout)
    assert stderr.startswith(b"error: ")
    assert b"/no/such/command" in stderr


async def test_copy(client: Client) -> None:
    """A file is copied into the container and back as `kubectl cp` does, by tar over exec; the sums are equal."""
    content = os.urandom(100_000_000)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("file")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    folder = client.pod.folder
    assert (0, b"", b"") == await client.exec("tar", "xf", "-", "-C", folder, stdin=packed.getvalue())
    code, digest, _ = await client.exec("sha256sum", f"{folder}/file")
    assert (0, hashlib.sha256(content).hexdigest()) == (code, digest.split()[0].decode())
    code, copied, stderr = await client.exec("tar", "cf", "-", "-C", folder, "file")
    assert (0, b"") == (code, stderr)
    with tarfile.open(fileobj=io.BytesIO(copied)) as archive:
        file = archive.extractfile("file")
        assert file is not None
        assert hashlib.sha256(content).digest() == hashlib.sha256(file.read()).digest()


async def test_port_forward(client: Client) -> None:
    """What a pod's port answers comes back whole, after the client's half has ended where its protocol has halves."""
    whole_is_read = "client-go" in client.command[0]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await (reader.read() if whole_is_read else reader.readline()))[::-1])
        await closed(writer)

    sent = bytes(200_000) + b"end\n"
    async with await asyncio.start_server(answer, "127.0.0.1", 0, limit=1 << 20) as listener:
        port = listener.sockets[0].getsockname()[1]
        answered = await (_through_listener(client, port, sent) if whole_is_read else _through_stdin(client, port, sent))
    assert sent[::-1] == answered


async def _through_listener(client: Client, port: int, sent: bytes) -> bytes:
    """client-go listens on a port of its own, as `kubectl port-forward` does."""
    child = await client.start("portforward", f":{port}")
    assert child.stdout is not None
    try:
        announced = re.search(rb"127\.0\.0\.1:(\d+) -> ", await child.stdout.readline())
        assert announced is not None
        answered = b""
        for _ in range(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(announced[1]))
            writer.write(sent)
            writer.write_eof()
            answered = await reader.read()
            await closed(writer)
    finally:
        child.kill()
        await child.communicate()
    return answered


async def _through_stdin(client: Client, port: int, sent: bytes) -> bytes:
    code, answered, stderr = await client.run("portforward", str(port), stdin=sent)
    assert (0, b"") == (code, stderr)
    return answered


@pytest.mark.parametrize("client", ["python", "node"], indirect=True)
async def test_port_without_a_server(client: Client) -> None:
    """A port without a listener is an error on its own channel."""
    code, _, stderr = await client.run("portforward", "1", stdin=b"x")
    assert 255 == code
    assert b"no listener on port 1" in stderr
