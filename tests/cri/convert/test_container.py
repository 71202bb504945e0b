from collections.abc import Callable

import pytest

from crishim.cri import pb
from crishim.cri.convert import container
from crishim.cri.convert.container import encode_container_status
from crishim.cri.encoded import EncodedMessages
from crishim.model.container import (
    Container,
    ContainerConfig,
    ContainerDetail,
    ContainerFilter,
    ContainerMetadata,
    ContainerState,
    ContainerStatus,
)
from crishim.model.image import ImageSpec
from crishim.model.resources import Resources
from crishim.model.sandbox import PodSandboxConfig, PodSandboxMetadata
from crishim.model.values import EMPTY, ContainerId, FrozenDict, SandboxId
from tests.cri.refusals import refused

CONFIG = pb.ContainerConfig(metadata=pb.ContainerMetadata(name="main"))
POD = pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name="n", namespace="ns", uid="u"))


def test_create_takes_both_configurations() -> None:
    """CreateContainer gives its verb the sandbox's id and both configurations, and answers the id."""
    request = pb.CreateContainerRequest(pod_sandbox_id="s", config=CONFIG, sandbox_config=POD)
    main = ContainerConfig(metadata=ContainerMetadata("main"))
    expected = (SandboxId("s"), main, PodSandboxConfig(metadata=PodSandboxMetadata("n", "ns", "u")))
    assert expected == container.decode_create(request)
    request.ClearField("sandbox_config")
    assert (SandboxId("s"), main, None) == container.decode_create(request)
    assert pb.CreateContainerResponse(container_id="c") == container.encode_create(ContainerId("c"))


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.CreateContainerRequest(pod_sandbox_id="s"), "config"),
        (pb.CreateContainerRequest(config=CONFIG), "pod_sandbox_id"),
        (pb.CreateContainerRequest(pod_sandbox_id="s", config=pb.ContainerConfig()), "config.metadata"),
        (
            pb.CreateContainerRequest(pod_sandbox_id="s", config=CONFIG, sandbox_config=pb.PodSandboxConfig()),
            "sandbox_config.metadata",
        ),
    ],
)
def test_creates_that_make_no_sense_are_refused(request_: pb.CreateContainerRequest, field: str) -> None:
    """CreateContainer needs an id, a configuration, and a name in each configuration."""
    with refused(field):
        container.decode_create(request_)


def test_verbs_take_an_id() -> None:
    """Start, remove and reopen take the id, status takes the id and whether to be verbose."""
    assert container.decode_start(pb.StartContainerRequest(container_id="c")) == ("c",)
    assert container.decode_remove(pb.RemoveContainerRequest(container_id="c")) == ("c",)
    assert container.decode_reopen_log(pb.ReopenContainerLogRequest(container_id="c")) == ("c",)
    assert container.decode_status(pb.ContainerStatusRequest(container_id="c", verbose=True)) == ("c", True)


@pytest.mark.parametrize(
    "decode",
    [
        lambda: container.decode_start(pb.StartContainerRequest()),
        lambda: container.decode_stop(pb.StopContainerRequest()),
        lambda: container.decode_remove(pb.RemoveContainerRequest()),
        lambda: container.decode_status(pb.ContainerStatusRequest()),
        lambda: container.decode_update_resources(pb.UpdateContainerResourcesRequest()),
        lambda: container.decode_reopen_log(pb.ReopenContainerLogRequest()),
        lambda: container.decode_checkpoint(pb.CheckpointContainerRequest(location="/x")),
    ],
)
def test_no_id_is_refused(decode: Callable[[], object]) -> None:
    """Every verb on a container needs an id."""
    with refused("container_id"):
        decode()


@pytest.mark.parametrize(("timeout", "expected"), [(30, 30), (0, 0), (-1, 0)])
def test_no_grace_is_a_kill_at_once(timeout: int, expected: int) -> None:
    """StopContainer takes seconds of grace; a negative number is none, so that a stop is never refused."""
    request = pb.StopContainerRequest(container_id="c", timeout=timeout)
    assert ("c", expected) == container.decode_stop(request)


