"""Fakes in memory: backend, images, network and namespaces, whose state outlives any `Services`.

`FakeBackend` refuses calls that violate the contract (by the tables of `lifecycle.states`), so a caller with a wrong order
fails its test. It keeps its state when the service that used it is dropped: that is how restarts are tested.

The command of a fake container determines what it does: `print TEXT...` writes a line and exits, `fail CODE`, `sleep`,
`stubborn` (ignores SIGTERM), `cat` (copies its stdin), `/no/such/program` (cannot be started), and those of `FakePrograms`,
which show what a process sees. Any other command runs until it is killed, or until the test calls `exits(...)`.
"""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import attrs

from crishim.errors import InvalidArgument, NotFound, Unavailable
from crishim.interfaces.backend import Backend, BackendInfo, NetnsSource
from crishim.interfaces.capabilities import (
    ByteStream,
    ByteWriter,
    ProcessIO,
    SupportsAttach,
    SupportsCheckpoint,
    SupportsClose,
    SupportsExec,
    SupportsLogReopen,
    SupportsPause,
    SupportsPortForward,
    SupportsSandboxUpdate,
    SupportsSandboxWait,
    SupportsStats,
    SupportsUpdate,
)
from crishim.interfaces.plugin import Plugin
from crishim.interfaces.seats import NetworkReady
from crishim.lifecycle.states import ContainerAct, container_after
from crishim.model.container import (
    CheckpointOrigin,
    ContainerCreated,
    ContainerSpec,
    ContainerState,
    ContainerStatus,
    Inventory,
    ObservedContainer,
)
from crishim.model.features import Feature
from crishim.model.image import AuthConfig, FilesystemUsage, Image, ImageConfig, ImageDetail, ImageFsInfo, ImageSpec
from crishim.model.process import ExecSpec, Exit
from crishim.model.resources import Resources
from crishim.model.runtime import PodCheckpoint
from crishim.model.sandbox import ObservedSandbox, PodSandboxConfig, SandboxSpec, SandboxStarted
from crishim.model.security import LinuxContainerUser
from crishim.model.stats import ContainerUsage, CpuUsage, MemoryUsage, SandboxUsage
from crishim.model.values import ContainerId, ImageId, SandboxId
from crishim.testing.conformance.programs import Fact
from crishim.testing.doubles import MemoryStream
from crishim.testing.fake_programs import FakeInside, FakePrograms

MISSING = "/no/such/program"
_TERM, _KILL = 15, 9
_SOON = 0.02
_PREFIX = 12


@attrs.frozen
class _Done:
    """The end of a fake command."""

    output: str
    code: int = 0
    stream: str = "stdout"


class FakeContainer:
    """A container of `FakeBackend`."""

    def __init__(self, spec: ContainerSpec) -> None:
        self.spec = spec
        self.state = ContainerState.CREATED
        self.started_at: int | None = None
        self.exit: Exit | None = None
        self.ended = asyncio.Event()
        self.paused = False
        self.resources = spec.resources
        self.attached: list[ByteWriter] = []
        self.log: list[tuple[str, str]] = []
        self.work: asyncio.Future[None] | None = None

    def act(self, act: ContainerAct) -> None:
        """Change state by the table. Raises `FailedPrecondition`."""
        self.state = container_after(self.state, act, f"fake container {self.spec.id}")

    def end(self, how: Exit) -> None:
        """End it, once."""
        if self.exit is None:
            self.act(ContainerAct.EXIT)
            self.exit = how
            self.ended.set()


class FakeSandbox:
    """A sandbox of `FakeBackend`."""

    def __init__(self, spec: SandboxSpec) -> None:
        self.spec = spec
        self.ready = True
        self.died = asyncio.Event()
        self.updates: list[tuple[Resources | None, Resources | None]] = []


