"""Conversion between shim v2's messages and the library's values (pure)."""

import json
from typing import Any as AnyValue
from typing import Final

import attrs
from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from crishim._proto import UNDECODABLE
from crishim._proto import shim_bootstrap_pb2 as bootstrap_pb
from crishim._proto import shim_options_pb2 as options_pb
from crishim._proto import shim_runc_pb2 as runc_pb
from crishim._proto import shim_types_pb2 as types_pb
from crishim.errors import (
    AlreadyExists,
    Code,
    CrishimError,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
    Unknown,
)
from crishim.interfaces.oci_runtime import OciStatus
from crishim.model.process import Exit
from crishim.ttrpc.status import TtrpcError

SERVICES: Final = {2: "containerd.task.v2.Task", 3: "containerd.task.v3.Task"}
"""The task service by the version that a shim's start reports; the messages are the same."""

SANDBOX_SERVICE: Final = "containerd.runtime.sandbox.v1.Sandbox"
"""The service of shims that are given a pod as a whole; its version does not depend on that of the task service."""

NAMESPACE_KEY: Final = "containerd-namespace-ttrpc"
"""The metadata key of containerd's namespace."""

_RUNTIME_SPEC: Final = "types.containerd.io/opencontainers/runtime-spec/1/"
_NANO: Final = 1_000_000_000

STATUSES: Final = {
    types_pb.CREATED: OciStatus.CREATED,
    types_pb.RUNNING: OciStatus.RUNNING,
    types_pb.STOPPED: OciStatus.STOPPED,
    types_pb.PAUSED: OciStatus.PAUSED,
    types_pb.PAUSING: OciStatus.PAUSED,
}
"""A task's status in the terms of the runtime specification. UNKNOWN has none."""


@attrs.frozen
class Bootstrap:
    """The address of a shim, and the version of its task service."""

    address: str
    version: int = 2


def parse_bootstrap(stdout: bytes) -> Bootstrap:
    """Parse the output of `start`: a protobuf message (containerd 2.3 and later), JSON, or the bare address.

    The first byte decides: the protobuf message begins with the version's field. Raises `Unknown` for anything else, and for a
    version or protocol that is not supported.
    """
    if stdout.startswith(b"\x08"):
        try:
            result = bootstrap_pb.BootstrapResult.FromString(stdout)
        except UNDECODABLE as error:
            raise Unknown(f"the shim answered {stdout[:200]!r}") from error
        return _bootstrap(result.address, result.version, result.protocol)
    text = stdout.decode("utf-8", "replace").strip()
    if text.startswith("{"):
        try:
            table: dict[str, AnyValue] = json.loads(text)
        except ValueError as error:
            raise Unknown(f"the shim answered {text[:200]!r}") from error
        return _bootstrap(str(table.get("address", "")), int(table.get("version", 0)), str(table.get("protocol", "")))
    return _bootstrap(text, 2, "ttrpc")


def _bootstrap(address: str, version: int, protocol: str) -> Bootstrap:
    if not (address.isascii() and address.isprintable() and address.split() == [address]):
        raise Unknown(f"the shim did not print an address but {address[:200]!r}")
    if version not in SERVICES or protocol not in {"", "ttrpc"}:
        raise Unknown(f"the shim speaks version {version} by {protocol!r}, which is not supported")
    return Bootstrap(address, version)


def bootstrap_params(task_id: str, namespace: str, grpc: str, ttrpc: str, options: Any | None = None) -> bytes:
    """The BootstrapParams that `start` reads from stdin, for shims that need them, with the runtime's own options."""
    params = bootstrap_pb.BootstrapParams(
        instance_id=task_id, namespace=namespace, containerd_grpc_address=grpc, containerd_ttrpc_address=ttrpc
    )
    if options is not None:
        params.extensions.add(value=options)
    return params.SerializeToString()


def runtime_spec(kind: str, value: object) -> Any:
    """A structure of the runtime specification (`Process`, `LinuxResources`) in the form that shims take: JSON in an Any."""
    return Any(type_url=_RUNTIME_SPEC + kind, value=json.dumps(value).encode("utf-8", "surrogateescape"))


def runc_options(program: str, root: str, *, systemd_cgroup: bool, owner: tuple[int, int] = (0, 0)) -> Any:
    """The options of runc's shim; `owner` is the uid and gid of the container's streams."""
    uid, gid = owner
    options = runc_pb.Options(binary_name=program, root=root, systemd_cgroup=systemd_cgroup, io_uid=uid, io_gid=gid)
    return packed("containerd.runc.v1.Options", options)


def runtime_options(config_path: str, type_url: str = "") -> Any:
    """The options that every shim may take: the path of the runtime's configuration."""
    return packed("runtimeoptions.v1.Options", options_pb.Options(config_path=config_path, type_url=type_url))


def packed(name: str, message: Message) -> Any:
    """A message in an Any, with containerd's type name, which has no host."""
    return Any(type_url=name, value=message.SerializeToString())


def exit_of(status: int, at: Timestamp) -> Exit:
    """The exit status of a process. Some shims send the year 1 for an unknown time."""
    nanoseconds = at.seconds * _NANO + at.nanos
    return Exit(code=status, at=nanoseconds if nanoseconds > 0 else None)


def timestamp_of(end: Exit) -> Timestamp:
    """The exit time of a process; the epoch if it is unknown."""
    return timestamp(end.at or 0)


def timestamp(nanoseconds: int) -> Timestamp:
    """A time since the epoch."""
    seconds, nanos = divmod(nanoseconds, _NANO)
    return Timestamp(seconds=seconds, nanos=nanos)


def named(error: TtrpcError, kind: str, name: str) -> CrishimError:
    """The error for a shim's refusal of a call for a container or exec, with the shim's own message."""
    message = f"{kind} {name}: {error.message}"
    match error.answer:
        case Code.NOT_FOUND:
            return NotFound(kind, name, error.message)
        case Code.ALREADY_EXISTS:
            return AlreadyExists(kind, name)
        case Code.FAILED_PRECONDITION:
            return FailedPrecondition(f"refused ({error.message})", "in another state", f"{kind} {name}")
        case Code.INVALID_ARGUMENT:
            return InvalidArgument(kind, error.message)
        case Code.UNIMPLEMENTED:
            return Unimplemented(error.message, message)
    plain = {
        Code.DEADLINE_EXCEEDED: DeadlineExceeded,
        Code.PERMISSION_DENIED: PermissionDenied,
        Code.RESOURCE_EXHAUSTED: ResourceExhausted,
        Code.UNAVAILABLE: Unavailable,
    }
    return plain.get(error.answer, Unknown)(message)
