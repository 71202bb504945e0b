"""CniNetwork with the plugins of this machine, on a node that is a network namespace: it goes with its rules and bridges."""

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from crishim.cni.network import SetnsDialer
from crishim.cni.results import PluginFailed
from crishim.linux.namespaces import inside
from crishim.model.sandbox import PortMapping
from tests.backends.runc.world import needs
from tests.cni.world import REAL, Node, namespace, real_plugins, run_in, sandbox

pytestmark = [
    pytest.mark.node,
    needs("unshare", "nsenter", "ip", "iptables"),
    pytest.mark.skipif(not REAL.exists(), reason="needs CNI plugins: apt-get install containernetworking-plugins"),
]


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    with namespace(tmp_path / "host") as path:
        yield path


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[str]:
    with namespace(tmp_path / "pod") as path:
        yield path


@pytest.fixture
def node(tmp_path: Path, host: str) -> Node:
    node = Node(tmp_path)
    real_plugins(node, host)
    ranges = [[{"subnet": "10.213.7.0/29"}], [{"subnet": "fd13:7::/125"}]]
    node.conflist(
        {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": True,
            "ipam": {
                "type": "host-local",
                "ranges": ranges,
                "dataDir": str(tmp_path / "ipam"),
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True},
        {"type": "firewall"},
    )
    return node


def leases(node: Node) -> list[str]:
    """The addresses that host-local has assigned."""
    files = (node.folder / "ipam" / "test").glob("*")
    return sorted(path.name for path in files if not path.name.startswith(("last_reserved", "lock")))


async def test_two_families_and_nothing_left(node: Node, host: str, pod: str) -> None:
    """A pod gets an address of each family on eth0; after tear_down its link, addresses and rules are gone."""
    assert (await node.network.ready()).ready
    addresses = await node.network.set_up(sandbox(netns=pod))
    assert ("10.213.7.2", "fd13:7::2") == addresses
    shown = run_in(pod, "ip", "-o", "addr", "show", "eth0", "scope", "global")
    assert {"10.213.7.2/29", "fd13:7::2/125"} == {line.split()[3] for line in shown.splitlines()}
    await node.network.tear_down(sandbox(netns=pod))
    assert [] == leases(node)
    assert "aaaaaaaa" not in run_in(host, "iptables-save")
    assert "10.213.7.2" not in run_in(host, "iptables-save")
    assert "eth0" not in run_in(pod, "ip", "-o", "link")


async def test_host_ports_reach_the_pod(node: Node, host: str, pod: str) -> None:
    """A host port leads to the pod from the node's own loopback, through portmap."""
    spec = sandbox(netns=pod, ports=(PortMapping(container_port=8080, host_port=18080),))
    await node.network.set_up(spec)

    def listen() -> socket.socket:
        listening = socket.create_server(("0.0.0.0", 8080))
        listening.setblocking(False)
        return listening

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello from the pod")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(greet, sock=inside(pod, listen)):
        stream = await SetnsDialer().dial(host, 18080)
        assert b"hello from the pod" == await stream.read()
        await stream.close()
    await node.network.tear_down(spec)
    assert "18080" not in run_in(host, "iptables-save")


async def test_addresses_are_freed_without_the_namespace(node: Node, tmp_path: Path) -> None:
    """When the namespace is gone, DEL still frees the addresses: a subnet of five can be used up again and again."""
    for turn in range(2):
        for number in range(5):
            name = f"{turn}{number}"
            with namespace(tmp_path / name) as path:
                await node.network.set_up(sandbox(name, netns=path))
        assert 10 == len(leases(node))
        for number in range(5):
            await node.network.tear_down(sandbox(f"{turn}{number}"))
        assert [] == leases(node)
    assert [] == node.cached()


async def test_a_used_up_subnet_is_reported(node: Node, tmp_path: Path) -> None:
    """The plugin's message about a full subnet reaches the caller, and the failed pod leaves nothing."""
    for number in range(5):
        with namespace(tmp_path / str(number)) as path:
            await node.network.set_up(sandbox(str(number), netns=path))
    with namespace(tmp_path / "x") as path:
        with pytest.raises(PluginFailed, match="no IP addresses available"):
            await node.network.set_up(sandbox("x", netns=path))
        await node.network.tear_down(sandbox("x"))
    assert 10 == len(leases(node))
    assert not [name for name in node.cached() if "xxxx" in name]
