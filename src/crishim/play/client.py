"""A small CRI client: every verb that a kubelet needs, over a unix socket (gRPC) or directly to a `Dispatcher`.

Deadlines are the kubelet's: one `timeout` for most calls, twice that for RunPodSandbox, plus the command's or stop's own
timeout, none for pulls and for commands without a timeout. Any error is a `CallError`.
"""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias, TypeVar

import grpc.aio
from google.protobuf.message import Message

from crishim.cri import Dispatcher, pb
from crishim.cri.convert import container as cri_container
from crishim.cri.convert import image as cri_image
from crishim.cri.convert import sandbox_config as cri_config
from crishim.cri.routes import IMAGE, RUNTIME
from crishim.errors import Code, CrishimError
from crishim.model.container import ContainerConfig
from crishim.model.image import ImageSpec
from crishim.model.sandbox import PodSandboxConfig
from crishim.service.backends import MESSAGE_LIMIT

R = TypeVar("R", bound=Message)

Caller: TypeAlias = Callable[[str, bytes, float | None], Awaitable[bytes]]
"""Calls the RPC of this name with an encoded request, and a deadline in seconds or None; returns the encoded response."""

_IMAGE_CALLS: Final = frozenset({"ListImages", "ImageStatus", "PullImage", "RemoveImage", "ImageFsInfo"})
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    ("grpc.max_send_message_length", MESSAGE_LIMIT),
    ("grpc.default_authority", "localhost"),
)


class CallError(Exception):
    """An RPC failed: `method`, and the runtime's `code` and `message`."""

    def __init__(self, method: str, code: Code, message: str) -> None:
        super().__init__(f"{method}: {message} ({code.name})")
        self.method = method
        self.code = code
        self.message = message


def direct(dispatch: Dispatcher) -> Caller:
    """Calls without a socket. Deadlines are ignored."""

    async def call(method: str, request: bytes, timeout: float | None) -> bytes:
        del timeout
        try:
            return await dispatch.call(method, request)
        except CrishimError as error:
            raise CallError(method, error.code, error.message) from error

    return call


@contextlib.asynccontextmanager
async def connect(endpoint: str, *, timeout: float = 60.0) -> AsyncIterator["CriClient"]:
    """A client of the runtime at `unix:///path/to.sock`, for the duration of the `async with`."""
    async with grpc.aio.insecure_channel(endpoint, options=_OPTIONS) as channel:
        wire: Any = channel  # the stubs have no types for messages as bytes

        async def call(method: str, request: bytes, timeout: float | None) -> bytes:
            service = IMAGE if method in _IMAGE_CALLS else RUNTIME
            unary: Any = wire.unary_unary(f"/{service}/{method}")
            try:
                reply: bytes = await unary(request, timeout=timeout)
            except grpc.aio.AioRpcError as error:
                raise CallError(method, Code(error.code().value[0]), error.details() or "") from error
            return reply

        yield CriClient(call, timeout=timeout)


