"""A pod behind the URLs of an API server, and Kubernetes' own clients as programs with the same arguments."""

import asyncio
import contextlib
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import attrs
import pytest

from crishim.backends.process import HostImages, ProcessBackend
from crishim.backends.runc.pods import build
from crishim.cni.network import SetnsDialer
from crishim.interfaces.backend import Backend, BackendContext
from crishim.interfaces.seats import Rootfs
from crishim.model.process import ExecRequest, PortForwardRequest
from crishim.model.sandbox import LinuxPodSandboxConfig
from crishim.model.security import LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption
from crishim.model.values import ContainerId, ImageId, SandboxId
from crishim.pods.namespaces import PinnedNamespaces
from crishim.service.services import Services
from crishim.service.streams import Streams
from crishim.streaming.server import StreamServer
from crishim.system import SystemClock
from crishim.testing.harness import container_config, sandbox_config
from crishim.testing.roots import BusyboxRoots

HERE = Path(__file__).parent
HOST = LinuxPodSandboxConfig(
    security_context=LinuxSandboxSecurityContext(
        namespace_options=NamespaceOption(network=NamespaceMode.NODE, pid=NamespaceMode.CONTAINER)
    )
)
"""On the node's network, so that a test's own listener is the pod's port."""


@attrs.frozen
class ApiServer:
    """Maps /api/v1/namespaces/N/pods/P/VERB to the URL that CRI answers, and passes the bytes on as they are.

    API server and kubelet do the same for one pod after the other; here there is one, whatever its name.
    """

    streams: Streams
    sandbox_id: SandboxId
    container_id: ContainerId

    async def _streaming_url(self, target: str) -> str:
        parts = urlsplit(target)
        query = parse_qs(parts.query)
        if parts.path.endswith("/portforward"):
            ports = tuple(int(port) for word in query.get("ports", []) for port in word.split(","))
            return await self.streams.port_forward(PortForwardRequest(pod_sandbox_id=self.sandbox_id, port=ports))
        flags = {name: query.get(name, [""])[0].lower() in {"true", "1"} for name in ("stdin", "stdout", "stderr", "tty")}
        return await self.streams.exec(ExecRequest(container_id=self.container_id, cmd=tuple(query["command"]), **flags))

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, target, rest = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)
        url = urlsplit(await self._streaming_url(target.decode()))
        from_crishim, to_crishim = await asyncio.open_connection(url.hostname, url.port)
        to_crishim.write(b" ".join((method, url.path.encode(), rest)))
        await asyncio.gather(_copy(reader, to_crishim), _copy(from_crishim, writer))
        for end in (to_crishim, writer):
            end.close()
            with contextlib.suppress(OSError):
                await end.wait_closed()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(256 * 1024):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


@attrs.frozen
class Client:
    """One of Kubernetes' clients, and a served pod."""

    command: tuple[str, ...]
    pod: "Pod"

    async def start(self, verb: str, *words: str, flags: tuple[str, ...] = ()) -> asyncio.subprocess.Process:
        where = (f"--server={self.pod.url}", f"--verb={verb}", "--pod=default/pod", "--container=main")
        return await asyncio.create_subprocess_exec(*self.command, *where, *flags, "--", *words, stdin=-1, stdout=-1, stderr=-1)

    async def run(
        self, verb: str, *words: str, stdin: bytes | None = None, flags: tuple[str, ...] = ()
    ) -> tuple[int | None, bytes, bytes]:
        """Exit code, stdout, stderr."""
        child = await self.start(verb, *words, flags=flags if stdin is None else ("--stdin", *flags))
        try:
            async with asyncio.timeout(300):
                stdout, stderr = await child.communicate(stdin)
        finally:
            if child.returncode is None:
                child.kill()
        return child.returncode, stdout, stderr

    async def exec(
        self, *words: str, stdin: bytes | None = None, flags: tuple[str, ...] = ()
    ) -> tuple[int | None, bytes, bytes]:
        return await self.run("exec", *words, stdin=stdin, flags=flags)