class FakeBackend(
    Backend,
    SupportsExec,
    SupportsAttach,
    SupportsPortForward,
    SupportsSandboxWait,
    SupportsStats,
    SupportsUpdate,
    SupportsSandboxUpdate,
    SupportsLogReopen,
    SupportsPause,
    SupportsCheckpoint,
    SupportsClose,
):
    """A backend in memory that claims every capability; pass a smaller set to test a smaller backend.

    `calls` is the log of all verbs with their ids. With `logs_to_disk` False output is in `FakeContainer.log` only.
    """

    def __init__(
        self,
        *,
        netns: NetnsSource = NetnsSource.LIBRARY,
        supported: frozenset[Feature] = frozenset(Feature),
        capabilities: frozenset[type] | None = None,
        logs_to_disk: bool = True,
        inside: FakeInside | None = None,
    ) -> None:
        self._info = BackendInfo(name="fake", version="1.0.0", netns=netns, supported=supported)
        if capabilities is not None:
            self.capabilities = capabilities
        self._logs_to_disk = logs_to_disk
        self._inside = inside or FakeInside()
        self._scripted: dict[str, Exit] = {}
        self.away = ""
        self.calls: list[tuple[str, str]] = []
        self.sandboxes: dict[SandboxId, FakeSandbox] = {}
        self.containers: dict[ContainerId, FakeContainer] = {}
        self._created: dict[SandboxId, list[FakeContainer]] = {}
        """The containers that were created in each sandbox, with those that are gone, which `_members` leaves out."""
        self.pod_checkpoints: dict[str, PodCheckpoint] = {}

    def exits(self, name: str, code: int, *, oom: bool = False) -> None:
        """Make the container with this id or name exit with `code`: now if it runs, else as soon as it is started."""
        end = Exit(code=code, oom=oom)
        for container in self.containers.values():
            if name in {container.spec.id, container.spec.metadata.name} and container.state is ContainerState.RUNNING:
                container.end(end)
                return
        self._scripted[name] = end

    def vanish(self, container_id: ContainerId) -> None:
        """Drop a container as if it had been removed by another program."""
        self.containers.pop(container_id).ended.set()

    def die(self, sandbox_id: SandboxId) -> None:
        """End a sandbox's virtual machine or pause process."""
        sandbox = self.sandboxes[sandbox_id]
        sandbox.ready = False
        sandbox.died.set()

    def verbs(self, subject: str | None = None) -> list[str]:
        """The verbs that were called, in order; for one id, or all."""
        return [verb for verb, about in self.calls if subject in {None, about}]

    async def probe(self) -> BackendInfo:
        self._called("probe", "")
        return self._info

    async def inventory(self) -> Inventory:
        self._called("inventory", "")
        sandboxes = tuple(
            ObservedSandbox(id=seen.spec.id, ready=seen.ready, netns=seen.spec.netns, ips=seen.spec.ips)
            for seen in self.sandboxes.values()
        )
        containers = tuple(
            ObservedContainer(
                id=seen.spec.id,
                sandbox_id=seen.spec.sandbox.id,
                state=seen.state,
                started_at=seen.started_at,
                exit=seen.exit,
            )
            for seen in self.containers.values()
        )
        return Inventory(sandboxes=sandboxes, containers=containers)

    async def start_sandbox(self, spec: SandboxSpec) -> SandboxStarted:
        self._called("start_sandbox", spec.id)
        if spec.id in self.sandboxes:
            raise InvalidArgument("id", f"sandbox {spec.id} was started before")
        self.sandboxes[spec.id] = FakeSandbox(spec)
        own_netns = self._info.netns is NetnsSource.BACKEND and not spec.host_network
        return SandboxStarted(netns=f"/proc/{len(self.sandboxes)}/ns/net" if own_netns else "")

    async def stop_sandbox(self, sandbox_id: SandboxId) -> None:
        self._called("stop_sandbox", sandbox_id)
        sandbox = self._sandbox(sandbox_id)
        if alive := [member.spec.id for member in self._members(sandbox_id) if member.state is ContainerState.RUNNING]:
            raise InvalidArgument("id", f"sandbox {sandbox_id} was stopped before its containers {alive}")
        sandbox.ready = False
        sandbox.died.set()

    async def remove_sandbox(self, sandbox_id: SandboxId) -> None:
        self._called("remove_sandbox", sandbox_id)
        sandbox = self._sandbox(sandbox_id)
        if sandbox.ready:
            raise InvalidArgument("id", f"sandbox {sandbox_id} was removed before it was stopped")
        if members := [members.spec.id for members in self._members(sandbox_id)]:
            raise InvalidArgument("id", f"sandbox {sandbox_id} was removed before its containers {members}")
        del self.sandboxes[sandbox_id]
        self._created.pop(sandbox_id, None)

    async def create_container(self, spec: ContainerSpec) -> ContainerCreated | None:
        self._called("create_container", spec.id)
        self._sandbox(spec.sandbox.id)
        if spec.id in self.containers:
            raise InvalidArgument("id", f"container {spec.id} was created before")
        container = self.containers[spec.id] = FakeContainer(spec)
        self._created[spec.sandbox.id] = [*self._members(spec.sandbox.id), container]
        uid = int(spec.user.user) if spec.user.user.isdigit() else 0
        gid = int(spec.user.group) if spec.user.group.isdigit() else 0
        groups = (gid, *spec.user.supplemental_groups)
        return ContainerCreated(user=LinuxContainerUser(uid, gid, tuple(dict.fromkeys(groups))))

    async def start_container(self, container_id: ContainerId) -> None:
        self._called("start_container", container_id)
        container = self._container(container_id)
        if any(mount.image_sub_path.startswith("no/such/") for mount in container.spec.mounts):
            raise InvalidArgument("config.mounts.image_sub_path", "is not in the image")
        container.spec = self._inside.with_devices(container.spec)
        if container.spec.argv[0] == MISSING:
            container_after(container.state, ContainerAct.START)
            raise InvalidArgument("config.command", f"{MISSING} cannot be run")
        container.act(ContainerAct.START)
        container.started_at = 1
        self._inside.started(container.spec)
        if container.spec.log_path and self._logs_to_disk:
            path = Path(container.spec.log_path)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(0o640)
        names = {container.spec.id, container.spec.metadata.name} & self._scripted.keys()
        for name in names:
            container.end(self._scripted.pop(name))
        if container.exit is None and (end := await self._perform(container, container.spec.argv)) is not None:
            container.end(end)

    async def kill_container(self, container_id: ContainerId, signal: int) -> None:
        self._called("kill_container", container_id)
        container = self._container(container_id)
        if container.state is not ContainerState.RUNNING:
            raise NotFound("running container", container_id)
        if signal == _KILL or (signal == _TERM and container.spec.argv[0] != "stubborn"):
            container.end(Exit(code=128 + signal))

    async def wait_container(self, container_id: ContainerId) -> Exit:
        self._called("wait_container", container_id)
        container = self._container(container_id)
        await container.ended.wait()
        self._container(container_id)
        self._reachable()
        assert container.exit is not None
        return container.exit

    async def remove_container(self, container_id: ContainerId) -> None:
        self._called("remove_container", container_id)
        container = self._container(container_id)
        if container.state is ContainerState.RUNNING:
            raise InvalidArgument("id", f"container {container_id} was removed while it ran")
        del self.containers[container_id]
        self._inside.removed(container_id)

    async def exec(self, container_id: ContainerId, spec: ExecSpec, io: ProcessIO) -> Exit:
        self._called("exec", container_id)
        container = self._container(container_id)
        container_after(container.state, ContainerAct.EXEC)
        match spec.argv:
            case ("cat", *_):
                while io.stdin is not None and (data := await io.stdin.read()):
                    await _write(io.stdout, data)
            case ("count", *_):
                count = 0
                while io.stdin is not None and (data := await io.stdin.read()):
                    count += len(data)
                await _write(io.stdout, f"{count}\n".encode())
            case (program, *_) if program == MISSING:
                return Exit(code=127)
            case ("sleep", *_):
                await container.ended.wait()
                return Exit(code=137)
            case _:
                done = self._run(container, spec.argv, tty=spec.tty)
                if done is not None:
                    await _write({"stdout": io.stdout, "stderr": io.stderr}[done.stream], done.output.encode())
                    return Exit(code=done.code)
        return Exit(code=0)

    async def attach(self, container_id: ContainerId, io: ProcessIO) -> None:
        self._called("attach", container_id)
        container = self._container(container_id)
        container_after(container.state, ContainerAct.ATTACH)
        if io.stdout is not None:
            container.attached.append(io.stdout)
        copying = asyncio.ensure_future(self._copy_stdin(container, io))
        try:
            await container.ended.wait()
        finally:
            copying.cancel()
            if io.stdout is not None:
                container.attached.remove(io.stdout)

    async def dial(self, sandbox_id: SandboxId, port: int) -> ByteStream:
        self._called("dial", sandbox_id)
        self._sandbox(sandbox_id)
        if port == 1:
            raise Unavailable("connection refused on port 1")
        near, far = MemoryStream.pair()
        for member in self._members(sandbox_id):
            if member.spec.argv[:2] == ("serve", str(port)) and member.state is ContainerState.RUNNING:
                await far.write(f"{member.spec.argv[2]}\n".encode())
                return near
        asyncio.get_running_loop().create_task(_echo(far))
        return near

    async def wait_sandbox(self, sandbox_id: SandboxId) -> Exit:
        self._called("wait_sandbox", sandbox_id)
        await self._sandbox(sandbox_id).died.wait()
        return Exit(code=0)

    async def container_usage(self, container_id: ContainerId) -> ContainerUsage:
        container = self._container(container_id)
        cpu = CpuUsage(timestamp=1, usage_core_nano_seconds=1_000_000)
        memory = MemoryUsage(timestamp=1, usage_bytes=2_000_000, working_set_bytes=1_000_000)
        return ContainerUsage(cpu=cpu, memory=memory) if container.exit is None else ContainerUsage()

    async def sandbox_usage(self, sandbox_id: SandboxId) -> SandboxUsage:
        self._sandbox(sandbox_id)
        cpu = CpuUsage(timestamp=1, usage_core_nano_seconds=2_000_000)
        return SandboxUsage(cpu=cpu, memory=MemoryUsage(timestamp=1, working_set_bytes=3_000_000))

    async def update_container(self, container_id: ContainerId, resources: Resources) -> None:
        self._called("update_container", container_id)
        self._container(container_id).resources = resources

    async def update_sandbox(self, sandbox_id: SandboxId, overhead: Resources | None, resources: Resources | None) -> None:
        self._called("update_sandbox", sandbox_id)
        self._sandbox(sandbox_id).updates.append((overhead, resources))

    async def reopen_log(self, container_id: ContainerId) -> None:
        self._called("reopen_log", container_id)
        path = self._container(container_id).spec.log_path
        if path and self._logs_to_disk:
            Path(path).touch(0o640)

    async def pause_container(self, container_id: ContainerId) -> None:
        self._called("pause_container", container_id)
        self._container(container_id).paused = True

    async def resume_container(self, container_id: ContainerId) -> None:
        self._called("resume_container", container_id)
        self._container(container_id).paused = False

    async def checkpoint(self, container_id: ContainerId, path: str, status: ContainerStatus, addresses: Sequence[str]) -> None:
        self._called("checkpoint", container_id)
        self._container(container_id)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        content = {"name": status.metadata.name, "image": status.image.image, "addresses": list(addresses)}
        Path(path).write_text(json.dumps(content))

    async def checkpoint_origin(self, path: str) -> CheckpointOrigin:
        if not Path(path).is_file():
            raise NotFound("checkpoint", path)
        content = json.loads(Path(path).read_text())
        return CheckpointOrigin(name=content["name"], image=content["image"])

    async def write_pod_checkpoint(self, folder: str, checkpoint: PodCheckpoint) -> None:
        self._called("write_pod_checkpoint", checkpoint.sandbox_id)
        self.pod_checkpoints[folder] = checkpoint

    async def read_pod_checkpoint(self, folder: str) -> PodCheckpoint:
        if folder not in self.pod_checkpoints:
            raise NotFound("checkpoint", folder)
        return self.pod_checkpoints[folder]

    async def restore(self, spec: ContainerSpec, path: str) -> ContainerCreated | None:
        await self.checkpoint_origin(path)
        return await self.create_container(spec)

    async def close(self) -> None:
        self._called("close", "")

    async def _perform(self, container: FakeContainer, argv: tuple[str, ...]) -> Exit | None:
        match argv:
            case ("later", first, later, code):
                await self._output(container, "stdout", first)
                self._soon(container, lambda: self._finish(container, later, int(code)))
            case ("after", event, *command):
                await self._output(container, "stdout", "waiting")
                self._soon(container, lambda: self._run_after(container, event, tuple(command)))
            case ("exhaust", size):
                oom = 0 < container.resources.memory_limit_in_bytes < int(size)
                return Exit(code=137, oom=True) if oom else Exit(code=0)
            case ("tick", text):
                self._soon(container, lambda: self._output(container, "stdout", text))
            case _:
                return await self._log_run(container, argv)
        return None

    async def _log_run(self, container: FakeContainer, argv: tuple[str, ...]) -> Exit | None:
        """Run a command, with its output in the log; None for one that does not end by itself."""
        done = self._run(container, argv, tty=container.spec.tty)
        if done is None:
            return None
        if done.output:
            await self._output(container, done.stream, done.output.removesuffix("\n"))
        return Exit(code=done.code)

    def _run(self, container: FakeContainer, argv: tuple[str, ...], *, tty: bool) -> "_Done | None":
        """What came of a command that ends by itself; None for one that does not."""
        spec, inside = container.spec, self._inside
        match argv:
            case ("print" | "echo", *words):
                return _Done(" ".join(words) + "\n")
            case ("complain", *words):
                return _Done(" ".join(words) + "\n", 1, "stderr")
            case ("fail", code):
                return _Done("", int(code))
            case ("show", fact):
                return _Done(inside.fact(spec, Fact[fact], container.resources, tty=tty) + "\n")
            case ("variable", name):
                return _Done(inside.variable(spec, name) + "\n")
            case ("read", path):
                return _done(lambda: inside.read(spec, path))
            case ("write", path):
                return _done(lambda: inside.write(spec, path))
            case ("open", path):
                return _done(lambda: inside.open(spec, path))
            case ("owner", path):
                return _done(lambda: inside.owner(spec, path) + "\n")
            case ("mount", path):
                return _done(lambda: inside.mount(spec, path))
        return None

    def _soon(self, container: FakeContainer, act: Callable[[], Awaitable[None]]) -> None:
        """Do something soon, and again until the container ends."""

        async def repeat() -> None:
            while container.exit is None:
                await asyncio.sleep(_SOON)
                if container.exit is None:
                    await act()

        container.work = asyncio.ensure_future(repeat())

    async def _run_after(self, container: FakeContainer, event: str, argv: tuple[str, ...]) -> None:
        """Run a command that ends by itself, if a file is there."""
        if _done(lambda: self._inside.read(container.spec, event)).code == 0:
            end = await self._log_run(container, argv)
            assert end is not None
            container.end(end)

    async def _finish(self, container: FakeContainer, text: str, code: int) -> None:
        await self._output(container, "stdout", text)
        container.end(Exit(code=code))

    async def _output(self, container: FakeContainer, stream: str, text: str) -> None:
        container.log.append((stream, text))
        for attached in container.attached:
            await attached.write(text.encode() + b"\n")
        if container.spec.log_path and self._logs_to_disk:
            with Path(container.spec.log_path).open("a", encoding="utf-8") as log:
                log.writelines(f"1970-01-01T00:00:00.000000001Z {stream} F {line}\n" for line in text.split("\n"))

    async def _copy_stdin(self, container: FakeContainer, io: ProcessIO) -> None:
        while io.stdin is not None and (data := await io.stdin.read()):
            if container.spec.argv[0] == "cat":
                for line in data.decode(errors="replace").splitlines():
                    await self._output(container, "stdout", line)
        if io.stdin is not None and container.spec.stdin_once and container.spec.argv[0] == "cat":
            container.end(Exit(code=0))

    def _called(self, verb: str, subject: str) -> None:
        self.calls.append((verb, subject))
        self._reachable()

    def _reachable(self) -> None:
        if self.away:
            raise Unavailable(self.away)

    def _sandbox(self, sandbox_id: SandboxId) -> FakeSandbox:
        if sandbox_id not in self.sandboxes:
            raise NotFound("sandbox", sandbox_id)
        return self.sandboxes[sandbox_id]

    def _container(self, container_id: ContainerId) -> FakeContainer:
        if container_id not in self.containers:
            raise NotFound("container", container_id)
        return self.containers[container_id]

    def _members(self, sandbox_id: SandboxId) -> list[FakeContainer]:
        return [one for one in self._created.get(sandbox_id, ()) if self.containers.get(one.spec.id) is one]


