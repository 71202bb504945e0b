"""containerd's Sandbox service over runtimes in memory: order of calls, exits, leftovers, bytes that are no request."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from crishim._proto import cri_pb2
from crishim._proto import shim_options_pb2 as options_pb
from crishim._proto import shim_sandbox_pb2 as pb
from crishim.errors import AlreadyExists, DeadlineExceeded, FailedPrecondition, InvalidArgument, NotFound, Unknown
from crishim.interfaces.oci_runtime import SupportsSandbox
from crishim.linux.cgroups import Cgroups
from crishim.linux.mounts import mounts_below, unmount_below
from crishim.model.process import Exit
from crishim.model.sandbox import SandboxSpec
from crishim.shimv2.server.options import RUNTIME
from crishim.shimv2.server.pause import add_pod_files
from crishim.shimv2.server.sandbox_routes import TABLE, sandbox_handlers
from crishim.shimv2.server.sandboxes import ShimSandboxes
from crishim.shimv2.server.task import Creation, Key, TaskRecords
from crishim.shimv2.server.tasks import Tasks
from crishim.shimv2.wire.messages import SANDBOX_SERVICE
from crishim.testing.doubles import FakeClock
from crishim.ttrpc.connection import Request
from tests.backends.runc.world import needs
from tests.shimv2.memory import PID, Heard, MemoryRuntime

pytestmark = needs("catatonit")

KEY = ("k8s.io", "pod")
ON_HOST = cri_pb2.PodSandboxConfig(
    metadata=cri_pb2.PodSandboxMetadata(name="pod", uid="u", namespace="n"),
    linux=cri_pb2.LinuxPodSandboxConfig(
        security_context=cri_pb2.LinuxSandboxSecurityContext(
            namespace_options=cri_pb2.NamespaceOption(network=cri_pb2.NODE, pid=cri_pb2.CONTAINER)
        )
    ),
)


class MachineRuntime(MemoryRuntime):
    """A runtime whose sandboxes are machines."""

    def __init__(self) -> None:
        super().__init__()
        self.machines: dict[str, asyncio.Future[Exit]] = {}
        self.failure: Exception | None = None

    async def start_sandbox(self, spec: SandboxSpec, bundle: Path) -> int:
        assert not any(os.scandir(bundle))
        self.machines[spec.id] = asyncio.get_running_loop().create_future()
        if self.failure is not None:
            raise self.failure
        return 77

    async def stop_sandbox(self, sandbox_id: str) -> None:
        if sandbox_id not in self.machines:
            raise NotFound("sandbox", sandbox_id)
        machine = self.machines.pop(sandbox_id)
        if not machine.done():
            machine.set_result(Exit(code=137))

    async def wait_sandbox(self, sandbox_id: str) -> Exit:
        return await asyncio.shield(self.machines[sandbox_id])


class SlowRuntime(MachineRuntime):
    """Its machines stop when `slow` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.slow = asyncio.Event()
        self.begun = 0
        self.stopped: list[str] = []

    async def stop_sandbox(self, sandbox_id: str) -> None:
        self.begun += sandbox_id in self.machines and not self.slow.is_set()
        await self.slow.wait()
        await super().stop_sandbox(sandbox_id)
        self.stopped.append(sandbox_id)


class StubbornRuntime(MemoryRuntime):
    """It refuses signals."""

    async def kill(self, container_id: str, signal: int, *, everyone: bool = False) -> None:
        raise Unknown("no signals today")