@attrs.frozen
class Pod:
    """Where its API server is, and a folder that its container may write."""

    url: str
    folder: str


class _Roots(BusyboxRoots):
    """With what a copy needs."""

    async def prepare(self, container_id: ContainerId, image_id: ImageId, userns: str = "", label: str = "") -> Rootfs:
        rootfs = await super().prepare(container_id, image_id, userns, label)
        programs = Path(rootfs.upper) / "bin"
        for applet in ("tar", "sha256sum"):
            (programs / applet).hardlink_to(programs / "busybox")
        return rootfs


@contextlib.asynccontextmanager
async def served_pod(backend_name: str, folder: Path) -> AsyncIterator[Pod]:
    """A pod with a container that sleeps, on this backend."""
    async with contextlib.AsyncExitStack() as stack:
        pins = PinnedNamespaces(folder / "pins")
        stack.callback(pins.close)
        roots = _Roots(folder / "roots")
        context = BackendContext(state=folder, runtime_state=folder / "run", clock=SystemClock(), rootfs=roots, namespaces=pins)
        streams = StreamServer()
        backend: Backend = build(context) if backend_name == "runc" else ProcessBackend(context)
        if isinstance(backend, ProcessBackend):
            stack.push_async_callback(backend.close)
        core = Services(backends={"": backend}, images=HostImages(context), namespaces=pins, dialer=SetnsDialer(), urls=streams)
        services = await stack.enter_async_context(core)
        await stack.enter_async_context(streams.serving(services.streams))
        sandbox_id = await services.sandboxes.run(sandbox_config(hostname="", log_directory=str(folder), linux=HOST), "")
        stack.push_async_callback(services.sandboxes.remove, sandbox_id)
        config = container_config("main", "sleep", "100000", log_path="main.log")
        await services.images.pull(config.image, None, None)
        container_id = await services.containers.create(sandbox_id, config, None)
        await services.containers.start(container_id)
        api = ApiServer(services.streams, sandbox_id, container_id)
        listener = await stack.enter_async_context(await asyncio.start_server(api.connected, "127.0.0.1", 0))
        inside = folder / "inside"
        inside.mkdir()
        port = listener.sockets[0].getsockname()[1]
        yield Pod(f"http://127.0.0.1:{port}", "/tmp" if backend_name == "runc" else str(inside))


def client_go(folder: Path) -> tuple[str, ...]:
    """client-go's program, built; skips where go or its modules are missing."""
    if shutil.which("go") is None:
        pytest.skip("needs go: https://go.dev/dl, or apt-get install golang-go from backports")
    where = HERE / "go"
    fetched = subprocess.run(["go", "mod", "download"], cwd=where, capture_output=True, text=True, check=False)
    if fetched.returncode:
        pytest.skip(f"needs the modules of client-go: go mod download in {where}: {fetched.stderr}")
    subprocess.run(["go", "build", "-o", folder / "client-go", "."], cwd=where, check=True)
    return (str(folder / "client-go"),)


def client_node(folder: Path) -> tuple[str, ...]:
    """Node's client, installed; skips where node, npm or its packages are missing."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("needs node and npm: apt-get install nodejs npm")
    where = folder / "node"
    shutil.copytree(HERE / "node", where)
    words = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock"]
    fetched = subprocess.run(words, cwd=where, capture_output=True, text=True, check=False)
    if fetched.returncode:
        pytest.skip(f"needs the packages of @kubernetes/client-node: npm install in {HERE / 'node'}: {fetched.stderr}")
    return ("node", str(where / "main.mjs"))


def client_python(_: Path) -> tuple[str, ...]:
    """Python's client; skips where it is not installed."""
    pytest.importorskip("kubernetes", reason="needs the package kubernetes: pip install 'crishim[dev]'")
    return (sys.executable, str(HERE / "python" / "main.py"))
