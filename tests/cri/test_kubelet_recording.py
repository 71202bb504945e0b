import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message

from crishim.cri import pb
from crishim.cri.convert import common, container, image, process, runtime, sandbox, sandbox_config, stats
from crishim.lifecycle.features import check_sandbox, container_features
from crishim.lifecycle.resolve import resolve
from crishim.model.container import ContainerState
from crishim.model.features import Feature
from crishim.model.image import ImageConfig
from crishim.model.process import Signal
from crishim.model.sandbox import SandboxSpec
from crishim.model.security import NamespaceMode
from crishim.model.values import ContainerId, ImageId, SandboxId

RECORDING = Path(__file__).parents[1] / "golden" / "kubelet-1.36.jsonl"
PROFILES = frozenset({Feature.SECCOMP, Feature.APPARMOR})

Call: TypeAlias = Mapping[str, Any]

DECODERS: Mapping[str, tuple[type[Message], Callable[..., object]]] = {
    "Attach": (pb.AttachRequest, process.decode_attach),
    "ContainerStatus": (pb.ContainerStatusRequest, container.decode_status),
    "CreateContainer": (pb.CreateContainerRequest, container.decode_create),
    "Exec": (pb.ExecRequest, process.decode_exec),
    "ExecSync": (pb.ExecSyncRequest, process.decode_exec_sync),
    "ImageFsInfo": (pb.ImageFsInfoRequest, common.decode_nothing),
    "ImageStatus": (pb.ImageStatusRequest, image.decode_status),
    "ListContainerStats": (pb.ListContainerStatsRequest, stats.decode_containers),
    "ListContainers": (pb.ListContainersRequest, container.decode_list),
    "ListImages": (pb.ListImagesRequest, image.decode_list),
    "ListPodSandbox": (pb.ListPodSandboxRequest, sandbox.decode_list),
    "PodSandboxStatus": (pb.PodSandboxStatusRequest, sandbox.decode_status),
    "PortForward": (pb.PortForwardRequest, process.decode_port_forward),
    "RemoveContainer": (pb.RemoveContainerRequest, container.decode_remove),
    "RemovePodSandbox": (pb.RemovePodSandboxRequest, sandbox.decode_remove),
    "RunPodSandbox": (pb.RunPodSandboxRequest, sandbox.decode_run),
    "RuntimeConfig": (pb.RuntimeConfigRequest, common.decode_nothing),
    "StartContainer": (pb.StartContainerRequest, container.decode_start),
    "Status": (pb.StatusRequest, runtime.decode_status),
    "StopContainer": (pb.StopContainerRequest, container.decode_stop),
    "StopPodSandbox": (pb.StopPodSandboxRequest, sandbox.decode_stop),
    "Version": (pb.VersionRequest, runtime.decode_version),
}


def calls(*methods: str) -> list[Call]:
    """The recorded calls, all of them or of some methods."""
    found = map(json.loads, RECORDING.read_text(encoding="utf-8").splitlines())
    return [call for call in found if not methods or call["method"] in methods]


def named(call: Call) -> str:
    metadata = call["request"]["config"]["metadata"]
    return f"{call['pod']}-{metadata['name']}"


def parsed(call: Call) -> Message:
    return json_format.ParseDict(call["request"], DECODERS[call["method"]][0]())


def test_every_recorded_request_is_understood() -> None:
    """Each request that a kubelet sent decodes, and gives its verb a tuple of arguments."""
    recorded = calls()
    for call in recorded:
        arguments = DECODERS[call["method"]][1](parsed(call))
        assert isinstance(arguments, tuple)
    assert len(recorded) == 185


@pytest.mark.parametrize("call", calls("RunPodSandbox"), ids=named)
def test_a_sandbox_of_the_kubelet_goes_back_as_it_came(call: Call) -> None:
    """A kubelet's RunPodSandbox is the same message after decoding and encoding."""
    expected = json_format.ParseDict(call["request"], pb.RunPodSandboxRequest())
    config, handler = sandbox.decode_run(expected)
    assert expected == pb.RunPodSandboxRequest(config=sandbox_config.encode_config(config), runtime_handler=handler)


@pytest.mark.parametrize("call", calls("CreateContainer"), ids=named)
def test_a_container_of_the_kubelet_goes_back_as_it_came(call: Call) -> None:
    """A kubelet's CreateContainer is the same message after decoding and encoding."""
    expected = json_format.ParseDict(call["request"], pb.CreateContainerRequest())
    sandbox_id, config, pod = container.decode_create(expected)
    assert pod is not None
    assert expected == pb.CreateContainerRequest(
        pod_sandbox_id=sandbox_id,
        config=container.encode_config(config),
        sandbox_config=sandbox_config.encode_config(pod),
    )


def test_a_plain_container_is_what_the_kubelet_says_it_is() -> None:
    """The kubelet's plainest container runs as uid 0 with a pid namespace of its own, and names no stop signal."""
    call, *_ = (call for call in calls("CreateContainer") if call["pod"] == "plain")
    _, config, _ = container.decode_create(json_format.ParseDict(call["request"], pb.CreateContainerRequest()))
    assert config.stop_signal is Signal.RUNTIME_DEFAULT
    assert config.linux is not None
    context = config.linux.security_context
    assert context is not None
    assert context.run_as_user == 0
    assert context.run_as_group is None
    assert context.namespace_options.pid is NamespaceMode.CONTAINER
    assert len(context.masked_paths) == 12
    assert len(context.readonly_paths) == 5


def test_whose_profiles_count_as_requested() -> None:
    """The kubelet sends every sandbox RuntimeDefault, and containers what their pod says: only that may be refused."""
    requested = set()
    for call in calls("CreateContainer"):
        _, config, pod = container.decode_create(json_format.ParseDict(call["request"], pb.CreateContainerRequest()))
        assert pod is not None
        sandbox_spec = SandboxSpec(id=SandboxId("s"), config=pod)
        check_sandbox(sandbox_spec, frozenset(Feature) - PROFILES)
        spec = resolve(config, ImageConfig(), sandbox_spec, container_id=ContainerId("c"), image_id=ImageId("i"))
        requested |= {
            (call["pod"], feature) for feature, is_set in container_features(spec).items() if is_set and feature in PROFILES
        }
    assert {("sec", Feature.SECCOMP)} == requested


def test_the_kubelet_asks_for_states() -> None:
    """The kubelet's list of running containers is a filter by state, and an empty filter is none."""
    found = {
        container.decode_list(json_format.ParseDict(call["request"], pb.ListContainersRequest()))[0].state
        for call in calls("ListContainers")
    }
    expected = {None, ContainerState.RUNNING}
    assert expected == found
