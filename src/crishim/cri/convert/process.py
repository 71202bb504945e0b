"""The messages of ExecSync, Exec, Attach and PortForward."""

from crishim._proto import cri_pb2 as pb
from crishim.cri.convert.common import MAX_PORT, at_least, between, sandbox_id
from crishim.cri.convert.container import container_id
from crishim.errors import InvalidArgument
from crishim.model.process import AttachRequest, ExecRequest, ExecSyncResult, PortForwardRequest
from crishim.model.values import ContainerId


def decode_exec_sync(request: pb.ExecSyncRequest) -> tuple[ContainerId, tuple[str, ...], int]:
    """ExecSync: the container's id, the command, and the timeout in seconds (0: none)."""
    return (
        container_id(request.container_id),
        _command(tuple(request.cmd)),
        at_least(request.timeout, 0, "timeout"),
    )


def encode_exec_sync(result: ExecSyncResult) -> pb.ExecSyncResponse:
    """ExecSync: output and exit code."""
    return pb.ExecSyncResponse(stdout=result.stdout, stderr=result.stderr, exit_code=result.exit_code)


def decode_exec(request: pb.ExecRequest) -> tuple[ExecRequest]:
    """Exec: the whole request. With a terminal there is no stderr, and at least one stream must be requested (CRI,
    `ExecRequest`).
    """
    decoded = ExecRequest(
        container_id=container_id(request.container_id),
        cmd=_command(tuple(request.cmd)),
        tty=request.tty,
        stdin=request.stdin,
        stdout=request.stdout,
        stderr=request.stderr,
    )
    _check_streams(decoded)
    return (decoded,)


def encode_exec(url: str) -> pb.ExecResponse:
    """Exec: the URL."""
    return pb.ExecResponse(url=url)


def decode_attach(request: pb.AttachRequest) -> tuple[AttachRequest]:
    """Attach: the whole request, with the same checks as Exec."""
    decoded = AttachRequest(
        container_id=container_id(request.container_id),
        tty=request.tty,
        stdin=request.stdin,
        stdout=request.stdout,
        stderr=request.stderr,
    )
    _check_streams(decoded)
    return (decoded,)


def encode_attach(url: str) -> pb.AttachResponse:
    """Attach: the URL."""
    return pb.AttachResponse(url=url)


def decode_port_forward(request: pb.PortForwardRequest) -> tuple[PortForwardRequest]:
    """PortForward: the sandbox's id, and the ports for protocols that do not name them with each stream."""
    decoded = PortForwardRequest(
        pod_sandbox_id=sandbox_id(request.pod_sandbox_id),
        port=tuple(between(port, 1, MAX_PORT, f"port[{place}]") for place, port in enumerate(request.port)),
    )
    return (decoded,)


def encode_port_forward(url: str) -> pb.PortForwardResponse:
    """PortForward: the URL."""
    return pb.PortForwardResponse(url=url)


def _command(cmd: tuple[str, ...]) -> tuple[str, ...]:
    if not (cmd and cmd[0]):
        raise InvalidArgument("cmd", "must not be empty")
    return cmd


def _check_streams(request: ExecRequest | AttachRequest) -> None:
    if request.tty and request.stderr:
        raise InvalidArgument("stderr", "cannot be wanted with tty")
    if not (request.stdin or request.stdout or request.stderr):
        raise InvalidArgument("stdout", "one of stdin, stdout and stderr must be wanted")