def test_status_is_encoded_with_its_texts() -> None:
    """ContainerStatus answers the container and the texts for people."""
    status = ContainerStatus(
        id=ContainerId("c"), metadata=ContainerMetadata("main"), state=ContainerState.CREATED, created_at=2
    )
    expected = pb.ContainerStatusResponse(status=encode_container_status(status), info={"info": "{}"})
    detail, cache = ContainerDetail(status=status, info={"info": "{}"}), EncodedMessages(encode_container_status)
    for _ in range(2):
        assert expected == pb.ContainerStatusResponse.FromString(container.encode_status(detail, cache))


def test_an_absent_filter_is_an_empty_one() -> None:
    """No filter and an empty filter both match all."""
    expected = (ContainerFilter(),)
    assert expected == container.decode_list(pb.ListContainersRequest())
    assert expected == container.decode_list(pb.StreamContainersRequest(filter=pb.ContainerFilter()))


def test_created_is_a_state_to_filter_by() -> None:
    """An empty state message asks for CREATED, though its number is zero."""
    wanted = pb.ContainerFilter(id="c", state=pb.ContainerStateValue(), pod_sandbox_id="s", label_selector={"a": "b"})
    expected = ContainerFilter(id="c", state=ContainerState.CREATED, pod_sandbox_id="s", label_selector={"a": "b"})
    assert (expected,) == container.decode_list(pb.ListContainersRequest(filter=wanted))


def test_unknown_states_are_refused() -> None:
    """A state that CRI does not have cannot be filtered by."""
    wanted = pb.ContainerFilter(state=pb.ContainerStateValue(state=4))  # type: ignore[arg-type]
    with refused("filter.state.state"):
        container.decode_list(pb.ListContainersRequest(filter=wanted))


def test_a_list_item_is_encoded_in_full() -> None:
    """Every part of a list's item is on the wire."""
    item = Container(
        id=ContainerId("c"),
        pod_sandbox_id=SandboxId("s"),
        metadata=ContainerMetadata("main", 1),
        image=ImageSpec(image="busybox"),
        image_ref="r",
        state=ContainerState.UNKNOWN,
        created_at=1,
        labels={"a": "b"},
        annotations={"c": "d"},
        image_id="i",
    )
    expected = pb.Container(
        id="c",
        pod_sandbox_id="s",
        metadata=pb.ContainerMetadata(name="main", attempt=1),
        image=pb.ImageSpec(image="busybox"),
        image_ref="r",
        state=pb.ContainerState.CONTAINER_UNKNOWN,
        created_at=1,
        labels={"a": "b"},
        annotations={"c": "d"},
        image_id="i",
    )
    assert expected == container.encode_item(item)


def test_an_update_may_ask_for_nothing() -> None:
    """UpdateContainerResources gives empty limits for a message that was not sent, and the hints."""
    request = pb.UpdateContainerResourcesRequest(container_id="c", annotations={"a": "b"})
    assert (ContainerId("c"), Resources(), FrozenDict({"a": "b"})) == container.decode_update_resources(request)
    request = pb.UpdateContainerResourcesRequest(container_id="c", linux=pb.LinuxContainerResources(cpu_shares=5))
    assert (ContainerId("c"), Resources(cpu_shares=5), EMPTY) == container.decode_update_resources(request)


def test_a_checkpoint_has_a_place_and_a_time() -> None:
    """CheckpointContainer takes an absolute path, and seconds that are not negative."""
    request = pb.CheckpointContainerRequest(container_id="c", location="/x.tar", timeout=5)
    expected = (ContainerId("c"), "/x.tar", 5)
    assert expected == container.decode_checkpoint(request)
    with refused("location"):
        container.decode_checkpoint(pb.CheckpointContainerRequest(container_id="c", location="x.tar"))
    with refused("timeout"):
        container.decode_checkpoint(pb.CheckpointContainerRequest(container_id="c", location="/x.tar", timeout=-1))
