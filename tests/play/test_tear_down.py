from pathlib import Path
from typing import Any

from crishim.cri import Dispatcher, pb
from crishim.play import CriClient, Event, EventKind, Node, Pod, direct, parse, take_down
from crishim.play.configs import Start, container_config, sandbox_config
from crishim.testing import Harness
from crishim.testing.harness import IMAGE


def pod_of(name: str, *containers: dict[str, Any], **spec: Any) -> Pod:
    filled = [{"image": IMAGE, "command": ["sleep"], **one} for one in containers]
    spec["initContainers"] = [{"image": IMAGE, "command": ["sleep"], **one} for one in spec.get("initContainers", [])]
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": filled, **spec}}
    return parse(manifest, uid=f"uid-{name}", seen="2026-01-01T00:00:00Z")


async def started(client: CriClient, pod: Pod, folder: Path) -> None:
    """A running pod with all its containers, whose player has ended."""
    node = Node(root=str(folder / "kubelet"), logs=str(folder / "logs"))
    config = sandbox_config(pod, node)
    sandbox_id = await client.run_sandbox(config)
    for one in pod.everyone:
        image = await client.image_status(container_config(pod, one, node, Start(image_id=IMAGE, token="t")).image)
        assert image is not None
        main = container_config(pod, one, node, Start(image_id=image.id, token="t"))
        await client.start_container(await client.create_container(sandbox_id, main, config))


async def test_a_pod_is_taken_down_in_order(tmp_path: Path) -> None:
    """Its containers are stopped with their grace, sidecars last, and all of it is removed; other pods stay."""
    sidecar = {"name": "beside", "restartPolicy": "Always"}
    pod, other = pod_of("pod", {"name": "one"}, {"name": "two"}, initContainers=[sidecar]), pod_of("other", {"name": "one"})
    events: list[Event] = []
    async with Harness() as world:
        client = CriClient(direct(Dispatcher(world.services)))
        await started(client, pod, tmp_path)
        await started(client, other, tmp_path)
        assert 1 == await take_down(client, world.clock, pod, events.append)
        assert ["other"] == [sandbox.metadata.name for sandbox in await client.list_sandboxes({})]
        assert [pb.CONTAINER_RUNNING] == [one.state for one in await client.list_containers({})]
        assert 0 == await take_down(client, world.clock, pod, events.append)
    ended = [event.container for event in events if event.kind is EventKind.EXITED]
    assert ({"one", "two"}, "beside") == (set(ended[:2]), ended[2])
    assert EventKind.REMOVED is events[-1].kind


async def test_what_the_manifest_does_not_know_is_stopped_too(tmp_path: Path) -> None:
    """A container that the file no longer has is stopped like the others."""
    events: list[Event] = []
    async with Harness() as world:
        client = CriClient(direct(Dispatcher(world.services)))
        await started(client, pod_of("pod", {"name": "old"}), tmp_path)
        assert 1 == await take_down(client, world.clock, pod_of("pod", {"name": "new"}), events.append)
        assert ([], []) == ([*world.fake.sandboxes], [*world.fake.containers])
    assert ["old"] == [event.container for event in events if event.kind is EventKind.EXITED]
