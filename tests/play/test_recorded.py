"""The same manifests as a real kubelet 1.36 was given, and the same requests as it sent."""

import base64
import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from crishim.cri import pb
from crishim.cri.convert import container as cri_container
from crishim.cri.convert import sandbox_config as cri_sandbox_config
from crishim.model.sandbox import DNSConfig
from crishim.play.configs import Node, Start, container_config, image_spec, sandbox_config
from crishim.play.manifest import parse
from crishim.play.pod import Pod

GOLDEN = Path(__file__).parents[1] / "golden"
MANIFESTS: Mapping[str, Any] = json.loads((GOLDEN / "kubelet-1.36-pods.json").read_text(encoding="utf-8"))
RECORDED = [json.loads(line) for line in (GOLDEN / "kubelet-1.36.jsonl").read_text(encoding="utf-8").splitlines()]
NODE = Node(
    name="node1",
    ips=("192.0.2.1",),
    dns=DNSConfig(servers=("10.255.255.53",)),
    memory=64 * 2**30,
    page_sizes=("2MB", "1GB"),
)


def recorded(method: str) -> list[Mapping[str, Any]]:
    return [call for call in RECORDED if call["method"] == method]


def named(call: Mapping[str, Any]) -> str:
    metadata = call["request"]["config"]["metadata"]
    return f"{call['pod']}-{metadata['name']}-{metadata.get('attempt', 0)}"


def pod_of(call: Mapping[str, Any]) -> Pod:
    """The manifest as the kubelet had it; the second `plain` was edited to have one variable more."""
    request = call["request"]
    sandbox = request.get("sandbox_config", request["config"])
    manifest = copy.deepcopy(MANIFESTS[call["pod"]])
    if any(variable["key"] == "EDITED" for variable in request["config"].get("envs", ())):
        manifest["spec"]["containers"][0]["env"].append({"name": "EDITED", "value": "yes"})
    uid, seen = sandbox["metadata"]["uid"], sandbox["annotations"]["kubernetes.io/config.seen"]
    return parse(manifest, uid=uid, seen=seen, static_on="node1")


def comparable(request: pb.CreateContainerRequest) -> pb.CreateContainerRequest:
    """Without the hash and the random name of the message file; variables in order, since the kubelet's order is chance."""
    config = request.config
    config.annotations["io.kubernetes.container.hash"] = "hash"
    for mount in config.mounts:
        if mount.container_path == "/dev/termination-log":
            mount.host_path = mount.host_path.rpartition("/")[0] + "/token"
    variables = sorted(config.envs, key=lambda variable: variable.key)
    del config.envs[:]
    config.envs.extend(variables)
    return request


@pytest.mark.parametrize("call", recorded("RunPodSandbox"), ids=named)
def test_sandboxes_are_requested_as_by_the_kubelet(call: Mapping[str, Any]) -> None:
    """From the same manifest comes the same RunPodSandbox, field by field."""
    expected = json_format.ParseDict(call["request"], pb.RunPodSandboxRequest())
    config = cri_sandbox_config.encode_config(sandbox_config(pod_of(call), NODE))
    assert expected == pb.RunPodSandboxRequest(config=config)


@pytest.mark.parametrize("call", recorded("CreateContainer"), ids=named)
def test_containers_are_requested_as_by_the_kubelet(call: Mapping[str, Any]) -> None:
    """From the same manifest comes the same CreateContainer but for a hash, a random file name and the order of variables."""
    expected = json_format.ParseDict(call["request"], pb.CreateContainerRequest())
    pod = pod_of(call)
    (one,) = (one for one in pod.everyone if one.name == expected.config.metadata.name)
    ip = next((variable.value.decode() for variable in expected.config.envs if variable.key == "PODIP"), "10.88.0.2")
    start = Start(attempt=expected.config.metadata.attempt, image_id=expected.config.image.image, ips=(ip,), token="token")
    actual = pb.CreateContainerRequest(
        pod_sandbox_id=expected.pod_sandbox_id,
        config=cri_container.encode_config(container_config(pod, one, NODE, start)),
        sandbox_config=cri_sandbox_config.encode_config(sandbox_config(pod, NODE)),
    )
    assert comparable(expected) == comparable(actual)


def test_images_are_requested_as_by_the_kubelet() -> None:
    """ImageStatus carries the pod's annotations, as recorded."""
    (call,) = recorded("ImageStatus")
    sandbox = recorded("RunPodSandbox")[0]
    spec = image_spec(pod_of(sandbox), call["request"]["image"]["image"])
    expected = {"image": spec.image, "annotations": dict(spec.annotations)}
    assert expected == call["request"]["image"]


def test_downward_files_hold_what_the_kubelet_wrote() -> None:
    """The file of a downward volume reads as the recorded `cat` showed it."""
    from crishim.play.configs import pod_facts

    call = next(call for call in recorded("ExecSync") if call["request"]["cmd"] == ["cat", "/dw/labels"])
    sandbox = next(call for call in recorded("RunPodSandbox") if call["pod"] == "two")
    pod = pod_of(sandbox)
    expected = base64.b64decode(call["reply"]["stdout"]).decode()
    assert expected == pod_facts(pod, NODE, ()).field("metadata.labels", "")
