"""CRI over gRPC on a unix socket, as a client sees it."""

import asyncio
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from crishim.cri import Dispatcher, pb
from crishim.errors import FailedPrecondition
from crishim.server import serve
from crishim.service.backends import MESSAGE_LIMIT
from crishim.testing import Harness

LIMITS = [("grpc.max_receive_message_length", MESSAGE_LIMIT), ("grpc.max_send_message_length", MESSAGE_LIMIT)]


class Client:
    """A bare client over the wire's own names."""

    def __init__(self, path: Path) -> None:
        self.channel = grpc.aio.insecure_channel(f"unix:{path}", options=LIMITS)

    async def call(self, name: str, request: Any, reply: Any, *, service: str = "RuntimeService", timeout: float = 10) -> Any:
        method = self.channel.unary_unary(
            f"/runtime.v1.{service}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=reply.FromString,
        )
        return await method(request, timeout=timeout)


@pytest.fixture
async def world() -> AsyncIterator[Harness]:
    async with Harness() as harness:
        yield harness


@pytest.fixture
async def client(world: Harness, tmp_path: Path) -> AsyncIterator[Client]:
    async with serve(Dispatcher(world.services), tmp_path / "cri.sock"):
        opened = Client(tmp_path / "cri.sock")
        yield opened
        await opened.channel.close(None)


def sandbox_request(**config: Any) -> pb.RunPodSandboxRequest:
    metadata = pb.PodSandboxMetadata(name=config.pop("name", "pod"), namespace="ns", uid="u")
    return pb.RunPodSandboxRequest(config=pb.PodSandboxConfig(metadata=metadata, **config))


async def test_both_services_share_the_socket(client: Client) -> None:
    """RuntimeService and ImageService answer on one socket, under the wire's own names (rpc.md 1)."""
    version = await client.call("Version", pb.VersionRequest(), pb.VersionResponse)
    assert ("crishim", "v1") == (version.runtime_name, version.runtime_api_version)
    images = await client.call("ListImages", pb.ListImagesRequest(), pb.ListImagesResponse, service="ImageService")
    assert 1 == len(images.images)


async def test_codes_reach_the_client(client: Client) -> None:
    """An error's code and message are the status of the call."""
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.call("ContainerStatus", pb.ContainerStatusRequest(container_id="nobody"), pb.ContainerStatusResponse)
    assert grpc.StatusCode.NOT_FOUND is error.value.code()
    assert "nobody" in (error.value.details() or "")


async def test_names_of_ten_thousand_letters(client: Client) -> None:
    """A long name is taken; an error that would quote it fits the header that carries it."""
    await client.call("RunPodSandbox", sandbox_request(name="n" * 10_000), pb.RunPodSandboxResponse)
    other = sandbox_request(name="n" * 10_000, hostname="other")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.call("RunPodSandbox", other, pb.RunPodSandboxResponse)
    assert grpc.StatusCode.ALREADY_EXISTS is error.value.code()


async def test_environment_may_hold_any_bytes(client: Client, world: Harness) -> None:
    """Values that are no UTF-8 are bytes on the wire, and come to the backend as surrogate escapes (rpc.md 1)."""
    sandbox = await client.call("RunPodSandbox", sandbox_request(), pb.RunPodSandboxResponse)
    request = pb.CreateContainerRequest(
        pod_sandbox_id=sandbox.pod_sandbox_id,
        config=pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name="c"),
            image=pb.ImageSpec(image="registry.example/image:1"),
            envs=[pb.KeyValue(key="RAW", value=b"\xff\xfe")],
        ),
        sandbox_config=sandbox_request().config,
    )
    await client.call("CreateContainer", request, pb.CreateContainerResponse)
    (container,) = world.fake.containers.values()
    assert b"\xff\xfe" == container.spec.env["RAW"].encode("utf-8", "surrogateescape")


async def test_messages_of_sixteen_mebibytes(client: Client) -> None:
    """Requests and replies of nearly 16 MiB pass; a larger one is RESOURCE_EXHAUSTED and leaves nothing (rpc.md 2)."""
    big = "x" * (MESSAGE_LIMIT - 64 * 1024)
    response = await client.call("RunPodSandbox", sandbox_request(annotations={"big": big}), pb.RunPodSandboxResponse)
    listed = await client.call("ListPodSandbox", pb.ListPodSandboxRequest(), pb.ListPodSandboxResponse)
    assert [response.pod_sandbox_id] == [item.id for item in listed.items]
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.call("RunPodSandbox", sandbox_request(name="b", annotations={"x": big * 2}), pb.RunPodSandboxResponse)
    assert grpc.StatusCode.RESOURCE_EXHAUSTED is error.value.code()