class CriClient:
    """CRI's verbs, typed. Configurations are values of `model`; responses are CRI's messages."""

    def __init__(self, call: Caller, *, timeout: float = 60.0) -> None:
        self.call = call
        self._timeout = timeout

    async def version(self) -> pb.VersionResponse:
        """The runtime's name and versions."""
        return await self._ask("Version", pb.VersionRequest(version="v1"), pb.VersionResponse)

    async def status(self) -> pb.RuntimeStatus:
        """Whether runtime and network are ready."""
        return (await self._ask("Status", pb.StatusRequest(), pb.StatusResponse)).status

    async def cgroup_driver(self) -> str:
        """`cgroupfs` or `systemd`; empty if the runtime does not implement RuntimeConfig."""
        try:
            reply = await self._ask("RuntimeConfig", pb.RuntimeConfigRequest(), pb.RuntimeConfigResponse)
        except CallError as error:
            if error.code is Code.UNIMPLEMENTED:
                return ""
            raise
        return pb.CgroupDriver.Name(reply.linux.cgroup_driver).lower()

    async def image_status(self, image: ImageSpec) -> pb.Image | None:
        """An image, or None if it is not present."""
        request = pb.ImageStatusRequest(image=cri_image.encode_spec(image))
        reply = await self._ask("ImageStatus", request, pb.ImageStatusResponse)
        return reply.image if reply.HasField("image") else None

    async def pull_image(self, image: ImageSpec, sandbox: PodSandboxConfig) -> str:
        """Pull an image; return its reference."""
        request = pb.PullImageRequest(image=cri_image.encode_spec(image), sandbox_config=cri_config.encode_config(sandbox))
        return (await self._ask_within(None, "PullImage", request, pb.PullImageResponse)).image_ref

    async def remove_image(self, image: ImageSpec) -> None:
        """Remove an image with all its tags."""
        await self._ask("RemoveImage", pb.RemoveImageRequest(image=cri_image.encode_spec(image)), pb.RemoveImageResponse)

    async def run_sandbox(self, config: PodSandboxConfig, handler: str = "") -> str:
        """Run a sandbox; return its id."""
        request = pb.RunPodSandboxRequest(config=cri_config.encode_config(config), runtime_handler=handler)
        reply = await self._ask_within(2 * self._timeout, "RunPodSandbox", request, pb.RunPodSandboxResponse)
        return reply.pod_sandbox_id

    async def sandbox_status(self, sandbox_id: str) -> pb.PodSandboxStatus:
        """The status of a sandbox."""
        request = pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id)
        return (await self._ask("PodSandboxStatus", request, pb.PodSandboxStatusResponse)).status

    async def list_sandboxes(self, labels: Mapping[str, str]) -> list[pb.PodSandbox]:
        """The sandboxes with these labels."""
        request = pb.ListPodSandboxRequest(filter=pb.PodSandboxFilter(label_selector=labels))
        return list((await self._ask("ListPodSandbox", request, pb.ListPodSandboxResponse)).items)

    async def stop_sandbox(self, sandbox_id: str) -> None:
        """Stop a sandbox."""
        request = pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id)
        await self._ask("StopPodSandbox", request, pb.StopPodSandboxResponse)

    async def remove_sandbox(self, sandbox_id: str) -> None:
        """Remove a sandbox."""
        request = pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id)
        await self._ask("RemovePodSandbox", request, pb.RemovePodSandboxResponse)

    async def create_container(self, sandbox_id: str, config: ContainerConfig, sandbox: PodSandboxConfig) -> str:
        """Create a container; return its id."""
        request = pb.CreateContainerRequest(
            pod_sandbox_id=sandbox_id,
            config=cri_container.encode_config(config),
            sandbox_config=cri_config.encode_config(sandbox),
        )
        return (await self._ask("CreateContainer", request, pb.CreateContainerResponse)).container_id

    async def start_container(self, container_id: str) -> None:
        """Start a container."""
        request = pb.StartContainerRequest(container_id=container_id)
        await self._ask("StartContainer", request, pb.StartContainerResponse)

    async def container_status(self, container_id: str) -> pb.ContainerStatus:
        """The status of a container."""
        request = pb.ContainerStatusRequest(container_id=container_id)
        return (await self._ask("ContainerStatus", request, pb.ContainerStatusResponse)).status

    async def list_containers(self, labels: Mapping[str, str]) -> list[pb.Container]:
        """The containers with these labels."""
        request = pb.ListContainersRequest(filter=pb.ContainerFilter(label_selector=labels))
        return list((await self._ask("ListContainers", request, pb.ListContainersResponse)).containers)

    async def stop_container(self, container_id: str, grace: int) -> None:
        """Stop a container, with a grace period in seconds."""
        request = pb.StopContainerRequest(container_id=container_id, timeout=grace)
        await self._ask_within(grace + self._timeout, "StopContainer", request, pb.StopContainerResponse)

    async def remove_container(self, container_id: str) -> None:
        """Remove a container."""
        request = pb.RemoveContainerRequest(container_id=container_id)
        await self._ask("RemoveContainer", request, pb.RemoveContainerResponse)

    async def checkpoint_container(self, container_id: str, location: str) -> None:
        """Write a checkpoint archive of a running container."""
        request = pb.CheckpointContainerRequest(container_id=container_id, location=location)
        await self._ask("CheckpointContainer", request, pb.CheckpointContainerResponse)

    async def exec_sync(self, container_id: str, command: tuple[str, ...], timeout: int = 0) -> pb.ExecSyncResponse:
        """Run a command in a container; `timeout` in seconds, 0 for none."""
        request = pb.ExecSyncRequest(container_id=container_id, cmd=command, timeout=timeout)
        deadline = timeout + self._timeout if timeout else None
        return await self._ask_within(deadline, "ExecSync", request, pb.ExecSyncResponse)

    async def _ask(self, method: str, request: Message, reply: type[R]) -> R:
        return await self._ask_within(self._timeout, method, request, reply)

    async def _ask_within(self, seconds: float | None, method: str, request: Message, reply: type[R]) -> R:
        return reply.FromString(await self.call(method, request.SerializeToString(), seconds))
