"""A real kubelet's calls, one after the other, through the dispatcher and the service on a fake backend.

Ids are ours: whatever a reply names takes the place of the recorded id in the calls behind it. Programs end by themselves just
before the recording shows it. No call is known to be answered with another code than the recorded one.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
from google.protobuf import json_format

from crishim.cri import Dispatcher
from crishim.errors import Code, CrishimError
from crishim.model.image import Image, ImageConfig, ImageDetail
from crishim.model.runtime import CgroupDriver
from crishim.model.values import ContainerId, ImageId
from crishim.testing import Harness
from crishim.testing.doubles import settle

RECORDING = Path(__file__).parents[1] / "golden" / "kubelet-1.36.jsonl"
REPLIED_IDS = {"RunPodSandbox": "pod_sandbox_id", "CreateContainer": "container_id"}
STATES = {"ContainerStatus": "CONTAINER_CREATED", "PodSandboxStatus": "SANDBOX_READY"}
UNDER_WAY = {143: "SANDBOX_READY"}
"""Line 143 requests a sandbox while the StopPodSandbox of line 150 is under way; here the calls are sequential."""


def recorded() -> list[Mapping[str, Any]]:
    return [json.loads(line) for line in RECORDING.read_text(encoding="utf-8").splitlines()]


def add_image(world: Harness, call: Mapping[str, Any]) -> None:
    """The image of the recording, with the id that containers name."""
    recorded = call["reply"]["image"]
    image_id = ImageId(recorded["id"])
    image = Image(
        id=image_id,
        repo_tags=tuple(recorded["repo_tags"]),
        repo_digests=tuple(recorded["repo_digests"]),
        size=int(recorded["size"]),
    )
    world.images.details[image_id] = ImageDetail(image=image, config=ImageConfig(cmd=("sh",)))


async def end_by_itself(world: Harness, container_id: ContainerId, status: Mapping[str, Any]) -> None:
    """Let a container's program end, if the recording is about to show that it has."""
    container = world.fake.containers.get(container_id)
    if status.get("state") == "CONTAINER_EXITED" and container is not None and container.exit is None:
        world.fake.exits(container_id, status.get("exit_code", 0))
        await settle()


async def replay(world: Harness) -> tuple[list[tuple[int, str, str]], list[tuple[int, str, str]]]:
    """For every call: its line, method, and code; and for every status its line, method and state."""
    dispatch = Dispatcher(world.services)
    ours: dict[str, str] = {}
    codes, states = [], []
    for line, call in enumerate(recorded(), 1):
        method, text = call["method"], json.dumps(call["request"])
        for theirs, mine in ours.items():
            text = text.replace(theirs, mine)
        row = dispatch.routes[method]
        request: Any = json_format.Parse(text, row.request())
        if method == "ContainerStatus" and call["code"] == "OK":
            await end_by_itself(world, ContainerId(request.container_id), call["reply"]["status"])
        try:
            reply = await dispatch(request)
        except CrishimError as error:
            codes.append((line, method, error.code.name))
            continue
        codes.append((line, method, Code.OK.name))
        answer = json_format.MessageToDict(reply, preserving_proto_field_name=True)
        if method in REPLIED_IDS:
            ours[call["reply"][REPLIED_IDS[method]]] = answer[REPLIED_IDS[method]]
        if method in STATES:
            states.append((line, method, answer["status"].get("state", STATES[method])))
    return codes, states


async def test_a_real_kubelets_calls_get_their_answers() -> None:
    """Each of the recorded calls has its recorded code, each status its recorded state, and at the end nothing is left."""
    calls = recorded()
    world = Harness()
    world.settings = attrs.evolve(world.settings, cgroup_driver=CgroupDriver.CGROUPFS)
    async with world:
        add_image(world, next(call for call in calls if call["method"] == "ImageStatus"))
        codes, states = await replay(world)
    expected = [(line, call["method"], call["code"].partition(":")[0]) for line, call in enumerate(calls, 1)]
    assert expected == codes
    shown = [
        (line, call["method"], UNDER_WAY.get(line) or call["reply"]["status"].get("state", STATES[call["method"]]))
        for line, call in enumerate(calls, 1)
        if call["method"] in STATES and call["code"] == "OK"
    ]
    assert shown == states
    assert ({}, {}, {}, {}) == (world.fake.sandboxes, world.fake.containers, world.network.addresses, world.namespaces.paths)
