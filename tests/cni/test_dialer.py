"""Connections into network namespaces."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from crishim.cni.network import SetnsDialer
from crishim.errors import InvalidArgument, NotFound, Unavailable
from crishim.linux.namespaces import inside, is_network_namespace, raise_loopback
from tests.backends.runc.world import needs
from tests.cni.world import namespace, run_in

pytestmark = [pytest.mark.node, needs("unshare")]


@pytest.fixture
def netns(tmp_path: Path) -> Iterator[str]:
    with namespace(tmp_path / "netns") as path:
        raise_loopback(path)
        yield path


def listener(family: int, host: str) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.bind((host, 0))
    listening.listen()
    listening.setblocking(False)
    return listening


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.read())
    await writer.drain()
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
async def test_dials_the_pod_s_loopback(netns: str, family: int, host: str) -> None:
    """A server on the namespace's loopback is reached by IPv4 or IPv6, with half-close, and is not to be had on the host's."""
    listening = inside(netns, lambda: listener(family, host))
    async with await asyncio.start_server(echo, sock=listening):
        port = listening.getsockname()[1]
        stream = await SetnsDialer().dial(netns, port)
        await stream.write(b"hello")
        await stream.write_eof()
        assert (b"hello", b"") == (await stream.read(), await stream.read())
        await stream.close()
        with pytest.raises(Unavailable):
            await SetnsDialer().dial("", port)


async def test_an_empty_path_is_the_host() -> None:
    """Without a namespace the host's loopback is dialled."""
    listening = listener(socket.AF_INET, "127.0.0.1")
    async with await asyncio.start_server(echo, sock=listening):
        stream = await SetnsDialer().dial("", listening.getsockname()[1])
        await stream.write_eof()
        assert b"" == await stream.read()
        await stream.close()


async def test_no_listener_names_both_failures(netns: str) -> None:
    """Without a listener the error has the failure of each address; a missing namespace is named; 65536 is no port."""
    with pytest.raises(Unavailable, match=r"port 9: 127\.0\.0\.1: .*; ::1: "):
        await SetnsDialer().dial(netns, 9)
    with pytest.raises(Unavailable, match="namespace"):
        await SetnsDialer().dial(f"{netns}.gone", 9)
    with pytest.raises(InvalidArgument):
        await SetnsDialer().dial(netns, 1 << 16)


def test_the_caller_stays_where_it_was(netns: str) -> None:
    """Work inside a namespace leaves the caller's thread in its own; its errors are the caller's."""
    before = Path("/proc/thread-self/ns/net").readlink()
    within = inside(netns, lambda: Path("/proc/thread-self/ns/net").readlink())
    assert before != within
    assert before == Path("/proc/thread-self/ns/net").readlink()
    with pytest.raises(ZeroDivisionError):
        inside(netns, lambda: 1 // 0)


def test_what_is_a_namespace(netns: str, tmp_path: Path) -> None:
    """A pin is a network namespace as long as it is mounted; other kinds, regular files, pipes and missing ones are none."""
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    others = ("/proc/self/ns/ipc", "/proc/self/ns/mnt", tmp_path / "file", tmp_path / "pipe", tmp_path / "none", tmp_path)
    assert [True, *[False for _ in others]] == [is_network_namespace(str(path)) for path in (netns, *others)]
    for path in (tmp_path / "file", tmp_path / "none"):
        with pytest.raises(NotFound):
            inside(str(path), lambda: None)


def test_the_loopback_is_up(netns: str) -> None:
    """Setting `lo` up gives it both its addresses, and may be repeated."""
    raise_loopback(netns)
    addresses = run_in(netns, "ip", "-o", "addr", "show", "lo")
    assert ["127.0.0.1/8", "::1/128"] == [line.split()[3] for line in addresses.splitlines()]
