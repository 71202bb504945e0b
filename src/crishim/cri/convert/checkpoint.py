"""Checkpoints of whole pods."""

from crishim._proto import cri_pb2 as pb
from crishim.cri.convert import container_config, sandbox_config
from crishim.cri.convert.sandbox import sandbox_id
from crishim.cri.convert.scalars import absolute, decode_map, not_empty
from crishim.errors import InvalidArgument
from crishim.model.checkpoint import RestoredPod, RestorePod
from crishim.model.frozen import FrozenDict
from crishim.model.ids import ContainerId, SandboxId


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
            container_config.decode_config(config, f"container_configs[{place}]")
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
