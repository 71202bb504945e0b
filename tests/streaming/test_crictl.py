"""crictl's own exec, attach and port-forward, with both transports, over gRPC: on the process backend and on runc."""

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest

from crishim.backends.process import HostImages, ProcessBackend
from crishim.backends.runc.pods import build
from crishim.cni.network import SetnsDialer
from crishim.cri import Dispatcher
from crishim.interfaces.backend import Backend, BackendContext
from crishim.model.sandbox import LinuxPodSandboxConfig
from crishim.model.security import LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption
from crishim.model.values import ContainerId, SandboxId
from crishim.pods.namespaces import PinnedNamespaces
from crishim.server import serve
from crishim.service.services import Services
from crishim.streaming.server import StreamServer
from crishim.system import SystemClock
from crishim.testing.harness import container_config, sandbox_config
from crishim.testing.roots import BusyboxRoots
from tests.backends.runc.world import needs

CRICTL = shutil.which("crictl") or ""
pytestmark = pytest.mark.skipif(not CRICTL, reason="needs crictl: docs/how-to/debug.md says how to get it")
both = pytest.mark.parametrize("transport", ["spdy", "websocket"])


@attrs.frozen
class Crictl:
    """crictl against one served pod with a container that copies its stdin to its stdout."""

    socket: Path
    sandbox_id: SandboxId
    container_id: ContainerId

    async def start(self, verb: str, transport: str, *words: str) -> asyncio.subprocess.Process:
        endpoint = f"unix://{self.socket}"
        config = self.socket.with_name("crictl.yaml")  # an empty one: without any, crictl warns on stderr
        config.touch()
        ends = ("--config", str(config), "--runtime-endpoint", endpoint, "--image-endpoint", endpoint)
        command = (CRICTL, *ends, verb, "--transport", transport, *words)
        return await asyncio.create_subprocess_exec(*command, stdin=-1, stdout=-1, stderr=-1)

    async def run(self, verb: str, transport: str, *words: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
        """Exit code, stdout and stderr."""
        child = await self.start(verb, transport, *words)
        stdout, stderr = await child.communicate(stdin)
        assert child.returncode is not None
        return child.returncode, stdout, stderr


HOST = LinuxPodSandboxConfig(
    security_context=LinuxSandboxSecurityContext(
        namespace_options=NamespaceOption(network=NamespaceMode.NODE, pid=NamespaceMode.CONTAINER)
    )
)
"""On the node's network, so that the tests' own listener is the pod's port."""


@pytest.fixture(
    params=["process", pytest.param("runc", marks=[pytest.mark.node, needs("runc", "conmon", "busybox", "unshare")])]
)
async def crictl(request: pytest.FixtureRequest) -> AsyncIterator[Crictl]:
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        pins = PinnedNamespaces(folder / "pins")
        stack.callback(pins.close)
        context = BackendContext(
            state=folder,
            runtime_state=folder / "run",
            clock=SystemClock(),
            rootfs=BusyboxRoots(folder / "roots"),
            namespaces=pins,
        )
        streams = StreamServer()
        backend: Backend = build(context) if request.param == "runc" else ProcessBackend(context)
        if isinstance(backend, ProcessBackend):
            stack.push_async_callback(backend.close)
        core = Services(backends={"": backend}, images=HostImages(context), namespaces=pins, dialer=SetnsDialer(), urls=streams)
        services = await stack.enter_async_context(core)
        await stack.enter_async_context(streams.serving(services.streams))
        await stack.enter_async_context(serve(Dispatcher(services), folder / "cri.sock"))
        sandbox_id = await services.sandboxes.run(sandbox_config(hostname="", log_directory=str(folder), linux=HOST), "")
        stack.push_async_callback(services.sandboxes.remove, sandbox_id)
        config = container_config("main", "cat", stdin=True, log_path="main.log")
        await services.images.pull(config.image, None, None)
        container_id = await services.containers.create(sandbox_id, config, None)
        await services.containers.start(container_id)
        yield Crictl(folder / "cri.sock", sandbox_id, container_id)


@both
async def test_exec(crictl: Crictl, transport: str) -> None:
    """Output, errors and the exit code come through."""
    words = (crictl.container_id, "sh", "-c", "echo out; echo err >&2; exit 7")
    code, stdout, stderr = await crictl.run("exec", transport, *words)
    assert code != 0
    assert b"out\n" == stdout
    assert b"err\n" in stderr
    assert b"exit code 7" in stderr


@both
async def test_exec_with_stdin(crictl: Crictl, transport: str) -> None:
    """What is piped in comes out whole, and its end ends the program."""
    sent = os.urandom(3_000_000)
    assert (0, sent, b"") == await crictl.run("exec", transport, "-i", crictl.container_id, "cat", stdin=sent)


@both
async def test_attach(crictl: Crictl, transport: str) -> None:
    """A line that is typed into an attached container comes back."""
    child = await crictl.start("attach", transport, "-i", crictl.container_id)
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(b"hello\n")
    assert b"hello\n" == await child.stdout.readline()
    child.kill()
    await child.communicate()


@both
async def test_port_forward(crictl: Crictl, transport: str) -> None:
    """A local port leads to the pod's."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0)
    child = await crictl.start("port-forward", transport, crictl.sandbox_id, f":{listener.sockets[0].getsockname()[1]}")
    async with listener:
        assert child.stdout is not None
        announced = (await child.stdout.readline()).decode()  # Forwarding from 127.0.0.1:LOCAL -> PORT
        local = int(announced.split(" -> ")[0].rpartition(":")[2])
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", local)
            writer.write(b"question\n")
            assert b"QUESTION\n" == await reader.read()
            writer.close()
            await writer.wait_closed()
        child.kill()
        await child.communicate()
