from collections.abc import Callable

import pytest

from crishim.cri import pb
from crishim.cri.convert import sandbox
from crishim.cri.convert.container import encode_container_status
from crishim.cri.convert.sandbox import encode_sandbox_status
from crishim.cri.encoded import EncodedMessages
from crishim.model.container import ContainerMetadata, ContainerState, ContainerStatus, PodSandboxDetail
from crishim.model.resources import Resources
from crishim.model.sandbox import (
    PodSandbox,
    PodSandboxConfig,
    PodSandboxFilter,
    PodSandboxMetadata,
    PodSandboxState,
    PodSandboxStatus,
)
from crishim.model.values import ContainerId, SandboxId
from tests.cri.refusals import refused

METADATA = PodSandboxMetadata("n", "ns", "u")
CONFIG = pb.PodSandboxConfig(metadata=pb.PodSandboxMetadata(name="n", namespace="ns", uid="u"))


def test_run_takes_a_configuration_and_a_handler() -> None:
    """RunPodSandbox gives its verb the configuration and the handler, and answers the id."""
    expected = (PodSandboxConfig(metadata=METADATA), "kata")
    assert expected == sandbox.decode_run(pb.RunPodSandboxRequest(config=CONFIG, runtime_handler="kata"))
    assert pb.RunPodSandboxResponse(pod_sandbox_id="s") == sandbox.encode_run(SandboxId("s"))


def test_run_needs_a_configuration() -> None:
    """RunPodSandbox without a configuration, or with one that has no name, is refused."""
    with refused("config"):
        sandbox.decode_run(pb.RunPodSandboxRequest())
    with refused("config.metadata"):
        sandbox.decode_run(pb.RunPodSandboxRequest(config=pb.PodSandboxConfig()))


def test_verbs_take_an_id() -> None:
    """Stop and remove take the id, status takes the id and whether to be verbose."""
    assert sandbox.decode_stop(pb.StopPodSandboxRequest(pod_sandbox_id="s")) == ("s",)
    assert sandbox.decode_remove(pb.RemovePodSandboxRequest(pod_sandbox_id="s")) == ("s",)
    assert sandbox.decode_status(pb.PodSandboxStatusRequest(pod_sandbox_id="s", verbose=True)) == ("s", True)


@pytest.mark.parametrize(
    "decode",
    [
        lambda: sandbox.decode_stop(pb.StopPodSandboxRequest()),
        lambda: sandbox.decode_remove(pb.RemovePodSandboxRequest()),
        lambda: sandbox.decode_status(pb.PodSandboxStatusRequest()),
        lambda: sandbox.decode_update_resources(pb.UpdatePodSandboxResourcesRequest()),
    ],
)
def test_no_id_is_refused(decode: Callable[[], object]) -> None:
    """Every verb on a sandbox needs an id."""
    with refused("pod_sandbox_id"):
        decode()


def test_status_has_the_pod_as_of_one_moment() -> None:
    """PodSandboxStatus answers the sandbox, texts for people, and the containers of the same moment."""
    status = PodSandboxStatus(id=SandboxId("s"), metadata=METADATA, state=PodSandboxState.READY, created_at=1)
    main = ContainerStatus(id=ContainerId("c"), metadata=ContainerMetadata("main"), state=ContainerState.RUNNING, created_at=2)
    detail = PodSandboxDetail(status=status, info={"info": "{}"}, containers_statuses=(main,), timestamp=3)
    expected = pb.PodSandboxStatusResponse(
        status=encode_sandbox_status(status),
        info={"info": "{}"},
        containers_statuses=[encode_container_status(main)],
        timestamp=3,
    )
    caches = EncodedMessages(encode_sandbox_status), EncodedMessages(encode_container_status)
    for _ in range(2):
        assert expected == pb.PodSandboxStatusResponse.FromString(sandbox.encode_status(detail, *caches))


def test_an_absent_filter_is_an_empty_one() -> None:
    """No filter and an empty filter both match all."""
    expected = (PodSandboxFilter(),)
    assert expected == sandbox.decode_list(pb.ListPodSandboxRequest())
    assert expected == sandbox.decode_list(pb.StreamPodSandboxesRequest(filter=pb.PodSandboxFilter()))


def test_ready_is_a_state_to_filter_by() -> None:
    """An empty state message asks for READY, though its number is zero."""
    wanted = pb.PodSandboxFilter(id="s", state=pb.PodSandboxStateValue(), label_selector={"a": "b"})
    expected = (PodSandboxFilter(id="s", state=PodSandboxState.READY, label_selector={"a": "b"}),)
    assert expected == sandbox.decode_list(pb.ListPodSandboxRequest(filter=wanted))


def test_unknown_states_are_refused() -> None:
    """A state that CRI does not have cannot be filtered by."""
    wanted = pb.PodSandboxFilter(state=pb.PodSandboxStateValue(state=2))  # type: ignore[arg-type]
    with refused("filter.state.state"):
        sandbox.decode_list(pb.ListPodSandboxRequest(filter=wanted))


def test_a_list_item_is_encoded_in_full() -> None:
    """Every part of a list's item is on the wire."""
    item = PodSandbox(
        id=SandboxId("s"),
        metadata=METADATA,
        state=PodSandboxState.NOTREADY,
        created_at=1,
        labels={"a": "b"},
        annotations={"c": "d"},
        runtime_handler="kata",
    )
    expected = pb.PodSandbox(
        id="s",
        metadata=CONFIG.metadata,
        state=pb.PodSandboxState.SANDBOX_NOTREADY,
        created_at=1,
        labels={"a": "b"},
        annotations={"c": "d"},
        runtime_handler="kata",
    )
    assert expected == sandbox.encode_item(item)


def test_an_update_distinguishes_absent_sums_from_empty_ones() -> None:
    """UpdatePodSandboxResources gives None for a message that was not sent."""
    request = pb.UpdatePodSandboxResourcesRequest(pod_sandbox_id="s", resources=pb.LinuxContainerResources())
    expected = (SandboxId("s"), None, Resources())
    assert expected == sandbox.decode_update_resources(request)
    request = pb.UpdatePodSandboxResourcesRequest(pod_sandbox_id="s", overhead=pb.LinuxContainerResources(cpu_shares=-1))
    with refused("overhead.cpu_shares"):
        sandbox.decode_update_resources(request)
