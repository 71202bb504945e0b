"""The dispatcher: any of the 43 requests in, its reply out, with no socket anywhere."""

import logging

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from crishim.cri import Call, Dispatcher, pb
from crishim.cri.routes import Unary
from crishim.errors import Code, FailedPrecondition, InvalidArgument, NotFound, Unavailable, Unimplemented, Unknown
from crishim.service.services import Services
from crishim.testing import FakeBackend, Harness, failing

SANDBOX = pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name="pod", namespace="ns", uid="u"))


def test_every_rpc_has_a_row() -> None:
    """The table routes every RPC of both services, to the right kind of row."""
    dispatch = Dispatcher(Services(backends={"": FakeBackend()}))
    services = pb.DESCRIPTOR.services_by_name.values()
    methods = {method.name: method for service in services for method in service.methods}
    assert 43 == len(methods)
    assert methods.keys() == dispatch.routes.keys()
    for name, row in dispatch.routes.items():
        assert methods[name].input_type.name == row.request.DESCRIPTOR.name
        assert methods[name].server_streaming is not isinstance(row, Unary)
        assert f"runtime.v1.{methods[name].containing_service.name}" == row.service


async def test_three_lines_and_no_socket() -> None:
    """Imported in a program: backend, services, dispatcher, and a request becomes its reply."""
    async with Services(backends={"": FakeBackend(logs_to_disk=False)}) as services:
        dispatch = Dispatcher(services)
        reply = await dispatch(pb.RunPodSandboxRequest(config=SANDBOX))
        listed = await dispatch(pb.ListPodSandboxRequest())
        assert [reply.pod_sandbox_id] == [item.id for item in listed.items]
        assert b"" == await dispatch.call("StopPodSandbox", pb.StopPodSandboxRequest(pod_sandbox_id="x").SerializeToString())


async def test_before_it_is_ready_everything_is_unavailable() -> None:
    """Until the records are loaded every call is Unavailable; the kubelet then tries again (rpc.md 3)."""
    dispatch = Dispatcher(Services(backends={"": FakeBackend()}))
    with pytest.raises(Unavailable):
        await dispatch(pb.VersionRequest())


@pytest.mark.parametrize("name", sorted(Dispatcher(Services(backends={"": FakeBackend()})).routes))
@pytest.mark.parametrize("capable", [True, False], ids=["all", "none"])
async def test_empty_requests_never_answer_unknown(name: str, capable: bool) -> None:
    """Every RPC answers an empty request with a response or a code that names the error; never UNKNOWN."""
    calls: list[Call] = []
    fake = FakeBackend(capabilities=None if capable else frozenset(), logs_to_disk=False)
    async with Harness(fake) as world:
        dispatch = Dispatcher(world.services, observe=calls.append)
        row = dispatch.routes[name]
        if name == "GetContainerEvents":
            return
        try:
            if isinstance(row, Unary):
                await dispatch.call(name, b"")
            else:
                assert all([chunk async for chunk in dispatch.stream(name, b"")])
        except (InvalidArgument, NotFound, Unimplemented, FailedPrecondition):
            pass
    assert [name] == [call.method for call in calls]
    assert calls[0].code is not Code.UNKNOWN


async def test_foreign_stubs_get_their_own_replies() -> None:
    """A request of anybody's CRI stubs is answered in the same stubs."""
    file = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(file)
    text = file.SerializeToString().replace(b"crishim.wire.cri.v1", b"elsewhere.cri.v1234")
    foreign = descriptor_pb2.FileDescriptorProto.FromString(text)
    foreign.name = "elsewhere.proto"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(foreign)
    request = message_factory.GetMessageClass(pool.FindMessageTypeByName("elsewhere.cri.v1234.VersionRequest"))
    async with Harness() as world:
        reply = await Dispatcher(world.services)(request())
    assert "elsewhere.cri.v1234.VersionResponse" == reply.DESCRIPTOR.full_name
    assert "crishim" == reply.runtime_name


async def test_garbage_is_an_invalid_argument() -> None:
    """Bytes that are no message, and a name that is no RPC, are the caller's fault."""
    async with Harness() as world:
        dispatch = Dispatcher(world.services)
        with pytest.raises(InvalidArgument):
            await dispatch.call("RunPodSandbox", b"\xff\xff\xff")
        with pytest.raises(Unimplemented):
            await dispatch.call("Nonsense", b"")
        with pytest.raises(Unimplemented):
            await dispatch.call("StreamContainers", b"")
        with pytest.raises(InvalidArgument, match="metadata"):
            await dispatch(pb.RunPodSandboxRequest(config=pb.PodSandboxConfig()))


async def test_streams_are_the_lists_in_pieces() -> None:
    """A Stream* RPC gives each item of its list exactly once, and nothing at all for an empty list (rpc.md 4)."""
    async with Harness() as world:
        dispatch = Dispatcher(world.services)
        assert [] == [chunk async for chunk in dispatch.stream("StreamPodSandboxes", b"")]
        for number in range(20):
            await world.run_sandbox(f"pod-{number}")
        request = pb.StreamPodSandboxesRequest()
        items = [item.id async for reply in dispatch.messages(request) for item in reply.pod_sandboxes]
        listed = await dispatch(pb.ListPodSandboxRequest())
        assert [item.id for item in listed.items] == items


async def test_a_bug_is_unknown_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    """What a backend raises against its contract is UNKNOWN with a traceback in the log; it never looks like a verdict."""
    fake = FakeBackend(logs_to_disk=False)
    async with Harness(failing(fake, "start_sandbox", error=ValueError("oops"))) as world:
        with caplog.at_level(logging.ERROR), pytest.raises(Unknown, match="oops"):
            await Dispatcher(world.services)(pb.RunPodSandboxRequest(config=SANDBOX))
    assert any("Traceback" in str(record.exc_text) for record in caplog.records)


async def test_every_call_has_its_line(caplog: pytest.LogCaptureFixture) -> None:
    """One log line per call: method, id, code, duration; reads that went well are for debugging alone."""
    async with Harness() as world:
        with caplog.at_level(logging.DEBUG, logger="crishim.rpc"):
            dispatch = Dispatcher(world.services)
            await dispatch(pb.VersionRequest())
            await dispatch(pb.StopPodSandboxRequest(pod_sandbox_id="abc"))
            with pytest.raises(NotFound):
                await dispatch(pb.ContainerStatusRequest(container_id="abc"))
    assert [
        ("DEBUG", "Version - OK 0.0 ms"),
        ("INFO", "StopPodSandbox abc OK 0.0 ms"),
        ("INFO", "ContainerStatus abc NOT_FOUND 0.0 ms container 'abc' not found"),
    ] == [(record.levelname, record.getMessage()) for record in caplog.records]
