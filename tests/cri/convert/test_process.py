import pytest

from crishim.cri import pb
from crishim.cri.convert import process
from crishim.model.process import AttachRequest, ExecRequest, ExecSyncResult, PortForwardRequest
from crishim.model.values import ContainerId, SandboxId
from tests.cri.refusals import refused


def test_exec_sync_takes_a_command_and_seconds() -> None:
    """ExecSync gives its verb the id, the command and the time, and answers bytes and a code."""
    request = pb.ExecSyncRequest(container_id="c", cmd=["a", "b"], timeout=3)
    expected = (ContainerId("c"), ("a", "b"), 3)
    assert expected == process.decode_exec_sync(request)
    reply = pb.ExecSyncResponse(stdout=b"\xff", stderr=b"e", exit_code=1)
    assert reply == process.encode_exec_sync(ExecSyncResult(stdout=b"\xff", stderr=b"e", exit_code=1))


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.ExecSyncRequest(cmd=["a"]), "container_id"),
        (pb.ExecSyncRequest(container_id="c"), "cmd"),
        (pb.ExecSyncRequest(container_id="c", cmd=[""]), "cmd"),
        (pb.ExecSyncRequest(container_id="c", cmd=["a"], timeout=-1), "timeout"),
    ],
)
def test_commands_that_make_no_sense_are_refused(request_: pb.ExecSyncRequest, field: str) -> None:
    """ExecSync needs an id, a program, and a time that is not negative."""
    with refused(field):
        process.decode_exec_sync(request_)


def test_exec_takes_all_it_says() -> None:
    """Exec gives its verb the whole request, and answers an address."""
    request = pb.ExecRequest(container_id="c", cmd=["sh"], tty=True, stdin=True, stdout=True)
    expected = ExecRequest(container_id=ContainerId("c"), cmd=("sh",), tty=True, stdin=True, stdout=True)
    assert (expected,) == process.decode_exec(request)
    assert pb.ExecResponse(url="http://x") == process.encode_exec("http://x")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.ExecRequest(cmd=["a"], stdout=True), "container_id"),
        (pb.ExecRequest(container_id="c", stdout=True), "cmd"),
        (pb.ExecRequest(container_id="c", cmd=["a"], tty=True, stdout=True, stderr=True), "stderr"),
        (pb.ExecRequest(container_id="c", cmd=["a"]), "stdout"),
    ],
)
def test_execs_that_make_no_sense_are_refused(request_: pb.ExecRequest, field: str) -> None:
    """Exec needs an id, a program and a stream, and a terminal has no stderr."""
    with refused(field):
        process.decode_exec(request_)


def test_attach_takes_all_it_says() -> None:
    """Attach gives its verb the whole request, and answers an address."""
    request = pb.AttachRequest(container_id="c", stdin=True, stdout=True, stderr=True)
    expected = AttachRequest(container_id=ContainerId("c"), stdin=True, stdout=True, stderr=True)
    assert (expected,) == process.decode_attach(request)
    assert pb.AttachResponse(url="http://x") == process.encode_attach("http://x")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.AttachRequest(stdout=True), "container_id"),
        (pb.AttachRequest(container_id="c", tty=True, stderr=True), "stderr"),
        (pb.AttachRequest(container_id="c", tty=True), "stdout"),
    ],
)
def test_attaches_that_make_no_sense_are_refused(request_: pb.AttachRequest, field: str) -> None:
    """Attach needs an id and a stream, and a terminal has no stderr."""
    with refused(field):
        process.decode_attach(request_)


def test_port_forward_may_name_ports() -> None:
    """PortForward gives its verb the id and the ports, of which there may be none, and answers an address."""
    expected = PortForwardRequest(pod_sandbox_id=SandboxId("s"), port=(80, 65535))
    assert (expected,) == process.decode_port_forward(pb.PortForwardRequest(pod_sandbox_id="s", port=[80, 65535]))
    expected = PortForwardRequest(pod_sandbox_id=SandboxId("s"))
    assert (expected,) == process.decode_port_forward(pb.PortForwardRequest(pod_sandbox_id="s"))
    assert pb.PortForwardResponse(url="http://x") == process.encode_port_forward("http://x")


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_ports_out_of_range_are_refused(port: int) -> None:
    """A port that is none is refused by its place."""
    with refused("port[1]"):
        process.decode_port_forward(pb.PortForwardRequest(pod_sandbox_id="s", port=[80, port]))


def test_port_forward_needs_a_sandbox() -> None:
    """PortForward without an id is refused."""
    with refused("pod_sandbox_id"):
        process.decode_port_forward(pb.PortForwardRequest(port=[80]))
