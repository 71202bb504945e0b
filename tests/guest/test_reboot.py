"""A reboot of the whole node with pods on it: the runner boots the guest anew between the two tests of this file."""

import json
import shutil
from pathlib import Path

import pytest

from crishim.cri import pb
from crishim.model.container import ContainerMetadata
from crishim.model.image import ImageSpec
from crishim.testing.conformance.candidate import until
from crishim.testing.harness import container_config
from tests.backends.runc.world import needs
from tests.guest.world import UNIT, UnitNode, in_guest, systemctl
from tests.node.world import TOOLS, real_plugins

pytestmark = [pytest.mark.node, needs(*TOOLS), real_plugins(), in_guest()]

PLACE = Path("/var/lib/crishim-unit")
NOTES = PLACE / "notes.json"


@pytest.fixture
def node(image: str) -> UnitNode:
    """A node that stays as it is at the test's end."""
    PLACE.mkdir(mode=0o711)
    node = UnitNode(PLACE, image)
    node.install()
    node.start()
    return node


async def test_before(node: UnitNode, image: str) -> None:
    """The unit is enabled; one pod has two running containers and one that has ended with 3."""
    async with node.client() as client:
        await node.pull(client)
        pod, *running = await node.make_pod(client, "pod")
        argv = ("sh", "-c", "echo said; exit 3")
        config = container_config(
            "", metadata=ContainerMetadata("ends"), image=ImageSpec(image=image), command=argv, log_path="ends.log"
        )
        ended = await client.create_container(pod, config, node.sandbox("pod"))
        await client.start_container(ended)
        while (await client.container_status(ended)).state != pb.CONTAINER_EXITED:
            pass
    NOTES.write_text(json.dumps({"image": image, "pod": pod, "running": running, "ended": ended}))
    assert 2 == len(running)


@pytest.mark.skipif(not NOTES.exists(), reason="the runner boots the guest anew before it")
async def test_after() -> None:
    """The unit serves after the boot; what ran has ended, what had ended is as it was, logs are there; new pods run beside; and
    the removal of all of them leaves nothing.
    """
    notes = json.loads(NOTES.read_text())
    node = UnitNode(PLACE, notes["image"])
    await until(lambda: systemctl("show", "--property=ActiveState", "--value", UNIT.name) == "active")
    try:
        async with node.client() as client:
            (sandbox,) = await client.list_sandboxes({})
            assert (notes["pod"], pb.SANDBOX_NOTREADY) == (sandbox.id, sandbox.state)
            states = [(await client.container_status(container)).state for container in notes["running"]]
            assert [pb.CONTAINER_EXITED] * 2 == states
            ended = await client.container_status(notes["ended"])
            assert (pb.CONTAINER_EXITED, 3) == (ended.state, ended.exit_code)
            assert "said" in (PLACE / "logs" / "pod" / "ends.log").read_text()
            newer = await node.make_pod(client, "newer")
            assert 0 == (await client.exec_sync(newer[1], ("true",))).exit_code
            await node.empty(client)
        assert set() == node.traces()
    finally:
        node.close()
        shutil.rmtree(PLACE)
