"""The task service of shim v2 as a table: 17 rows of method, request type and handler. Task v2 and v3 have the same messages.

Only this module and `sandbox_routes` convert the messages of the wire.
"""

import json
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any as AnyValue
from typing import Final, Generic, TypeVar

import attrs
from google.protobuf.any_pb2 import Any
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from crishim._proto import shim_task_pb2 as pb
from crishim._proto import shim_types_pb2 as types_pb
from crishim.errors import CrishimError, InvalidArgument, Unimplemented
from crishim.interfaces.oci_runtime import OciStatus
from crishim.model.process import Exit, TerminalSize
from crishim.shimv2.server.rootfs import RootMount
from crishim.shimv2.server.task import Creation, IoPaths, Key
from crishim.shimv2.server.tasks import Tasks
from crishim.shimv2.wire.messages import SERVICES, STATUSES, timestamp_of
from crishim.shimv2.wire.metrics import encode_metrics
from crishim.ttrpc.connection import Request
from crishim.ttrpc.server import Handler, message_of

R = TypeVar("R", bound=Message)
S = TypeVar("S")

_WIRE_STATUS: Final = {status: number for number, status in STATUSES.items()} | {OciStatus.PAUSED: types_pb.PAUSED}


@attrs.frozen
class Row(Generic[S, R]):
    """A method of a service: its request type, and its handler, which receives the service's subject."""

    request: type[R]
    call: Callable[[S, Key, R], Awaitable[Message]]
    id: str = "id"
    """The request's field with the name of the task or sandbox."""


async def _create(tasks: Tasks, key: Key, request: pb.CreateTaskRequest) -> Message:
    if request.checkpoint:
        raise Unimplemented("Restore", "checkpoints are not restored")
    mounts = tuple(
        RootMount(kind=mount.type, source=mount.source, target=mount.target, options=tuple(mount.options))
        for mount in request.rootfs
    )
    options = (request.options.type_url.rpartition("/")[2], request.options.value)
    creation = Creation(bundle=Path(request.bundle), mounts=mounts, io=_io(request), options=options)
    return pb.CreateTaskResponse(pid=await tasks.create(key, creation))


async def _start(tasks: Tasks, key: Key, request: pb.StartRequest) -> Message:
    return pb.StartResponse(pid=await tasks.start(key, request.exec_id))


async def _delete(tasks: Tasks, key: Key, request: pb.DeleteRequest) -> Message:
    return delete_response(*await tasks.delete(key, request.exec_id))


async def _add_exec(tasks: Tasks, key: Key, request: pb.ExecProcessRequest) -> Message:
    await tasks.add_exec(key, request.exec_id, _io(request), _json(request.spec, "spec"))
    return Empty()


async def _resize(tasks: Tasks, key: Key, request: pb.ResizePtyRequest) -> Message:
    await tasks.resize(key, request.exec_id, TerminalSize(width=request.width, height=request.height))
    return Empty()


async def _close_io(tasks: Tasks, key: Key, request: pb.CloseIORequest) -> Message:
    if request.stdin:
        await tasks.close_stdin(key, request.exec_id)
    return Empty()


async def _kill(tasks: Tasks, key: Key, request: pb.KillRequest) -> Message:
    await tasks.kill(key, request.exec_id, request.signal, everyone=request.all)
    return Empty()


async def _wait(tasks: Tasks, key: Key, request: pb.WaitRequest) -> Message:
    end = await tasks.wait(key, request.exec_id)
    return pb.WaitResponse(exit_status=end.code, exited_at=timestamp_of(end))


async def _state(tasks: Tasks, key: Key, request: pb.StateRequest) -> Message:
    task, process = tasks.look(key, request.exec_id)
    end = process.ended.result() if process.ended.done() else None
    paths = process.pipes.paths
    return pb.StateResponse(
        id=key[1],
        bundle=str(task.bundle),
        pid=process.pid,
        status=_WIRE_STATUS[process.status],
        stdin=paths.stdin,
        stdout=paths.stdout,
        stderr=paths.stderr,
        terminal=paths.terminal,
        exit_status=end.code if end else 0,
        exited_at=timestamp_of(end) if end else None,
        exec_id=request.exec_id,
    )


async def _pids(tasks: Tasks, key: Key, _: pb.PidsRequest) -> Message:
    return pb.PidsResponse(processes=[types_pb.ProcessInfo(pid=pid) for pid in await tasks.pids(key)])


