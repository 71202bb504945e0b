"""What a client asked a stream for: the three requests behind a streaming URL."""

from typing import TypeAlias

import attrs

from crishim.model.ids import ContainerId, SandboxId


@attrs.frozen(kw_only=True)
class ExecRequest:
    """A process with streams. With `tty` there is no stderr; at least one stream is wanted."""

    container_id: ContainerId
    cmd: tuple[str, ...]
    tty: bool = False
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False


@attrs.frozen(kw_only=True)
class AttachRequest:
    """The container's own streams. `tty` must be what the container was made with."""

    container_id: ContainerId
    tty: bool = False
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False


@attrs.frozen(kw_only=True)
class PortForwardRequest:
    """Ports of a pod. The SPDY protocol names its ports itself; only the WebSocket one uses these."""

    pod_sandbox_id: SandboxId
    port: tuple[int, ...] = ()


StreamRequest: TypeAlias = ExecRequest | AttachRequest | PortForwardRequest
