"""The runtime as a whole.

Container events.

Checkpoints of whole pods.
"""

from crishim._proto import cri_pb2 as pb
from crishim.cri.convert import container, sandbox_config
from crishim.cri.convert.common import absolute, decode_map, encode_text, encode_texts, not_empty, sandbox_id
from crishim.cri.convert.container import encode_container_status
from crishim.cri.convert.sandbox import encode_sandbox_status
from crishim.errors import InvalidArgument
from crishim.model.runtime import (
    CgroupDriver,
    ContainerEvent,
    RestoredPod,
    RestorePod,
    RuntimeCondition,
    RuntimeHandler,
    RuntimeStatus,
    Version,
)
from crishim.model.values import ContainerId, FrozenDict, SandboxId


def decode_version(request: pb.VersionRequest) -> tuple[str]:
    """Version: what the client names, which no runtime heeds."""
    return (request.version,)


def encode_version(version: Version) -> pb.VersionResponse:
    """Version: who serves."""
    return pb.VersionResponse(
        version=version.version,
        runtime_name=version.runtime_name,
        runtime_version=version.runtime_version,
        runtime_api_version=version.runtime_api_version,
    )


def decode_status(request: pb.StatusRequest) -> tuple[bool]:
    """Status: whether to be verbose."""
    return (request.verbose,)


def encode_status(status: RuntimeStatus) -> pb.StatusResponse:
    """Status: conditions, handlers and features."""
    return pb.StatusResponse(
        status=pb.RuntimeStatus(conditions=[encode_condition(condition) for condition in status.conditions]),
        info=encode_texts(status.info),
        runtime_handlers=[encode_handler(handler) for handler in status.handlers],
        features=pb.RuntimeFeatures(
            supplemental_groups_policy=status.features.supplemental_groups_policy,
            user_namespaces_host_network=status.features.user_namespaces_host_network,
            mount_options=status.features.mount_options,
        ),
    )


def encode_condition(condition: RuntimeCondition) -> pb.RuntimeCondition:
    """One thing that is well, or is not."""
    return pb.RuntimeCondition(
        type=condition.type,
        status=condition.status,
        reason=encode_text(condition.reason),
        message=encode_text(condition.message),
    )


def encode_handler(handler: RuntimeHandler) -> pb.RuntimeHandler:
    """A handler, and what it can do."""
    return pb.RuntimeHandler(
        name=handler.name,
        features=pb.RuntimeHandlerFeatures(
            recursive_read_only_mounts=handler.features.recursive_read_only_mounts,
            user_namespaces=handler.features.user_namespaces,
        ),
    )


def decode_update_config(request: pb.UpdateRuntimeConfigRequest) -> tuple[str]:
    """UpdateRuntimeConfig: the pods' address range, one or two with a comma between; empty where none was sent."""
    return (request.runtime_config.network_config.pod_cidr,)


def encode_config(driver: CgroupDriver) -> pb.RuntimeConfigResponse:
    """RuntimeConfig: who makes cgroups."""
    return pb.RuntimeConfigResponse(
        linux=pb.LinuxRuntimeConfiguration(cgroup_driver=pb.CgroupDriver.ValueType(driver)),
    )


def encode_event(event: ContainerEvent) -> pb.ContainerEventResponse:
    """GetContainerEvents: one event, with the pod as it was then."""
    return pb.ContainerEventResponse(
        container_id=event.container_id,
        container_event_type=pb.ContainerEventType.ValueType(event.type),
        created_at=event.created_at,
        pod_sandbox_status=encode_sandbox_status(event.pod_sandbox_status),
        containers_statuses=[encode_container_status(status) for status in event.containers_statuses],
    )


def decode_checkpoint(
    request: pb.CheckpointPodRequest,
) -> tuple[SandboxId, str, tuple[ContainerId, ...], FrozenDict[str, str]]:
    """CheckpointPod: the sandbox's id, the absolute path of the folder to write in, the containers' ids, options."""
    return (
        sandbox_id(request.pod_sandbox_id),
        absolute(request.output_path, "output_path"),
        tuple(ContainerId(not_empty(wanted, f"container_ids[{place}]")) for place, wanted in enumerate(request.container_ids)),
        decode_map(request.options),
    )


def decode_restore(request: pb.RestorePodRequest) -> tuple[RestorePod]:
    """RestorePod: all of it."""
    if not request.HasField("config"):
        raise InvalidArgument("config", "is missing")
    wanted = RestorePod(
        checkpoint_path=absolute(request.checkpoint_path, "checkpoint_path"),
        config=sandbox_config.decode_config(request.config, "config"),
        handler=request.runtime_handler,
        options=decode_map(request.options),
        container_configs=tuple(
            container.decode_config(config, f"container_configs[{place}]")
            for place, config in enumerate(request.container_configs)
        ),
    )
    return (wanted,)


def encode_restore(pod: RestoredPod) -> pb.RestorePodResponse:
    """RestorePod: the ids of what was made."""
    return pb.RestorePodResponse(
        pod_sandbox_id=pod.sandbox_id,
        restored_containers=[pb.RestoredContainer(name=name, container_id=new_id) for name, new_id in pod.containers],
    )
