"""Execs and their streams."""

from crishim._proto import cri_pb2 as pb
from crishim.cri.convert.common import MAX_PORT, at_least, between, sandbox_id
from crishim.cri.convert.container import container_id
from crishim.errors import InvalidArgument
from crishim.model.process import AttachRequest, ExecRequest, ExecSyncResult, PortForwardRequest
from crishim.model.values import ContainerId


def decode_exec_sync(request: pb.ExecSyncRequest) -> tuple[ContainerId, tuple[str, ...], int]:
    """ExecSync: the container's id, the command, and seconds (0: as long as it takes)."""
    return (
        container_id(request.container_id),
        _command(tuple(request.cmd)),
        at_least(request.timeout, 0, "timeout"),
    )


def encode_exec_sync(result: ExecSyncResult) -> pb.ExecSyncResponse:
    """ExecSync: what came of it."""
    return pb.ExecSyncResponse(stdout=result.stdout, stderr=result.stderr, exit_code=result.exit_code)


def decode_exec(request: pb.ExecRequest) -> tuple[ExecRequest]:
    """Exec: all of it. A terminal has no stderr, and some stream must be wanted (CRI, `ExecRequest`)."""
    wanted = ExecRequest(
        container_id=container_id(request.container_id),
        cmd=_command(tuple(request.cmd)),
        tty=request.tty,
        stdin=request.stdin,
        stdout=request.stdout,
        stderr=request.stderr,
    )
    _check_streams(wanted)
    return (wanted,)


def encode_exec(url: str) -> pb.ExecResponse:
    """Exec: where to go."""
    return pb.ExecResponse(url=url)


def decode_attach(request: pb.AttachRequest) -> tuple[AttachRequest]:
    """Attach: all of it, under the same rules."""
    wanted = AttachRequest(
        container_id=container_id(request.container_id),
        tty=request.tty,
        stdin=request.stdin,
        stdout=request.stdout,
        stderr=request.stderr,
    )
    _check_streams(wanted)
    return (wanted,)


def encode_attach(url: str) -> pb.AttachResponse:
    """Attach: where to go."""
    return pb.AttachResponse(url=url)


def decode_port_forward(request: pb.PortForwardRequest) -> tuple[PortForwardRequest]:
    """PortForward: the sandbox's id, and the ports where the protocol does not name them itself."""
    wanted = PortForwardRequest(
        pod_sandbox_id=sandbox_id(request.pod_sandbox_id),
        port=tuple(between(port, 1, MAX_PORT, f"port[{place}]") for place, port in enumerate(request.port)),
    )
    return (wanted,)


def encode_port_forward(url: str) -> pb.PortForwardResponse:
    """PortForward: where to go."""
    return pb.PortForwardResponse(url=url)


def _command(cmd: tuple[str, ...]) -> tuple[str, ...]:
    if not (cmd and cmd[0]):
        raise InvalidArgument("cmd", "must not be empty")
    return cmd


def _check_streams(wanted: ExecRequest | AttachRequest) -> None:
    if wanted.tty and wanted.stderr:
        raise InvalidArgument("stderr", "cannot be wanted with tty")
    if not (wanted.stdin or wanted.stdout or wanted.stderr):
        raise InvalidArgument("stdout", "one of stdin, stdout and stderr must be wanted")