@attrs.define
class SandboxWorld:
    """The service of a daemon; `again` is that of its successor."""

    folder: Path
    runtime: MemoryRuntime
    bundle: Path = attrs.field(init=False)
    tasks: Tasks = attrs.field(init=False)
    sandboxes: ShimSandboxes = attrs.field(init=False)
    options: tuple[str, bytes] = ("", b"")
    forgotten: list[Key] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.bundle = self.folder / "bundle"
        self.bundle.mkdir(exist_ok=True)
        self.again()

    def again(self) -> None:
        cgroups = Cgroups(v2=True, root=self.folder / "cgroup")
        records = TaskRecords(self.folder / "tasks")
        self.tasks = Tasks(
            lambda *_: self.runtime, FakeClock(), Heard(), cgroups, records, pods=self.folder / "pods", unified=True
        )
        self.sandboxes = ShimSandboxes(
            lambda *_: self.runtime,
            FakeClock(),
            self.tasks,
            cgroups,
            self.folder,
            lambda _: self.options,
            self.forgotten.append,
        )

    async def call(self, method: str, request: Message | bytes = b"") -> bytes:
        payload = request if isinstance(request, bytes) else request.SerializeToString()
        if not payload:
            payload = TABLE[method].request(sandbox_id=KEY[1]).SerializeToString()
        handler = sandbox_handlers(self.sandboxes, KEY[0])[SANDBOX_SERVICE, method]
        return await handler(Request(service=SANDBOX_SERVICE, method=method, payload=payload))

    async def create(self, config: cri_pb2.PodSandboxConfig = ON_HOST, netns: str = "") -> None:
        options = Any(type_url="runtime.v1.PodSandboxConfig", value=config.SerializeToString())
        request = pb.CreateSandboxRequest(sandbox_id=KEY[1], bundle_path=str(self.bundle), options=options, netns_path=netns)
        await self.call("CreateSandbox", request)

    async def status(self) -> pb.SandboxStatusResponse:
        return pb.SandboxStatusResponse.FromString(await self.call("SandboxStatus"))

    def left(self) -> list[str]:
        """What is on this machine of the pod."""
        kinds = ("pods", "sandboxes", "tasks")
        found = [str(path.relative_to(self.folder)) for kind in kinds for path in (self.folder / kind).glob("*/*")]
        return [*found, *(mount.path for mount in mounts_below(self.folder)), *self.runtime.containers]

    async def member(self, *, by_file: bool = True) -> Path:
        """A created container of the pod; its bundle. Its sandbox is in a file, as with Task v3, or in an annotation."""
        bundle = self.folder / "member"
        bundle.mkdir()
        annotations = {"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.sandbox-id": KEY[1]}
        if by_file:
            annotations = {}
            (bundle / "sandbox").write_text(KEY[1])
        linux = {"namespaces": [{"type": "ipc", "path": "/proc/1/ns/ipc"}]}
        mounts = [
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm"},
            {"destination": "/etc/hosts", "type": "bind", "source": "/own"},
        ]
        config = {"mounts": mounts, "linux": linux, "root": {"readonly": True}, "annotations": annotations}
        (bundle / "config.json").write_text(json.dumps(config))
        await self.tasks.create((KEY[0], "member"), Creation(bundle=bundle))
        return bundle


@pytest.fixture(params=[MemoryRuntime, MachineRuntime])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SandboxWorld]:
    """Over a runtime that runs containers, and over one that has sandboxes of its own."""
    made = SandboxWorld(tmp_path, request.param())
    yield made
    unmount_below(tmp_path)


def end_it(world: SandboxWorld, code: int) -> None:
    """The sandbox ends by itself."""
    if isinstance(world.runtime, MachineRuntime):
        world.runtime.machines[KEY[1]].set_result(Exit(code=code))
    else:
        world.runtime.containers[KEY[1]].end.set_result(Exit(code=code))


async def test_a_whole_life(world: SandboxWorld) -> None:
    """Create, start, status, metrics, stop, wait, shutdown: the states are CRI's, and nothing is left."""
    await world.create()
    assert "SANDBOX_NOTREADY" == (await world.status()).state
    started = pb.StartSandboxResponse.FromString(await world.call("StartSandbox"))
    expected = 77 if isinstance(world.runtime, SupportsSandbox) else PID
    assert (expected, started.created_at) == (started.pid, (await world.status()).created_at)
    assert "SANDBOX_READY" == (await world.status()).state
    assert "linux" == pb.PlatformResponse.FromString(await world.call("Platform")).platform.os
    await world.call("PingSandbox")
    waiting = asyncio.ensure_future(world.call("WaitSandbox"))
    await asyncio.sleep(0)
    for _ in range(2):
        await world.call("StopSandbox")
    end = pb.WaitSandboxResponse.FromString(await waiting)
    status = await world.status()
    assert (137, "SANDBOX_NOTREADY", end.exited_at) == (end.exit_status, status.state, status.exited_at)
    assert 137 == pb.WaitSandboxResponse.FromString(await world.call("WaitSandbox")).exit_status
    for _ in range(2):
        await world.call("ShutdownSandbox")
    assert ([], 0) == (world.left(), len(world.sandboxes))
    with pytest.raises(NotFound):
        await world.call("PingSandbox")


