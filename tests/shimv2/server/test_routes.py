"""The wire of the shim server: every recorded request of containerd is accepted, under both versions of the service."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from crishim._proto import shim_task_pb2 as pb
from crishim._proto import shim_types_pb2 as types_pb
from crishim._proto import ttrpc_pb2
from crishim.errors import CrishimError, InvalidArgument, NotFound, Unimplemented
from crishim.linux.cgroups import Cgroups
from crishim.model.process import Exit
from crishim.shimv2.server.routes import delete_response, handlers, table
from crishim.shimv2.server.task import TaskRecords
from crishim.shimv2.server.tasks import Tasks
from crishim.shimv2.wire.messages import SERVICES
from crishim.testing.doubles import FakeClock, settle
from crishim.ttrpc.connection import Request
from tests.shimv2.golden import entries
from tests.shimv2.memory import PID, Heard, MemoryRuntime

RECORDINGS = ("containerd-1.6.jsonl", "containerd-2.4.jsonl")

ASKED = {
    "State": pb.StateRequest(id="t1"),
    "Create": pb.CreateTaskRequest(id="t1"),
    "Start": pb.StartRequest(id="t1"),
    "Delete": pb.DeleteRequest(id="t1"),
    "Pids": pb.PidsRequest(id="t1"),
    "Pause": pb.PauseRequest(id="t1"),
    "Resume": pb.ResumeRequest(id="t1"),
    "Checkpoint": pb.CheckpointTaskRequest(id="t1"),
    "Kill": pb.KillRequest(id="t1", signal=9),
    "Exec": pb.ExecProcessRequest(id="t1", exec_id="x"),
    "ResizePty": pb.ResizePtyRequest(id="t1", width=80, height=24),
    "CloseIO": pb.CloseIORequest(id="t1", stdin=True),
    "Update": pb.UpdateTaskRequest(id="t1"),
    "Wait": pb.WaitRequest(id="t1"),
    "Stats": pb.StatsRequest(id="t1"),
    "Connect": pb.ConnectRequest(id="t1"),
    "Shutdown": pb.ShutdownRequest(id="t1"),
}
"""A request of each method."""


class Wire:
    """The server's routes over a runtime in memory, called as by the wire."""

    def __init__(self, folder: Path) -> None:
        self.runtime = MemoryRuntime()
        self.bundle = folder / "bundle"
        self.bundle.mkdir()
        (self.bundle / "config.json").write_text(json.dumps({"linux": {"cgroupsPath": "/pods/t1"}}))
        cgroups = Cgroups(v2=True, root=folder / "cgroup")
        self.tasks = Tasks(
            lambda *_: self.runtime,
            FakeClock(),
            Heard(),
            cgroups,
            TaskRecords(folder / "tasks"),
            pods=folder / "pods",
            unified=True,
        )
        self.handlers = handlers(self.tasks, "k8s.io", 77)

    async def call(self, method: str, request: Any, version: int = 2) -> bytes:
        payload = request if isinstance(request, bytes) else request.SerializeToString()
        service = SERVICES[version]
        return await self.handlers[service, method](Request(service=service, method=method, payload=payload))


@pytest.fixture
async def wire(tmp_path: Path) -> Wire:
    return Wire(tmp_path)


def recorded(name: str) -> list[tuple[str, str, bytes]]:
    """Service, method and payload of each request that containerd sent."""
    calls = [entry for entry in entries(name) if entry.get("from") == "containerd" and entry.get("type") == 1]
    return [
        (entry["service"], entry["method"], ttrpc_pb2.Request.FromString(bytes.fromhex(entry["hex"])).payload)
        for entry in calls
    ]


def here(method: str, payload: bytes, folder: Path) -> Any:
    """A recorded request with the recording's paths led to a folder."""
    request = table(0)[method].request.FromString(payload)
    if method == "Create":
        request.bundle = str(folder / request.id)
        del request.rootfs[:]
    for name in ("stdin", "stdout", "stderr"):
        if isinstance(request, pb.CreateTaskRequest | pb.ExecProcessRequest):
            setattr(request, name, "")
    return request


def test_the_contract_has_seventeen_methods_in_two_services() -> None:
    """Both versions of the service answer every method of the contract."""
    described = pb.DESCRIPTOR.services_by_name
    methods = set(ASKED)
    assert 17 == len(methods)
    assert {(service, method) for service in SERVICES.values() for method in methods} == set(handlers(None, "a", 1))  # type: ignore[arg-type]
    assert all({method.name for method in service.methods} == methods for service in described.values())