async def _pause(tasks: Tasks, key: Key, _: pb.PauseRequest) -> Message:
    await tasks.pause(key, paused=True)
    return Empty()


async def _resume(tasks: Tasks, key: Key, _: pb.ResumeRequest) -> Message:
    await tasks.pause(key, paused=False)
    return Empty()


async def _checkpoint(*_: object) -> Message:
    raise Unimplemented("Checkpoint", "checkpoints are not supported")


async def _update(tasks: Tasks, key: Key, request: pb.UpdateTaskRequest) -> Message:
    await tasks.update(key, _json(request.resources, "resources"))
    return Empty()


async def _stats(tasks: Tasks, key: Key, _: pb.StatsRequest) -> Message:
    return pb.StatsResponse(stats=encode_metrics(await tasks.usage(key), unified=tasks.unified))


async def _shutdown(tasks: Tasks, *_: object) -> Message:
    """Note Shutdown: a daemon for the whole node ignores it, since one of its sandboxes has ended."""
    tasks.shutdown_asked.set()
    return Empty()


def delete_response(pid: int, end: Exit) -> pb.DeleteResponse:
    """The exit status of a task."""
    return pb.DeleteResponse(pid=pid, exit_status=end.code, exited_at=timestamp_of(end))


def table(own_pid: int) -> Mapping[str, Row[Tasks, AnyValue]]:
    """All methods; Connect returns the pid of this process."""

    async def connect(tasks: Tasks, key: Key, _: pb.ConnectRequest) -> Message:
        return pb.ConnectResponse(shim_pid=own_pid, task_pid=tasks.look(key, "")[1].pid, version="v2")

    return {
        "State": Row(pb.StateRequest, _state),
        "Create": Row(pb.CreateTaskRequest, _create),
        "Start": Row(pb.StartRequest, _start),
        "Delete": Row(pb.DeleteRequest, _delete),
        "Pids": Row(pb.PidsRequest, _pids),
        "Pause": Row(pb.PauseRequest, _pause),
        "Resume": Row(pb.ResumeRequest, _resume),
        "Checkpoint": Row(pb.CheckpointTaskRequest, _checkpoint),
        "Kill": Row(pb.KillRequest, _kill),
        "Exec": Row(pb.ExecProcessRequest, _add_exec),
        "ResizePty": Row(pb.ResizePtyRequest, _resize),
        "CloseIO": Row(pb.CloseIORequest, _close_io),
        "Update": Row(pb.UpdateTaskRequest, _update),
        "Wait": Row(pb.WaitRequest, _wait),
        "Stats": Row(pb.StatsRequest, _stats),
        "Connect": Row(pb.ConnectRequest, connect),
        "Shutdown": Row(pb.ShutdownRequest, _shutdown),
    }


def handlers(tasks: Tasks, namespace: str, own_pid: int) -> dict[tuple[str, str], Handler]:
    """The handlers of a ttrpc server that serves one namespace of containerd, under both versions of the service.

    Not every client sends the namespace with its calls (`ctr` does not).
    """
    rows = table(own_pid)
    return {(service, method): handler(tasks, namespace, row) for service in SERVICES.values() for method, row in rows.items()}


def handler(subject: S, namespace: str, row: Row[S, AnyValue]) -> Handler:
    """The handler of a method of a ttrpc server, for one namespace of containerd."""

    async def handle(request: Request) -> bytes:
        message = message_of(request, row.request)
        try:
            answer = await row.call(subject, (namespace, getattr(message, row.id)), message)
        except OSError as error:
            raise CrishimError(f"{request.method}: {error}") from error
        return answer.SerializeToString()

    return handle


def _io(request: pb.CreateTaskRequest | pb.ExecProcessRequest) -> IoPaths:
    return IoPaths(stdin=request.stdin, stdout=request.stdout, stderr=request.stderr, terminal=request.terminal)


def _json(value: Any, field: str) -> dict[str, AnyValue]:
    try:
        decoded = json.loads(value.value.decode("utf-8", "surrogateescape"))
    except ValueError as error:
        raise InvalidArgument(field, f"is not JSON: {error}") from error
    if not isinstance(decoded, dict):
        raise InvalidArgument(field, "must be an object")
    return decoded