plugin = Plugin(
    build=lambda _: FakeBackend(netns=NetnsSource.NONE, supported=frozenset(Feature) - {Feature.HOST_PORTS}),
    exam={"programs": FakePrograms(), "survives_restart": False},
)
"""The fake as a plug-in, for `crishim play --backend crishim.testing.fakes:plugin` and the like."""


class FakeImages:
    """Images in memory: `details` by id. `add` adds one; `pull` adds any reference, or raises its exception in `refusals`."""

    def __init__(self) -> None:
        self.details: dict[ImageId, ImageDetail] = {}
        self.refusals: dict[str, Exception] = {}
        self.pulls: list[str] = []

    def add(self, reference: str, config: ImageConfig = ImageConfig(cmd=("sleep",))) -> ImageId:  # noqa: B008 - frozen
        """Add an image, and return its id."""
        image_id = ImageId("sha256:" + hashlib.sha256(reference.encode()).hexdigest())
        digest = f"{reference.partition(':')[0]}@{image_id}"
        image = Image(id=image_id, repo_tags=(reference,), repo_digests=(digest,), size=1000)
        self.details[image_id] = ImageDetail(image=image, config=config)
        return image_id

    async def list(self) -> tuple[Image, ...]:
        return tuple(detail.image for detail in self.details.values())

    async def status(self, image: ImageSpec) -> ImageDetail | None:
        for detail in self.details.values():
            names = {detail.image.id, *detail.image.repo_tags, *detail.image.repo_digests}
            is_prefix = len(image.image) >= _PREFIX and detail.image.id.removeprefix("sha256:").startswith(image.image)
            if image.image in names or f"{image.image}:latest" in names or is_prefix:
                return detail
        return None

    async def pull(self, image: ImageSpec, auth: AuthConfig | None, sandbox: PodSandboxConfig | None) -> ImageId:
        del auth, sandbox
        self.pulls.append(image.image)
        if image.image in self.refusals:
            raise self.refusals[image.image]
        detail = await self.status(image)
        return detail.image.id if detail else self.add(image.image)

    async def remove(self, image: ImageSpec) -> None:
        if (detail := await self.status(image)) is not None:
            del self.details[detail.image.id]

    async def fs_info(self) -> ImageFsInfo:
        return ImageFsInfo(image_filesystems=(FilesystemUsage(timestamp=1, mountpoint="/", used_bytes=1, inodes_used=1),))


