"""The runtime as a whole."""

from crishim._proto import cri_pb2 as pb
from crishim.cri.convert.scalars import encode_text, encode_texts
from crishim.model.runtime import CgroupDriver, RuntimeCondition, RuntimeHandler, RuntimeStatus, Version


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