async def test_a_sandbox_that_ends_by_itself(world: SandboxWorld) -> None:
    """WaitSandbox answers with its exit, the status is NOTREADY, and stop and shutdown succeed."""
    await world.create()
    await world.call("StartSandbox")
    waiting = asyncio.ensure_future(world.call("WaitSandbox"))
    await asyncio.sleep(0)
    end_it(world, 9)
    async with asyncio.timeout(10):
        assert 9 == pb.WaitSandboxResponse.FromString(await waiting).exit_status
    assert "SANDBOX_NOTREADY" == (await world.status()).state
    await world.call("StopSandbox")
    await world.call("ShutdownSandbox")
    assert [] == world.left()


async def test_calls_in_the_wrong_order(world: SandboxWorld) -> None:
    """Each is refused with the status of its reason, and harms nothing."""
    for method in sorted(set(TABLE) - {"CreateSandbox", "ShutdownSandbox"}):
        with pytest.raises(NotFound):
            await world.call(method)
    await world.call("ShutdownSandbox")
    await world.create()
    with pytest.raises(AlreadyExists):
        await world.create()
    with pytest.raises(FailedPrecondition):
        await world.call("WaitSandbox")
    await world.call("StartSandbox")
    with pytest.raises(FailedPrecondition):
        await world.call("StartSandbox")
    assert "SANDBOX_READY" == (await world.status()).state
    await world.call("StopSandbox")
    with pytest.raises(FailedPrecondition):
        await world.call("StartSandbox")
    await world.call("ShutdownSandbox")
    await world.create()
    await world.call("StopSandbox")
    assert 0 == pb.WaitSandboxResponse.FromString(await world.call("WaitSandbox")).exit_status
    await world.call("ShutdownSandbox")
    assert [] == world.left()


async def test_a_start_that_fails(world: SandboxWorld) -> None:
    """The runtime's error is the answer, and ShutdownSandbox frees what was begun; then the id can be used again."""
    world.runtime.refusal = Unknown("no machine")
    if isinstance(world.runtime, MachineRuntime):
        world.runtime.failure = world.runtime.refusal
    await world.create()
    with pytest.raises(Unknown, match="no machine"):
        await world.call("StartSandbox")
    with pytest.raises(FailedPrecondition):
        await world.call("StartSandbox")
    await world.call("ShutdownSandbox")
    assert [] == world.left()
    world.runtime.refusal = None
    await world.create()


@pytest.mark.parametrize("world", [SlowRuntime], indirect=True)
async def test_a_stop_goes_on_without_its_caller(world: SandboxWorld) -> None:
    """The stop continues after its time limit and after a disconnect: the sandbox ends without another call."""
    runtime = world.runtime
    assert isinstance(runtime, SlowRuntime)
    await world.create()
    await world.call("StartSandbox")
    with pytest.raises(DeadlineExceeded):
        await world.sandboxes.stop(KEY, 0.01)
    stopping = asyncio.ensure_future(world.call("StopSandbox"))
    await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.gather(stopping, return_exceptions=True)
    runtime.slow.set()
    async with asyncio.timeout(10):
        assert 137 == pb.WaitSandboxResponse.FromString(await world.call("WaitSandbox")).exit_status
    await world.call("ShutdownSandbox")
    assert (1, [], ["pod"]) == (runtime.begun, world.left(), runtime.stopped)


@pytest.mark.parametrize("world", [StubbornRuntime], indirect=True)
async def test_a_shutdown_does_not_need_a_kill(world: SandboxWorld) -> None:
    """A pause container whose kill is refused is freed by its deletion."""
    await world.create()
    await world.call("StartSandbox")
    await world.call("ShutdownSandbox")
    assert [] == world.left()


async def test_what_a_daemon_remembers_of_a_pod(world: SandboxWorld) -> None:
    """Of a pod that has ended, and of its containers, the daemon may forget what their `start` has named."""
    await world.create()
    await world.call("StartSandbox")
    await world.member()
    await world.call("ShutdownSandbox")
    assert [(KEY[0], "member"), KEY] == world.forgotten


