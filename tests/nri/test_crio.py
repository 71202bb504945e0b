"""A plugin of our kit as a plugin of CRI-O."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from crishim._proto import nri_pb2 as pb
from crishim.nri.plugin import Adjustment
from crishim.testing.conformance.candidate import until
from tests.backends.runc.world import needs
from tests.node.world import TOOLS, images
from tests.nri.test_containerd import EVENTS, on_the_host
from tests.nri.world import Noting, replying
from tests.shimv2.crio import PROGRAMS, crio
from tests.shimv2.server.test_crio import PAUSE, run_pod, start

pytestmark = [pytest.mark.node, needs(*PROGRAMS, *TOOLS)]


async def test_events_and_adjustments(tmp_path: Path) -> None:
    """CRI-O calls the plugin for the events of a pod and applies its adjustments, with our shim.

    With runc and no pause, CRI-O 1.37 cannot run a pod while it has NRI.
    """
    limits = pb.ContainerAdjustment(rlimits=[pb.POSIXRlimit(type="RLIMIT_NOFILE", hard=77, soft=77)])
    plugin = Noting("50-noting", create_container=replying(Adjustment(env={"ADDED": "by a plugin"}, message=limits)))
    synchronized = asyncio.Event()

    async def synchronize(pods: Sequence[pb.PodSandbox], containers: Sequence[pb.Container]) -> None:
        synchronized.set()

    plugin.replies["synchronize"] = synchronize
    sandbox = on_the_host(tmp_path)
    with images(tmp_path, *PAUSE) as image, crio(image, "crishimcrio") as node:
        async with node.cri() as client:
            task = asyncio.create_task(plugin.run(node.folder / "nri.sock"))
            async with asyncio.timeout(30):
                await synchronized.wait()
            pod = await run_pod(client, node, sandbox)
            container = await start(client, node, pod, sandbox, "one", "sleep", "600")
            done = await client.exec_sync(container, ("sh", "-c", "echo $ADDED; ulimit -n"), 10)
            assert b"by a plugin\n77\n" == done.stdout
            await client.stop_container(container, 0)
            await client.stop_sandbox(pod)
            await client.remove_sandbox(pod)
            await until(lambda: EVENTS == [event for event, _ in plugin.events])
            assert {pod, container} == {subject for _, subject in plugin.events}
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