async def test_client_that_gives_up_finds_its_success(client: Client, world: Harness) -> None:
    """A client that cancels RunPodSandbox leaves the work alone, and its retry gets the same sandbox (rpc.md 4)."""
    started, go = asyncio.Event(), asyncio.Event()
    real = world.fake.start_sandbox

    async def slow(spec: Any) -> Any:
        started.set()
        await go.wait()
        return await real(spec)

    world.fake.start_sandbox = slow  # type: ignore[method-assign]
    first = asyncio.ensure_future(client.call("RunPodSandbox", sandbox_request(), pb.RunPodSandboxResponse))
    await started.wait()
    first.cancel()
    retry = asyncio.ensure_future(client.call("RunPodSandbox", sandbox_request(), pb.RunPodSandboxResponse))
    go.set()
    assert [(await retry).pod_sandbox_id] == list(world.fake.sandboxes)


async def test_deadline_of_the_client_is_reported(client: Client, world: Harness) -> None:
    """A client whose own deadline passes gets DEADLINE_EXCEEDED."""
    never = asyncio.Event()

    async def hang(*_: Any) -> Any:
        await never.wait()

    world.images.pull = hang  # type: ignore[method-assign, assignment]
    request = pb.PullImageRequest(image=pb.ImageSpec(image="registry.example/slow:1"))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.call("PullImage", request, pb.PullImageResponse, service="ImageService", timeout=0.05)
    assert grpc.StatusCode.DEADLINE_EXCEEDED is error.value.code()


async def test_events_are_streamed(client: Client, world: Harness) -> None:
    """GetContainerEvents streams what happens from then on, with the pod as it was (rpc.md 6)."""
    method = client.channel.unary_stream(
        "/runtime.v1.RuntimeService/GetContainerEvents",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=pb.ContainerEventResponse.FromString,
    )
    stream = method(pb.GetEventsRequest())
    async with asyncio.timeout(10):
        while not world.services.events._queues:  # noqa: ASYNC110 - the subscription is the server's own business
            await asyncio.sleep(0.01)
        sandbox_id = await world.run_sandbox()
        event: Any = await stream.read()
    assert (sandbox_id, pb.CONTAINER_CREATED_EVENT) == (event.container_id, event.container_event_type)
    assert "pod" == event.pod_sandbox_status.metadata.name
    stream.cancel()


async def test_socket_is_private_and_goes_with_the_server(world: Harness, tmp_path: Path) -> None:
    """The socket has mode 0600, and is removed when the server ends."""
    path = tmp_path / "deep" / "cri.sock"
    async with serve(Dispatcher(world.services), path):
        assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert not path.exists()


async def test_live_socket_is_not_taken_over(world: Harness, tmp_path: Path) -> None:
    """A second server on a socket that is served is refused, and does not disturb the first."""
    path = tmp_path / "cri.sock"
    dispatch = Dispatcher(world.services)
    async with serve(dispatch, path):
        with pytest.raises(FailedPrecondition, match="another process"):
            async with serve(dispatch, path):
                pass
        client = Client(path)
        assert await client.call("Version", pb.VersionRequest(), pb.VersionResponse)
        await client.channel.close(None)


async def test_foreign_live_socket_is_not_taken_over(world: Harness, tmp_path: Path) -> None:
    """A socket on which somebody else answers, with no lock of ours, is left alone."""
    path = tmp_path / "cri.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(FailedPrecondition):
            async with serve(Dispatcher(world.services), path):
                pass
        assert path.is_socket()


async def test_stale_socket_is_replaced(world: Harness, tmp_path: Path) -> None:
    """A socket that a dead server left is replaced."""
    path = tmp_path / "cri.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serve(Dispatcher(world.services), path):
        client = Client(path)
        assert await client.call("Version", pb.VersionRequest(), pb.VersionResponse)
        await client.channel.close(None)