@pytest.mark.parametrize("name", RECORDINGS)
async def test_recorded_requests_are_taken(tmp_path: Path, name: str) -> None:
    """The recorded requests of a pod's whole lifecycle are answered, except for signals to ended processes."""
    wire = Wire(tmp_path)
    wire.runtime.exec_end.set_result(Exit(code=3, at=5))
    refused: set[tuple[str, type[CrishimError]]] = set()
    waiting: list[asyncio.Future[bytes]] = []
    for service, method, payload in recorded(name):
        request = here(method, payload, tmp_path)
        if method == "Create":
            (tmp_path / request.id).mkdir()
            (tmp_path / request.id / "config.json").write_text("{}")
        answer = wire.handlers[service, method](Request(service=service, method=method, payload=request.SerializeToString()))
        if method == "Wait":
            waiting.append(asyncio.ensure_future(answer))
            await asyncio.sleep(0)
            continue
        if method == "Delete":
            await settle()  # containerd deletes what it knows to have ended
        try:
            await answer
        except CrishimError as error:
            refused.add((method, type(error)))
    async with asyncio.timeout(10):
        ends = [pb.WaitResponse.FromString(end).exit_status for end in await asyncio.gather(*waiting)]
    assert set(ends) <= {3, 137, 143}
    assert refused <= {("Kill", NotFound)}
    assert ({}, 0) == (wire.runtime.containers, len(wire.tasks))


@pytest.mark.parametrize("method", sorted(set(ASKED) - {"Create", "Checkpoint", "Shutdown", "Exec", "Update"}))
@pytest.mark.parametrize("version", [2, 3])
async def test_a_task_that_is_not_there(wire: Wire, method: str, version: int) -> None:
    """Every call for it raises NotFound."""
    with pytest.raises(NotFound):
        await wire.call(method, ASKED[method], version)


@pytest.mark.parametrize("method", sorted(ASKED))
async def test_nonsense(wire: Wire, method: str) -> None:
    """Bytes that are no message are refused as such."""
    with pytest.raises(InvalidArgument):
        await wire.call(method, b"\xff\xff\xff")


@pytest.mark.parametrize("value", [b"", b"[]", b"{", b"\xff"])
async def test_a_specification_that_is_none(wire: Wire, value: bytes) -> None:
    """An exec or an update whose JSON is no object is refused."""
    await wire.call("Create", pb.CreateTaskRequest(id="t1", bundle=str(wire.bundle)))
    execution = pb.ExecProcessRequest(id="t1", exec_id="x")
    execution.spec.value = value
    update = pb.UpdateTaskRequest(id="t1")
    update.resources.value = value
    with pytest.raises(InvalidArgument):
        await wire.call("Exec", execution)
    with pytest.raises(InvalidArgument):
        await wire.call("Update", update)


async def test_checkpoints_are_unimplemented(wire: Wire) -> None:
    """Both are said to be unimplemented."""
    with pytest.raises(Unimplemented):
        await wire.call("Checkpoint", ASKED["Checkpoint"])
    with pytest.raises(Unimplemented):
        await wire.call("Create", pb.CreateTaskRequest(id="t1", bundle=str(wire.bundle), checkpoint="/c"))


async def test_the_state_of_a_task(wire: Wire) -> None:
    """State has pid and bundle in every state, an exit time only after the exit; Connect has the server's pid."""
    await wire.call("Create", pb.CreateTaskRequest(id="t1", bundle=str(wire.bundle)))
    state = pb.StateResponse.FromString(await wire.call("State", ASKED["State"]))
    assert (types_pb.CREATED, PID, str(wire.bundle)) == (state.status, state.pid, state.bundle)
    assert not state.HasField("exited_at")
    connected = pb.ConnectResponse.FromString(await wire.call("Connect", ASKED["Connect"]))
    assert (77, PID) == (connected.shim_pid, connected.task_pid)
    await wire.call("Start", ASKED["Start"])
    assert types_pb.RUNNING == pb.StateResponse.FromString(await wire.call("State", ASKED["State"])).status
    await wire.call("Kill", ASKED["Kill"])
    waited = pb.WaitResponse.FromString(await wire.call("Wait", ASKED["Wait"]))
    state = pb.StateResponse.FromString(await wire.call("State", ASKED["State"]))
    assert (types_pb.STOPPED, 137) == (state.status, state.exit_status)
    assert (137, waited.exited_at) == (waited.exit_status, state.exited_at)
    deleted = pb.DeleteResponse.FromString(await wire.call("Delete", ASKED["Delete"]))
    assert (PID, 137, waited.exited_at) == (deleted.pid, deleted.exit_status, deleted.exited_at)


async def test_shutdown_ends_nothing(wire: Wire) -> None:
    """Containerd calls it after each pod; other tasks continue."""
    await wire.call("Create", pb.CreateTaskRequest(id="t1", bundle=str(wire.bundle)))
    await wire.call("Shutdown", pb.ShutdownRequest(id="other", now=True))
    assert 1 == len(wire.tasks)


async def test_usage_of_a_cgroup_that_is_gone(wire: Wire) -> None:
    """They are zeros of the version that the node has, not an error; and there are no processes."""
    await wire.call("Create", pb.CreateTaskRequest(id="t1", bundle=str(wire.bundle)))
    stats = pb.StatsResponse.FromString(await wire.call("Stats", ASKED["Stats"]))
    assert "io.containerd.cgroups.v2.Metrics" == stats.stats.type_url
    assert 0 == len(pb.PidsResponse.FromString(await wire.call("Pids", ASKED["Pids"])).processes)


def test_a_time_that_is_not_known() -> None:
    """An end without a time has the epoch's."""
    assert 0 == delete_response(3, Exit(code=1)).exited_at.seconds