async def test_a_second_create_during_the_first(world: SandboxWorld) -> None:
    """It is refused at once, though the options are read from a file; a first one that fails leaves the id free."""
    outcomes = await asyncio.gather(world.create(), world.create(), return_exceptions=True)
    assert [type(None), AlreadyExists] == [type(outcome) for outcome in outcomes]
    await world.call("ShutdownSandbox")
    world.options = (RUNTIME, options_pb.Options(config_path="/nowhere").SerializeToString())
    with pytest.raises(InvalidArgument, match="/nowhere"):
        await world.create()
    world.options = ("", b"")
    await world.create()


async def test_the_next_daemon_ends_it(world: SandboxWorld) -> None:
    """A sandbox of a daemon that has died is in the records of the next one, whose `delete` frees all of it."""
    await world.create()
    await world.call("StartSandbox")
    world.again()
    assert {KEY: world.bundle} == world.sandboxes.left()
    assert 137 == (await world.sandboxes.end(KEY, world.bundle)).code
    assert ([], {}) == (world.left(), world.sandboxes.left())
    assert 137 == (await world.sandboxes.end(KEY, world.bundle)).code


@pytest.mark.parametrize("by_file", [True, False])
async def test_shutdown_ends_the_containers_too(world: SandboxWorld, by_file: bool) -> None:
    """A container that was not deleted ends with its sandbox."""
    await world.create()
    await world.call("StartSandbox")
    await world.member(by_file=by_file)
    await world.call("ShutdownSandbox")
    assert ([], 0) == (world.left(), len(world.tasks))


@pytest.mark.parametrize("by_file", [True, False])
async def test_the_files_of_the_pod(world: SandboxWorld, by_file: bool) -> None:
    """A container gets those of the pod's files that containerd has not mounted, read-only with its root."""
    await world.create()
    await world.call("StartSandbox")
    bundle = await world.member(by_file=by_file)
    mounts = {one["destination"]: one for one in json.loads((bundle / "config.json").read_text())["mounts"]}
    pod = world.folder / "pods" / KEY[0] / KEY[1]
    assert {"/dev/shm", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"} == set(mounts)
    assert ("/own", str(pod / "shm")) == (mounts["/etc/hosts"]["source"], mounts["/dev/shm"]["source"])
    assert ["rbind", "rprivate", "ro"] == mounts["/etc/hostname"]["options"]
    await world.call("ShutdownSandbox")


async def test_a_network_that_does_not_fit(world: SandboxWorld) -> None:
    """A pod on the node's network has no namespace, and any other has one."""
    with pytest.raises(InvalidArgument, match="netns_path"):
        await world.create(netns="/proc/self/ns/net")
    with pytest.raises(InvalidArgument, match="netns_path"):
        await world.create(cri_pb2.PodSandboxConfig(metadata=ON_HOST.metadata))
    assert [] == world.left()


@pytest.mark.parametrize("method", sorted(TABLE))
async def test_nonsense(world: SandboxWorld, method: str) -> None:
    """Bytes that are no message are refused as such."""
    with pytest.raises(InvalidArgument):
        await world.call(method, b"\xff\xff\xff")


CONFIG = "runtime.v1.PodSandboxConfig"


@pytest.mark.parametrize("options", [Any(type_url=CONFIG, value=b"\xff"), Any(type_url=CONFIG), Any(type_url="a.b")])
async def test_a_configuration_that_is_none(world: SandboxWorld, options: Any) -> None:
    """A configuration that cannot be read, lacks its metadata, or is of another type, is refused."""
    with pytest.raises(InvalidArgument, match="options"):
        await world.call("CreateSandbox", pb.CreateSandboxRequest(sandbox_id="pod", bundle_path="/x", options=options))


def test_a_bundle_of_no_pod(tmp_path: Path) -> None:
    """Containers of containerd before 2, and of pods whose files containerd has, are left as they are."""
    assert "" == add_pod_files(tmp_path, tmp_path / "pods")
    (tmp_path / "config.json").write_text("{}")
    assert "" == add_pod_files(tmp_path, tmp_path / "pods")
    (tmp_path / "sandbox").write_text("other")
    assert "other" == add_pod_files(tmp_path, tmp_path / "pods")
    assert "{}" == (tmp_path / "config.json").read_text()
    assert not os.path.lexists(tmp_path / "pods")
