"""How plugins come: by the socket, from the folder, with wrong names, too late, twice, and as garbage."""

import asyncio
import json
import logging
import socket
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from crishim._proto import nri_pb2 as pb
from crishim.errors import CrishimError, Unknown
from crishim.nri.adaptation import NodeResourceInterface, NriSettings
from crishim.nri.connection import PLUGIN_SERVICE, RUNTIME_SERVICE, TimeLimits
from crishim.nri.multiplex import PLUGIN_CHANNEL, RUNTIME_CHANNEL, Trunk, encode
from crishim.testing import Harness
from crishim.testing.conformance.candidate import until
from crishim.ttrpc.client import Client
from crishim.ttrpc.connection import Request
from crishim.ttrpc.server import Handler, Server
from tests.nri.world import LIMITS, Noting, hang, nri_node, refusing

SCRIPT = """#!{python}
import asyncio, json, os, sys
from crishim.nri.plugin import NriPlugin

class Started(NriPlugin):
    async def configure(self, config, runtime, version):
        self.config = config

    async def run_pod_sandbox(self, pod):
        names = [os.environ["NRI_PLUGIN_NAME"], os.environ["NRI_PLUGIN_IDX"]]
        with open({out!r}, "w") as file:
            json.dump([*names, self.config, pod.name, sorted(os.environ)], file)

asyncio.run(Started().run())
"""


async def connected(path: Path, **handlers: Handler) -> tuple[Trunk, Client]:
    """A connection that has not registered, of a plugin with these handlers."""
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, str(path))
    trunk = Trunk()
    client = Client.over(trunk.channel(RUNTIME_CHANNEL).bind)
    Server({(PLUGIN_SERVICE, method): handler for method, handler in handlers.items()}).serve(
        trunk.channel(PLUGIN_CHANNEL).bind
    )
    await asyncio.get_running_loop().connect_accepted_socket(lambda: trunk, sock)
    return trunk, client


async def register(client: Client, name: str = "one", index: str = "10") -> None:
    message = pb.RegisterPluginRequest(plugin_name=name, plugin_idx=index)
    await client.call(RUNTIME_SERVICE, "RegisterPlugin", message.SerializeToString(), timeout=5)


async def test_the_socket_is_roots(tmp_path: Path) -> None:
    """Nobody else may connect, and the socket goes with the server."""
    async with nri_node(tmp_path) as node:
        assert 0o600 == stat.S_IMODE(node.socket.stat().st_mode)


class Brief(NodeResourceInterface):
    """Starts no plugin, and waits for none; its socket is known."""

    listener: socket.socket

    def _listen(self) -> socket.socket:
        listener = super()._listen()
        assert listener is not None
        self.listener = listener
        return listener

    async def _start_plugins(self) -> None:
        pass


async def test_the_socket_is_closed_at_once(tmp_path: Path) -> None:
    """The socket is closed at the end, even if accepting on it has not begun."""
    nri = Brief(NriSettings(socket=tmp_path / "nri.sock", plugins=tmp_path, configurations=tmp_path, limits=LIMITS), "1")
    async with Harness() as world:
        async with nri.serving(world.services.plugin_host):
            assert -1 != nri.listener.fileno()
        assert -1 == nri.listener.fileno()


