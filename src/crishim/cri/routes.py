"""The table of CRI's 43 RPCs, each with its request, its decoder, the verb of the service, and its encoder.

It is the index of the library. A row whose parts do not fit together fails type checking. `dispatch` handles errors, logging
and readiness for all rows.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Generic, TypeAlias, TypeVar, TypeVarTuple

import attrs
from google.protobuf.message import Message

from crishim._proto import cri_pb2 as pb
from crishim.cri.convert import common, container, image, process, runtime, sandbox, stats
from crishim.cri.encoded import EncodedItems, EncodedMessages, ListedItems
from crishim.model.container import Container, ContainerStatus
from crishim.model.image import Image
from crishim.model.sandbox import PodSandbox, PodSandboxStatus
from crishim.model.stats import ContainerStats, PodSandboxMetrics, PodSandboxStats
from crishim.service.services import Services

Q = TypeVar("Q", bound=Message)
R = TypeVar("R")
A = TypeVarTuple("A")

RUNTIME = "runtime.v1.RuntimeService"
IMAGE = "runtime.v1.ImageService"


@attrs.frozen
class Unary(Generic[Q, R, *A]):
    """One request, one response. `encode` returns a message, or bytes if the response is cached."""

    service: str
    name: str
    request: type[Q]
    decode: Callable[[Q], tuple[*A]]
    call: Callable[[Services], Callable[[*A], Awaitable[R]]]
    encode: Callable[[R], Message | bytes]


@attrs.frozen
class Streamed(Generic[Q, R, *A]):
    """One request, a list in several messages. `chunks` yields their bytes."""

    service: str
    name: str
    request: type[Q]
    decode: Callable[[Q], tuple[*A]]
    call: Callable[[Services], Callable[[*A], Awaitable[R]]]
    chunks: Callable[[R], Iterable[bytes]]


@attrs.frozen
class Subscription(Generic[Q, R]):
    """One request, and messages until the client disconnects."""

    service: str
    name: str
    request: type[Q]
    subscribe: Callable[[Services], AsyncIterator[R]]
    encode: Callable[[R], Message]


Row: TypeAlias = Unary | Streamed | Subscription  # type: ignore[type-arg]  # rows of all shapes stand in one table


def routes() -> dict[str, Row]:
    """The rows by RPC name, with empty caches for the encoded lists."""
    sandboxes = EncodedItems[PodSandbox](1, sandbox.encode_item)
    containers = EncodedItems[Container](1, container.encode_item)
    images = ListedItems[Image](1, image.encode_image)
    container_stats = ListedItems[ContainerStats](1, stats.encode_container_item)
    sandbox_stats = ListedItems[PodSandboxStats](1, stats.encode_sandbox_item)
    metrics = ListedItems[PodSandboxMetrics](1, stats.encode_metrics_item)
    sandbox_statuses = EncodedMessages[PodSandboxStatus](sandbox.encode_sandbox_status)
    container_statuses = EncodedMessages[ContainerStatus](container.encode_container_status)
    # fmt: off
    rows = (
        Unary(RUNTIME, "Version", pb.VersionRequest, runtime.decode_version, lambda s: s.runtime.version, runtime.encode_version),
        Unary(RUNTIME, "RunPodSandbox", pb.RunPodSandboxRequest, sandbox.decode_run, lambda s: s.sandboxes.run, sandbox.encode_run),
        Unary(RUNTIME, "StopPodSandbox", pb.StopPodSandboxRequest, sandbox.decode_stop, lambda s: s.sandboxes.stop, common.encode_empty),
        Unary(RUNTIME, "RemovePodSandbox", pb.RemovePodSandboxRequest, sandbox.decode_remove, lambda s: s.sandboxes.remove, common.encode_empty),
        Unary(RUNTIME, "PodSandboxStatus", pb.PodSandboxStatusRequest, sandbox.decode_status, lambda s: s.sandboxes.status, lambda detail: sandbox.encode_status(detail, sandbox_statuses, container_statuses)),
        Unary(RUNTIME, "ListPodSandbox", pb.ListPodSandboxRequest, sandbox.decode_list, lambda s: s.sandboxes.list, sandboxes.join),
        Streamed(RUNTIME, "StreamPodSandboxes", pb.StreamPodSandboxesRequest, sandbox.decode_list, lambda s: s.sandboxes.list, sandboxes.batches),
        Unary(RUNTIME, "CreateContainer", pb.CreateContainerRequest, container.decode_create, lambda s: s.containers.create, container.encode_create),
        Unary(RUNTIME, "StartContainer", pb.StartContainerRequest, container.decode_start, lambda s: s.containers.start, common.encode_empty),
        Unary(RUNTIME, "StopContainer", pb.StopContainerRequest, container.decode_stop, lambda s: s.containers.stop, common.encode_empty),
        Unary(RUNTIME, "RemoveContainer", pb.RemoveContainerRequest, container.decode_remove, lambda s: s.containers.remove, common.encode_empty),
        Unary(RUNTIME, "ListContainers", pb.ListContainersRequest, container.decode_list, lambda s: s.containers.list, containers.join),
        Streamed(RUNTIME, "StreamContainers", pb.StreamContainersRequest, container.decode_list, lambda s: s.containers.list, containers.batches),
        Unary(RUNTIME, "ContainerStatus", pb.ContainerStatusRequest, container.decode_status, lambda s: s.containers.status, lambda detail: container.encode_status(detail, container_statuses)),
        Unary(RUNTIME, "UpdateContainerResources", pb.UpdateContainerResourcesRequest, container.decode_update_resources, lambda s: s.containers.update_resources, common.encode_empty),
        Unary(RUNTIME, "ReopenContainerLog", pb.ReopenContainerLogRequest, container.decode_reopen_log, lambda s: s.containers.reopen_log, common.encode_empty),
        Unary(RUNTIME, "ExecSync", pb.ExecSyncRequest, process.decode_exec_sync, lambda s: s.streams.exec_sync, process.encode_exec_sync),
        Unary(RUNTIME, "Exec", pb.ExecRequest, process.decode_exec, lambda s: s.streams.exec, process.encode_exec),
        Unary(RUNTIME, "Attach", pb.AttachRequest, process.decode_attach, lambda s: s.streams.attach, process.encode_attach),
        Unary(RUNTIME, "PortForward", pb.PortForwardRequest, process.decode_port_forward, lambda s: s.streams.port_forward, process.encode_port_forward),
        Unary(RUNTIME, "ContainerStats", pb.ContainerStatsRequest, stats.decode_container, lambda s: s.stats.container, stats.encode_container),
        Unary(RUNTIME, "ListContainerStats", pb.ListContainerStatsRequest, stats.decode_containers, lambda s: s.stats.containers, container_stats.join),
        Streamed(RUNTIME, "StreamContainerStats", pb.StreamContainerStatsRequest, stats.decode_containers, lambda s: s.stats.containers, container_stats.batches),
        Unary(RUNTIME, "PodSandboxStats", pb.PodSandboxStatsRequest, stats.decode_sandbox, lambda s: s.stats.sandbox, stats.encode_sandbox),
        Unary(RUNTIME, "ListPodSandboxStats", pb.ListPodSandboxStatsRequest, stats.decode_sandboxes, lambda s: s.stats.sandboxes, sandbox_stats.join),
        Streamed(RUNTIME, "StreamPodSandboxStats", pb.StreamPodSandboxStatsRequest, stats.decode_sandboxes, lambda s: s.stats.sandboxes, sandbox_stats.batches),
        Unary(RUNTIME, "UpdateRuntimeConfig", pb.UpdateRuntimeConfigRequest, runtime.decode_update_config, lambda s: s.runtime.update_config, common.encode_empty),
        Unary(RUNTIME, "Status", pb.StatusRequest, runtime.decode_status, lambda s: s.runtime.status, runtime.encode_status),
        Unary(RUNTIME, "CheckpointContainer", pb.CheckpointContainerRequest, container.decode_checkpoint, lambda s: s.containers.checkpoint, common.encode_empty),
        Unary(RUNTIME, "CheckpointPod", pb.CheckpointPodRequest, runtime.decode_checkpoint, lambda s: s.pods.checkpoint, common.encode_empty),
        Unary(RUNTIME, "RestorePod", pb.RestorePodRequest, runtime.decode_restore, lambda s: s.pods.restore, runtime.encode_restore),
        Subscription(RUNTIME, "GetContainerEvents", pb.GetEventsRequest, lambda s: s.events.subscribe(), runtime.encode_event),
        Unary(RUNTIME, "ListMetricDescriptors", pb.ListMetricDescriptorsRequest, common.decode_nothing, lambda s: s.stats.metric_descriptors, stats.encode_metric_descriptors),
        Unary(RUNTIME, "ListPodSandboxMetrics", pb.ListPodSandboxMetricsRequest, common.decode_nothing, lambda s: s.stats.metrics, metrics.join),
        Streamed(RUNTIME, "StreamPodSandboxMetrics", pb.StreamPodSandboxMetricsRequest, common.decode_nothing, lambda s: s.stats.metrics, metrics.batches),
        Unary(RUNTIME, "RuntimeConfig", pb.RuntimeConfigRequest, common.decode_nothing, lambda s: s.runtime.config, runtime.encode_config),
        Unary(RUNTIME, "UpdatePodSandboxResources", pb.UpdatePodSandboxResourcesRequest, sandbox.decode_update_resources, lambda s: s.sandboxes.update_resources, common.encode_empty),
        Unary(IMAGE, "ListImages", pb.ListImagesRequest, image.decode_list, lambda s: s.images.list, images.join),
        Streamed(IMAGE, "StreamImages", pb.StreamImagesRequest, image.decode_list, lambda s: s.images.list, images.batches),
        Unary(IMAGE, "ImageStatus", pb.ImageStatusRequest, image.decode_status, lambda s: s.images.status, image.encode_status),
        Unary(IMAGE, "PullImage", pb.PullImageRequest, image.decode_pull, lambda s: s.images.pull, image.encode_pull),
        Unary(IMAGE, "RemoveImage", pb.RemoveImageRequest, image.decode_remove, lambda s: s.images.remove, common.encode_empty),
        Unary(IMAGE, "ImageFsInfo", pb.ImageFsInfoRequest, common.decode_nothing, lambda s: s.images.fs_info, image.encode_fs_info),
    )
    # fmt: on
    return {row.name: row for row in rows}