class FakeNetwork:
    """A network in memory: `addresses` by sandbox id, until the sandbox is torn down."""

    def __init__(self) -> None:
        self.addresses: dict[SandboxId, str] = {}
        self.state = NetworkReady(ready=True)
        self._next = 1

    async def set_up(self, spec: SandboxSpec) -> tuple[str, ...]:
        self.addresses[spec.id] = f"10.88.{self._next // 256}.{self._next % 256}"
        self._next += 1
        return (self.addresses[spec.id],)

    async def tear_down(self, spec: SandboxSpec) -> None:
        self.addresses.pop(spec.id, None)

    async def ready(self) -> NetworkReady:
        return self.state


class FakeNamespaces:
    """Namespaces that are only `paths`, by sandbox id, until they are removed."""

    def __init__(self) -> None:
        self.paths: dict[SandboxId, str] = {}

    async def create(self, spec: SandboxSpec) -> str:
        self.paths[spec.id] = f"/fake/netns/{spec.id}"
        return "" if spec.host_network else self.paths[spec.id]

    async def connected(self, spec: SandboxSpec) -> None:
        assert spec.id in self.paths

    def path(self, sandbox_id: SandboxId, kind: str) -> str:
        return self.paths.get(sandbox_id, "") if kind == "net" else ""

    async def remove(self, sandbox_id: SandboxId) -> None:
        self.paths.pop(sandbox_id, None)


def _done(work: Callable[[], str]) -> _Done:
    try:
        return _Done(work())
    except OSError as error:
        return _Done(f"{error}\n", 1, "stderr")


async def _write(stream: ByteWriter | None, data: bytes) -> None:
    if stream is not None and data:
        await stream.write(data)


async def _echo(stream: MemoryStream) -> None:
    while data := await stream.read():
        await stream.write(data)
    await stream.write_eof()