async def test_another_runtime_has_the_socket(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A socket that somebody serves is left to them; one that nobody serves is taken."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "nri.sock"))
        other.listen()
        caplog.set_level(logging.WARNING)
        async with nri_node(tmp_path):
            assert "another runtime serves" in caplog.text
    async with nri_node(tmp_path) as node, node.plugin(Noting()):
        assert node.nri.active


@pytest.mark.parametrize(("name", "index"), [("", "10"), ("a b", "10"), ("a", ""), ("a", "1"), ("a", "x1"), ("a", "100")])
async def test_names_and_indices(tmp_path: Path, name: str, index: str) -> None:
    """A name is letters, digits and `-_.+`, an index two digits; others are refused, and the connection ends."""
    async with nri_node(tmp_path) as node:
        trunk, client = await connected(node.socket)
        with pytest.raises(CrishimError, match="plugin_"):
            await register(client, name, index)
        await client.ended()
        trunk.close()


async def test_a_second_registration(tmp_path: Path) -> None:
    """A plugin that registers twice is told so, and stays."""
    async with nri_node(tmp_path) as node:
        plugin = Noting()
        async with node.plugin(plugin):
            assert plugin._runtime is not None
            with pytest.raises(CrishimError, match="already exists"):
                await register(plugin._runtime)
            assert node.nri.active


async def test_who_never_registers(tmp_path: Path) -> None:
    """A connection without a registration ends after the time for it."""
    async with nri_node(tmp_path, TimeLimits(registration=0.05, request=5.0)) as node:
        _, client = await connected(node.socket)
        await asyncio.wait_for(client.ended(), 10)
        assert not node.nri.active


@pytest.mark.parametrize("reply", ["configure", "synchronize"])
async def test_who_hangs_before_it_takes_part(tmp_path: Path, reply: str) -> None:
    """A plugin that hangs over its configuration or its synchronization is dropped, and holds up nothing for longer."""
    plugin = Noting(synchronize=hang)
    if reply == "configure":
        plugin.configure = hang  # type: ignore[attr-defined]
    async with nri_node(tmp_path, TimeLimits(registration=0.2, request=0.2)) as node:
        running = asyncio.create_task(plugin.run(node.socket))
        await until(running.done)
        await node.world.run_container(await node.world.run_sandbox(), "main", "sleep")
        assert not node.nri.active


async def test_who_refuses_its_configuration(tmp_path: Path) -> None:
    """A plugin that refuses takes no part."""
    plugin = Noting()
    plugin.configure = refusing("bad config")  # type: ignore[attr-defined]
    async with nri_node(tmp_path) as node:
        await plugin.run(node.socket)
        assert not node.nri.active


@pytest.mark.parametrize(
    "data", [b"\0" * 100, b"\xff" * 100, encode(1, bytes(10)), encode(2, bytes(10)), b"GET / HTTP/1.1\r\n\r\n"]
)
async def test_garbage(tmp_path: Path, data: bytes) -> None:
    """Garbage on the socket harms nobody, and its connection ends."""
    async with nri_node(tmp_path, TimeLimits(registration=0.2, request=0.2)) as node, node.plugin(Noting()):
        reader, writer = await asyncio.open_unix_connection(str(node.socket))
        writer.write(data)
        await asyncio.wait_for(reader.read(), 10)
        writer.close()
        await node.world.run_sandbox()
        assert node.nri.active


async def test_what_cannot_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A request that cannot be read is refused, and a plugin is dropped over such an answer."""

    async def nonsense(_: Request) -> bytes:
        return b"\xff"

    async with nri_node(tmp_path) as node:
        trunk, client = await connected(node.socket, Configure=nonsense)
        with pytest.raises(CrishimError, match="the request cannot be read"):
            await client.call(RUNTIME_SERVICE, "RegisterPlugin", b"\xff", timeout=5)
        caplog.set_level(logging.WARNING)
        await register(client)
        await asyncio.wait_for(client.ended(), 10)
        trunk.close()
    assert ["NRI plugin 10-one is dropped"] == [record.message.partition(":")[0] for record in caplog.records]


class Old(Noting):
    """A plugin of before NRI 0.11, which knows of state changes alone."""

    def _handlers(self) -> Any:
        handlers = super()._handlers()
        known = {"Configure", "Synchronize", "CreateContainer", "UpdateContainer", "StopContainer"}
        return {**{name: handlers[name] for name in known}, "StateChange": self._state_change}

    async def _state_change(self, request: Any) -> bytes:
        event = pb.StateChangeEvent.FromString(request.payload)
        self.events.append((pb.Event.Name(event.event), event.container.id or event.pod.id))
        return b""


async def test_a_plugin_of_before(tmp_path: Path) -> None:
    """Older plugins receive as state changes what they do not serve by name (NRI's api.proto, StateChange)."""
    async with nri_node(tmp_path) as node, node.plugin(plugin := Old()):
        pod = await node.world.run_sandbox()
        container = await node.world.run_container(pod, "main", "sleep")
        await node.world.services.sandboxes.remove(pod)
    assert [
        ("RUN_POD_SANDBOX", pod),
        ("create_container", container),
        ("POST_CREATE_CONTAINER", container),
        ("START_CONTAINER", container),
        ("POST_START_CONTAINER", container),
        ("stop_container", container),
        ("STOP_POD_SANDBOX", pod),
        ("REMOVE_CONTAINER", container),
        ("REMOVE_POD_SANDBOX", pod),
    ] == plugin.events


async def test_a_synchronization_in_parts(tmp_path: Path) -> None:
    """What does not fit in one message comes in several; a plugin that cannot read them is dropped."""
    annotations = {"a": "x" * 500_000}
    async with nri_node(tmp_path) as node:
        pods = [await node.world.run_sandbox(f"pod{number}", annotations=annotations) for number in range(9)]
        async with node.plugin(plugin := Noting()):
            assert set(pods) == set(plugin.synced)

        class Short(Noting):
            async def _synchronize(self, request: Any) -> bytes:
                return b""

        await Short().run(node.socket)
        assert not node.nri.active


async def test_plugins_of_the_folder(tmp_path: Path) -> None:
    """A program of the folder is started with its name, index and configuration, and ends with the server."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "conf.d").mkdir()
    out = tmp_path / "out"
    for name in ("10-started", "nothing-of-ours", "20-not-executable"):
        program = tmp_path / "plugins" / name
        program.write_text(SCRIPT.format(python=sys.executable, out=str(out)))
        program.chmod(0o644 if "not" in name else 0o755)
    (tmp_path / "plugins" / "30-broken").write_text("#!/nonexistent\n")
    (tmp_path / "plugins" / "30-broken").chmod(0o755)
    (tmp_path / "plugins" / "40-unread").write_text("#!/bin/sh\n")
    (tmp_path / "plugins" / "40-unread").chmod(0o755)
    (tmp_path / "conf.d" / "unread.conf").write_bytes(b"\xff\xfe")
    (tmp_path / "conf.d" / "started.conf").write_text("by name")
    (tmp_path / "conf.d" / "10-started.conf").write_text("by index and name")
    async with nri_node(tmp_path) as node:
        assert ["10-started"] == [plugin.full_name for plugin in node.nri._plugins]
        await node.world.run_sandbox("mine")
    name, index, config, pod, environment = json.loads(out.read_text())
    assert ["started", "10", "by index and name", "mine"] == [name, index, config, pod]
    assert not {"HOME", "USER"} & set(environment)


async def test_a_program_that_does_not_register(tmp_path: Path) -> None:
    """It is killed after its time, and the server serves."""
    (tmp_path / "plugins").mkdir()
    program = tmp_path / "plugins" / "10-sleeps"
    program.write_text(f"#!/bin/sh\necho $$ >{tmp_path}/pid\nexec sleep 600\n")
    program.chmod(0o755)
    async with nri_node(tmp_path, TimeLimits(registration=1.0, request=1.0)) as node:
        await node.world.run_sandbox()
        pid = int((tmp_path / "pid").read_text())
        await until(lambda: not Path(f"/proc/{pid}").exists())
        assert not node.nri.active


async def test_without_a_socket(tmp_path: Path) -> None:
    """None may connect where no socket is configured."""
    nri = NodeResourceInterface(NriSettings(socket=None, plugins=tmp_path / "plugins"), "1")
    async with Harness(plugins=nri) as world, nri.serving(world.services.plugin_host):
        assert not nri.active
    assert [] == list(tmp_path.iterdir())  # noqa: ASYNC240 - after the fact


async def test_a_runtime_that_refuses(tmp_path: Path) -> None:
    """A plugin that the runtime refuses ends with the reason."""
    async with nri_node(tmp_path) as node:
        with pytest.raises(Unknown, match="plugin_idx"):
            await Noting("5-noting").run(node.socket)


async def test_a_socket_that_cannot_be(tmp_path: Path) -> None:
    """Where the socket cannot be created, the node serves without plugins that connect."""
    (tmp_path / "nri.sock").mkdir()
    async with nri_node(tmp_path) as node:
        await node.world.run_sandbox()
        assert not node.nri.active
