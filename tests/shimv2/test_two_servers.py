"""One runtime class behind both servers in one process: a pod over CRI, and a task over shim v2."""

import asyncio
import json
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from crishim._proto import shim_task_pb2 as pb
from crishim.backends.runc.runtime import RuncRuntime
from crishim.backends.runc.shim import runc
from crishim.model.container import ContainerState
from crishim.shimv2.server.daemon import ShimServer
from crishim.shimv2.server.launcher import CONTROL, DONE, question, talk
from crishim.system import SystemClock
from crishim.ttrpc.client import Client
from tests.backends.runc.world import needs, node
from tests.conformance.test_runtimes import busybox

TASK = "containerd.task.v2.Task"

pytestmark = [pytest.mark.node, needs("runc", "conmon", "busybox", "unshare", "catatonit")]


def bundle_in(folder: Path) -> Path:
    """A bundle that ends with 5."""
    bundle = folder / "bundle"
    busybox(bundle / "rootfs")
    subprocess.run(["runc", "spec", "--bundle", str(bundle)], check=True)
    config = json.loads((bundle / "config.json").read_text())
    config["process"] |= {"args": ["sh", "-c", "exit 5"], "terminal": False, "env": ["PATH=/bin"]}
    (bundle / "config.json").write_text(json.dumps(config))
    return bundle


async def task_of_containerd(folder: Path, bundle: Path) -> int:
    """A whole life of a task, as containerd asks for it; its exit code."""
    answer = await asyncio.to_thread(talk, str(folder / CONTROL), question(("start", "t1", "ns", str(bundle), "")))
    client = await Client.connect(answer.removeprefix(DONE).decode())
    try:
        await client.call(TASK, "Create", pb.CreateTaskRequest(id="t1", bundle=str(bundle)).SerializeToString())
        await client.call(TASK, "Start", pb.StartRequest(id="t1").SerializeToString())
        answer = await client.call(TASK, "Wait", pb.WaitRequest(id="t1").SerializeToString(), timeout=30)
        await client.call(TASK, "Delete", pb.DeleteRequest(id="t1").SerializeToString())
        return pb.WaitResponse.FromString(answer).exit_status
    finally:
        await client.close()


async def test_one_runtime_behind_two_servers(tmp_path: Path) -> None:
    """The same class runs the container of a pod and the task, concurrently."""
    bundle = bundle_in(tmp_path)
    with TemporaryDirectory(prefix="door") as short:
        folder = Path(short)
        make = runc(folder)
        async with node(tmp_path, runtime="runc") as world, ShimServer(folder, make, SystemClock()).serving():
            container = await world.run_container(await world.run_sandbox(), "main", "sleep", "600")
            assert 5 == await task_of_containerd(folder, bundle)
            assert ContainerState.RUNNING is world.services._core.table.container(container).state
            pods = world.services._core.backends.get("").backend
            assert all(isinstance(runtime, RuncRuntime) for runtime in (make("ns", ("", b"")), pods._runtime))  # type: ignore[attr-defined]
