from typing import Any

import pytest

from crishim.cri import pb
from crishim.cri.subject import RequestSubject
from crishim.testing import Harness
from crishim.testing.harness import IMAGE

SANDBOX, CONTAINER = f"5{1:063x}", f"c{1:063x}"
CONFIG = pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name="web", namespace="shop", uid="u-1"))
SPEC = pb.ContainerConfig(metadata=pb.ContainerMetadata(name="new"))
IMAGE_SPEC = pb.ImageSpec(image=IMAGE)


@pytest.mark.parametrize(
    ("request_", "name", "pod", "container"),
    [
        (pb.VersionRequest(), "", "", ""),
        (pb.ListContainersRequest(), "", "", ""),
        (pb.RunPodSandboxRequest(config=CONFIG), "shop/web", "shop/web", ""),
        (pb.RunPodSandboxRequest(), "/", "", ""),
        (pb.StopPodSandboxRequest(pod_sandbox_id=SANDBOX), SANDBOX, "default/pod", ""),
        (pb.StopPodSandboxRequest(pod_sandbox_id="none"), "none", "", ""),
        (pb.CreateContainerRequest(pod_sandbox_id=SANDBOX, config=SPEC), SANDBOX, "default/pod", "new"),
        (pb.CreateContainerRequest(pod_sandbox_id="none", config=SPEC, sandbox_config=CONFIG), "none", "shop/web", "new"),
        (pb.StartContainerRequest(container_id=CONTAINER), CONTAINER, "default/pod", "main"),
        (pb.StartContainerRequest(container_id="c000"), "c000", "", ""),
        (pb.ExecSyncRequest(container_id=f"c{1:063x}"), CONTAINER, "default/pod", "main"),
        (pb.PullImageRequest(image=IMAGE_SPEC), IMAGE, "", ""),
        (pb.PullImageRequest(image=IMAGE_SPEC, sandbox_config=CONFIG), IMAGE, "shop/web", ""),
        (pb.UpdateRuntimeConfigRequest(), "", "", ""),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
async def test_what_a_request_is_about(request_: Any, name: str, pod: str, container: str) -> None:
    """The subject is an id, an image or a pod to be created; the pod of an id is looked up, and an ambiguous one has none."""
    async with Harness() as world:
        sandbox_id = await world.run_sandbox()
        for each in ("main", "other"):
            await world.create_container(sandbox_id, each)
        subject = RequestSubject.of(request_, world.services)
    assert (name, pod, container) == (subject.name, subject.pod, subject.container_name)
