"""The messages of the runtime verbs: version, status, configuration, container events, checkpoints of pods."""

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
    """Version: the client's version, which runtimes ignore."""
    return (request.version,)


def encode_version(version: Version) -> pb.VersionResponse:
    """Version: name and versions of the runtime."""
    return pb.VersionResponse(
        version=version.version,
        runtime_name=version.runtime_name,
        runtime_version=version.runtime_version,
        runtime_api_version=version.runtime_api_version,
    )


def decode_status(request: pb.StatusRequest) -> tuple[bool]:
    """Status: whether verbose info is requested."""
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
    """RuntimeReady or NetworkReady, with reason and message."""
    return pb.RuntimeCondition(
        type=condition.type,
        status=condition.status,
        reason=encode_text(condition.reason),
        message=encode_text(condition.message),
    )


def encode_handler(handler: RuntimeHandler) -> pb.RuntimeHandler:
    """A handler and its features."""
    return pb.RuntimeHandler(
        name=handler.name,
        features=pb.RuntimeHandlerFeatures(
            recursive_read_only_mounts=handler.features.recursive_read_only_mounts,
            user_namespaces=handler.features.user_namespaces,
        ),
    )


def decode_update_config(request: pb.UpdateRuntimeConfigRequest) -> tuple[str]:
    """UpdateRuntimeConfig: the pods' address ranges, one or two, comma-separated; empty if none was sent."""
    return (request.runtime_config.network_config.pod_cidr,)


def encode_config(driver: CgroupDriver) -> pb.RuntimeConfigResponse:
    """RuntimeConfig: the cgroup driver."""
    return pb.RuntimeConfigResponse(
        linux=pb.LinuxRuntimeConfiguration(cgroup_driver=pb.CgroupDriver.ValueType(driver)),
    )


def encode_event(event: ContainerEvent) -> pb.ContainerEventResponse:
    """GetContainerEvents: one event, with the status of the pod at that time."""
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
    """CheckpointPod: the sandbox's id, the absolute path of the target folder, the containers' ids, options."""
    return (
        sandbox_id(request.pod_sandbox_id),
        absolute(request.output_path, "output_path"),
        tuple(
            ContainerId(not_empty(container_id, f"container_ids[{place}]"))
            for place, container_id in enumerate(request.container_ids)
        ),
        decode_map(request.options),
    )


def decode_restore(request: pb.RestorePodRequest) -> tuple[RestorePod]:
    """RestorePod: the whole request."""
    if not request.HasField("config"):
        raise InvalidArgument("config", "is missing")
    decoded = RestorePod(
        checkpoint_path=absolute(request.checkpoint_path, "checkpoint_path"),
        config=sandbox_config.decode_config(request.config, "config"),
        handler=request.runtime_handler,
        options=decode_map(request.options),
        container_configs=tuple(
            container.decode_config(config, f"container_configs[{place}]")
            for place, config in enumerate(request.container_configs)
        ),
    )
    return (decoded,)


def encode_restore(pod: RestoredPod) -> pb.RestorePodResponse:
    """RestorePod: the new ids of the sandbox and its containers."""
    return pb.RestorePodResponse(
        pod_sandbox_id=pod.sandbox_id,
        restored_containers=[pb.RestoredContainer(name=name, container_id=new_id) for name, new_id in pod.containers],
    )
