"""The Sandbox service of containerd 2 (`containerd.runtime.sandbox.v1.Sandbox`) as a table of its nine methods.

The states of a sandbox are CRI's, since containerd's CRI reads them by name.
"""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any as AnyValue
from typing import Final

from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from crishim._proto import UNDECODABLE
from crishim._proto import shim_sandbox_pb2 as pb
from crishim._proto import shim_types_pb2 as types_pb
from crishim.errors import CrishimError, InvalidArgument
from crishim.interfaces.oci_runtime import OciStatus
from crishim.model.sandbox import LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata
from crishim.model.security import LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption
from crishim.pods.host import architecture
from crishim.shimv2.server.routes import Row, handler
from crishim.shimv2.server.sandboxes import ShimSandbox, ShimSandboxes
from crishim.shimv2.server.task import Key
from crishim.shimv2.wire.messages import SANDBOX_SERVICE, timestamp, timestamp_of
from crishim.shimv2.wire.metrics import encode_metrics
from crishim.ttrpc.server import Handler

_CONFIG: Final = "runtime.v1.PodSandboxConfig"
_READY: Final = "SANDBOX_READY"
_NOT_READY: Final = "SANDBOX_NOTREADY"
_ID: Final = "sandbox_id"


async def _create(sandboxes: ShimSandboxes, key: Key, request: pb.CreateSandboxRequest) -> Message:
    if request.rootfs:
        raise InvalidArgument("rootfs", "is not used: the sandbox has a root file system of its own")
    config = _config(request.options, key[1], host_network=not request.netns_path)
    await sandboxes.create(key, Path(request.bundle_path), config, request.netns_path)
    return pb.CreateSandboxResponse()


async def _start(sandboxes: ShimSandboxes, key: Key, _: pb.StartSandboxRequest) -> Message:
    sandbox = await sandboxes.start(key)
    return pb.StartSandboxResponse(pid=sandbox.pid, created_at=timestamp(sandbox.created_at))


async def _platform(sandboxes: ShimSandboxes, key: Key, _: pb.PlatformRequest) -> Message:
    sandboxes.look(key)
    return pb.PlatformResponse(platform=types_pb.Platform(os="linux", architecture=architecture()))


async def _stop(sandboxes: ShimSandboxes, key: Key, request: pb.StopSandboxRequest) -> Message:
    await sandboxes.stop(key, request.timeout_secs)
    return pb.StopSandboxResponse()


async def _wait(sandboxes: ShimSandboxes, key: Key, _: pb.WaitSandboxRequest) -> Message:
    end = await sandboxes.wait(key)
    return pb.WaitSandboxResponse(exit_status=end.code, exited_at=timestamp_of(end))


async def _status(sandboxes: ShimSandboxes, key: Key, request: pb.SandboxStatusRequest) -> Message:
    sandbox = sandboxes.look(key)
    return pb.SandboxStatusResponse(
        sandbox_id=key[1],
        pid=sandbox.pid,
        state=_READY if sandbox.status is OciStatus.RUNNING else _NOT_READY,
        info=_info(sandboxes, sandbox) if request.verbose else {},
        created_at=timestamp(sandbox.created_at),
        exited_at=timestamp_of(sandbox.ended.result()) if sandbox.ended.done() else None,
    )


async def _ping(sandboxes: ShimSandboxes, key: Key, _: pb.PingRequest) -> Message:
    sandboxes.look(key)
    return pb.PingResponse()


async def _shutdown(sandboxes: ShimSandboxes, key: Key, _: pb.ShutdownSandboxRequest) -> Message:
    await sandboxes.shutdown(key)
    return pb.ShutdownSandboxResponse()


async def _metrics(sandboxes: ShimSandboxes, key: Key, _: pb.SandboxMetricsRequest) -> Message:
    now, usage = await sandboxes.usage(key)
    data = encode_metrics(usage, unified=sandboxes.unified)
    return pb.SandboxMetricsResponse(metrics=types_pb.Metric(timestamp=timestamp(now), id=key[1], data=data))


TABLE: Final[Mapping[str, Row[ShimSandboxes, AnyValue]]] = {
    "CreateSandbox": Row(pb.CreateSandboxRequest, _create, _ID),
    "StartSandbox": Row(pb.StartSandboxRequest, _start, _ID),
    "Platform": Row(pb.PlatformRequest, _platform, _ID),
    "StopSandbox": Row(pb.StopSandboxRequest, _stop, _ID),
    "WaitSandbox": Row(pb.WaitSandboxRequest, _wait, _ID),
    "SandboxStatus": Row(pb.SandboxStatusRequest, _status, _ID),
    "PingSandbox": Row(pb.PingRequest, _ping, _ID),
    "ShutdownSandbox": Row(pb.ShutdownSandboxRequest, _shutdown, _ID),
    "SandboxMetrics": Row(pb.SandboxMetricsRequest, _metrics, _ID),
}
"""All methods. UpdateSandbox, which containerd 2.4 has added, is optional: it expects UNIMPLEMENTED."""


def sandbox_handlers(sandboxes: ShimSandboxes, namespace: str) -> dict[tuple[str, str], Handler]:
    """The handlers of a ttrpc server that serves one namespace of containerd."""
    return {(SANDBOX_SERVICE, method): handler(sandboxes, namespace, row) for method, row in TABLE.items()}


def _config(options: Any, sandbox_id: str, *, host_network: bool) -> PodSandboxConfig:
    """The configuration of the pod: containerd's CRI sends it, `ctr` does not."""
    kind = options.type_url.rpartition("/")[2]
    if not kind:
        network = NamespaceOption(network=NamespaceMode.NODE if host_network else NamespaceMode.POD)
        return PodSandboxConfig(
            metadata=PodSandboxMetadata(name=sandbox_id, namespace="", uid=sandbox_id),
            linux=LinuxPodSandboxConfig(security_context=LinuxSandboxSecurityContext(namespace_options=network)),
        )
    if kind != _CONFIG:
        raise InvalidArgument("options", f"{kind} is not {_CONFIG}")
    from crishim._proto import cri_pb2  # a daemon without sandboxes need not have it in its memory
    from crishim.cri.convert.sandbox_config import decode_config

    try:
        return decode_config(cri_pb2.PodSandboxConfig.FromString(options.value), "options")
    except UNDECODABLE as error:
        raise InvalidArgument("options", f"cannot be read: {error}") from error


def _info(sandboxes: ShimSandboxes, sandbox: ShimSandbox) -> dict[str, str]:
    """The verbose status, in the form of containerd's own sandboxes."""
    info: dict[str, AnyValue] = {"pid": sandbox.pid, "processStatus": str(sandbox.status)}
    with contextlib.suppress(CrishimError):  # a runtime with sandboxes of its own has no config.json
        info["runtimeSpec"] = sandboxes.config(sandbox.key)
    return {"info": json.dumps(info)}
