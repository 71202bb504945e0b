import pytest

from crishim.cri import pb
from crishim.cri.convert import runtime
from crishim.model.container import ContainerConfig, ContainerMetadata
from crishim.model.runtime import RestoredPod, RestorePod
from crishim.model.sandbox import PodSandboxConfig, PodSandboxMetadata
from crishim.model.values import ContainerId, FrozenDict, SandboxId
from tests.cri.refusals import refused

POD = pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name="n", namespace="ns", uid="u"))
MAIN = pb.ContainerConfig(metadata=pb.ContainerMetadata(name="main"))


def test_a_checkpoint_of_a_pod_has_a_folder_and_containers() -> None:
    """CheckpointPod gives its verb the id, the folder, the containers and the options."""
    request = pb.CheckpointPodRequest(pod_sandbox_id="s", output_path="/out", container_ids=["a", "b"], options={"o": "1"})
    expected = (SandboxId("s"), "/out", (ContainerId("a"), ContainerId("b")), FrozenDict({"o": "1"}))
    assert expected == runtime.decode_checkpoint(request)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.CheckpointPodRequest(output_path="/out"), "pod_sandbox_id"),
        (pb.CheckpointPodRequest(pod_sandbox_id="s", output_path="out"), "output_path"),
        (pb.CheckpointPodRequest(pod_sandbox_id="s", output_path="/out", container_ids=["a", ""]), "container_ids[1]"),
    ],
)
def test_checkpoints_that_make_no_sense_are_refused(request_: pb.CheckpointPodRequest, field: str) -> None:
    """A checkpoint without a pod, a folder, or a container's name is refused."""
    with refused(field):
        runtime.decode_checkpoint(request_)


def test_a_restore_says_what_to_make() -> None:
    """RestorePod gives its verb all it holds."""
    request = pb.RestorePodRequest(
        checkpoint_path="/in", config=POD, runtime_handler="kata", options={"o": "1"}, container_configs=[MAIN]
    )
    wanted = RestorePod(
        checkpoint_path="/in",
        config=PodSandboxConfig(metadata=PodSandboxMetadata("n", "ns", "u")),
        handler="kata",
        options={"o": "1"},
        container_configs=(ContainerConfig(metadata=ContainerMetadata("main")),),
    )
    assert (wanted,) == runtime.decode_restore(request)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.RestorePodRequest(checkpoint_path="/in"), "config"),
        (pb.RestorePodRequest(checkpoint_path="in", config=POD), "checkpoint_path"),
        (
            pb.RestorePodRequest(checkpoint_path="/in", config=POD, container_configs=[pb.ContainerConfig()]),
            "container_configs[0].metadata",
        ),
    ],
)
def test_restores_that_make_no_sense_are_refused(request_: pb.RestorePodRequest, field: str) -> None:
    """A restore from nowhere, or of something without a name, is refused."""
    with refused(field):
        runtime.decode_restore(request_)


def test_a_restored_pod_is_encoded_by_ids() -> None:
    """RestorePod answers the sandbox's id and each container's name and id."""
    expected = pb.RestorePodResponse(
        pod_sandbox_id="s", restored_containers=[pb.RestoredContainer(name="main", container_id="c")]
    )
    assert expected == runtime.encode_restore(RestoredPod(sandbox_id=SandboxId("s"), containers=(("main", ContainerId("c")),)))
