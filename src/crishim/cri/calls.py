"""The type of the response to each request. Written by `make reference` from the table in `routes`."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from typing import Any, overload

from google.protobuf.message import Message

from crishim._proto import cri_pb2 as pb


class TypedCalls(ABC):
    """The calls of `Dispatcher` by message. The response to a request of other stubs than `pb` is typed `Any`."""

    @overload
    async def __call__(self, request: pb.VersionRequest) -> pb.VersionResponse: ...

    @overload
    async def __call__(self, request: pb.RunPodSandboxRequest) -> pb.RunPodSandboxResponse: ...

    @overload
    async def __call__(self, request: pb.StopPodSandboxRequest) -> pb.StopPodSandboxResponse: ...

    @overload
    async def __call__(self, request: pb.RemovePodSandboxRequest) -> pb.RemovePodSandboxResponse: ...

    @overload
    async def __call__(self, request: pb.PodSandboxStatusRequest) -> pb.PodSandboxStatusResponse: ...

    @overload
    async def __call__(self, request: pb.ListPodSandboxRequest) -> pb.ListPodSandboxResponse: ...

    @overload
    async def __call__(self, request: pb.CreateContainerRequest) -> pb.CreateContainerResponse: ...

    @overload
    async def __call__(self, request: pb.StartContainerRequest) -> pb.StartContainerResponse: ...

    @overload
    async def __call__(self, request: pb.StopContainerRequest) -> pb.StopContainerResponse: ...

    @overload
    async def __call__(self, request: pb.RemoveContainerRequest) -> pb.RemoveContainerResponse: ...

    @overload
    async def __call__(self, request: pb.ListContainersRequest) -> pb.ListContainersResponse: ...

    @overload
    async def __call__(self, request: pb.ContainerStatusRequest) -> pb.ContainerStatusResponse: ...

    @overload
    async def __call__(self, request: pb.UpdateContainerResourcesRequest) -> pb.UpdateContainerResourcesResponse: ...

    @overload
    async def __call__(self, request: pb.ReopenContainerLogRequest) -> pb.ReopenContainerLogResponse: ...

    @overload
    async def __call__(self, request: pb.ExecSyncRequest) -> pb.ExecSyncResponse: ...

    @overload
    async def __call__(self, request: pb.ExecRequest) -> pb.ExecResponse: ...

    @overload
    async def __call__(self, request: pb.AttachRequest) -> pb.AttachResponse: ...

    @overload
    async def __call__(self, request: pb.PortForwardRequest) -> pb.PortForwardResponse: ...

    @overload
    async def __call__(self, request: pb.ContainerStatsRequest) -> pb.ContainerStatsResponse: ...

    @overload
    async def __call__(self, request: pb.ListContainerStatsRequest) -> pb.ListContainerStatsResponse: ...

    @overload
    async def __call__(self, request: pb.PodSandboxStatsRequest) -> pb.PodSandboxStatsResponse: ...

    @overload
    async def __call__(self, request: pb.ListPodSandboxStatsRequest) -> pb.ListPodSandboxStatsResponse: ...

    @overload
    async def __call__(self, request: pb.UpdateRuntimeConfigRequest) -> pb.UpdateRuntimeConfigResponse: ...

    @overload
    async def __call__(self, request: pb.StatusRequest) -> pb.StatusResponse: ...

    @overload
    async def __call__(self, request: pb.CheckpointContainerRequest) -> pb.CheckpointContainerResponse: ...

    @overload
    async def __call__(self, request: pb.CheckpointPodRequest) -> pb.CheckpointPodResponse: ...

    @overload
    async def __call__(self, request: pb.RestorePodRequest) -> pb.RestorePodResponse: ...

    @overload
    async def __call__(self, request: pb.ListMetricDescriptorsRequest) -> pb.ListMetricDescriptorsResponse: ...

    @overload
    async def __call__(self, request: pb.ListPodSandboxMetricsRequest) -> pb.ListPodSandboxMetricsResponse: ...

    @overload
    async def __call__(self, request: pb.RuntimeConfigRequest) -> pb.RuntimeConfigResponse: ...

    @overload
    async def __call__(self, request: pb.UpdatePodSandboxResourcesRequest) -> pb.UpdatePodSandboxResourcesResponse: ...

    @overload
    async def __call__(self, request: pb.ListImagesRequest) -> pb.ListImagesResponse: ...

    @overload
    async def __call__(self, request: pb.ImageStatusRequest) -> pb.ImageStatusResponse: ...

    @overload
    async def __call__(self, request: pb.PullImageRequest) -> pb.PullImageResponse: ...

    @overload
    async def __call__(self, request: pb.RemoveImageRequest) -> pb.RemoveImageResponse: ...

    @overload
    async def __call__(self, request: pb.ImageFsInfoRequest) -> pb.ImageFsInfoResponse: ...

    @overload
    async def __call__(self, request: Message) -> Any: ...

    async def __call__(self, request: Message) -> Any:
        """The response to a request message, in the request's own stubs. For streaming RPCs use `messages`."""
        return await self._response(request)

    @overload
    def messages(self, request: pb.StreamPodSandboxesRequest) -> AsyncIterator[pb.StreamPodSandboxesResponse]: ...

    @overload
    def messages(self, request: pb.StreamContainersRequest) -> AsyncIterator[pb.StreamContainersResponse]: ...

    @overload
    def messages(self, request: pb.StreamContainerStatsRequest) -> AsyncIterator[pb.StreamContainerStatsResponse]: ...

    @overload
    def messages(self, request: pb.StreamPodSandboxStatsRequest) -> AsyncIterator[pb.StreamPodSandboxStatsResponse]: ...

    @overload
    def messages(self, request: pb.GetEventsRequest) -> AsyncIterator[pb.ContainerEventResponse]: ...

    @overload
    def messages(self, request: pb.StreamPodSandboxMetricsRequest) -> AsyncIterator[pb.StreamPodSandboxMetricsResponse]: ...

    @overload
    def messages(self, request: pb.StreamImagesRequest) -> AsyncIterator[pb.StreamImagesResponse]: ...

    @overload
    def messages(self, request: Message) -> AsyncIterator[Any]: ...

    def messages(self, request: Message) -> AsyncIterator[Any]:
        """The responses to a streaming request, in the request's own stubs."""
        return self._responses(request)

    @abstractmethod
    async def _response(self, request: Message) -> Any: ...

    @abstractmethod
    def _responses(self, request: Message) -> AsyncIterator[Any]: ...
