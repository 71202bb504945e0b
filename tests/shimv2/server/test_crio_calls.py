"""The calls of CRI-O to our shim (`runtime_type = "vm"`), one by one, where there is no CRI-O; `test_crio.py` has the real one.

The client here calls as `internal/oci/runtime_vm.go` does. It starts the shim once for a pod, with an empty address and nothing
on stdin; it refuses a JSON answer with a version above 2, and speaks Task v2; root file systems are mounted already;
annotations have its own names; it drains the pipes and writes the log itself.
"""

import asyncio
import json
import os
import subprocess
import sysconfig
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message

from crishim._proto import shim_task_pb2 as pb
from crishim._proto import shim_types_pb2 as types_pb
from crishim.errors import Code
from crishim.shimv2.wire.messages import NAMESPACE_KEY, runtime_spec
from crishim.ttrpc.client import Client
from crishim.ttrpc.status import TtrpcError
from tests.backends.runc.world import needs
from tests.conformance.test_runtimes import busybox
from tests.node.world import processes

pytestmark = [pytest.mark.node, needs("runc", "busybox")]

SHIM = f"{sysconfig.get_path('scripts')}/containerd-shim-crishim-v2"
TASK = "containerd.task.v2.Task"


class Crio:
    """One pod's client. `folder` has its bundles."""

    def __init__(self, folder: Path, state: Path) -> None:
        self.folder, self.state = folder, state
        self.client: Client

    def bundle(self, name: str, kind: str, *argv: str) -> Path:
        """A bundle with a mounted root; its named pipes are in it."""
        bundle = self.folder / name
        busybox(bundle / "rootfs")
        subprocess.run(["runc", "spec", "--bundle", bundle], check=True)
        config = json.loads((bundle / "config.json").read_text())
        config["process"] |= {"args": list(argv), "terminal": False, "env": ["PATH=/bin"]}
        config["annotations"] = {"io.kubernetes.cri-o.ContainerType": kind, "io.kubernetes.cri-o.SandboxID": "pod"}
        (bundle / "config.json").write_text(json.dumps(config))
        for pipe in ("log", "stdin", "stdout", "stderr"):
            os.mkfifo(bundle / pipe)
        return bundle

    async def start(self, bundle: Path) -> None:
        """Start the shim of the pod, and connect."""
        words = ("-namespace", "default", "-address", "", "-publish-binary", "/usr/bin/crio", "-id", bundle.name, "start")
        environment = {**os.environ, "CRISHIM_SHIM_STATE": str(self.state), "TTRPC_ADDRESS": "", "GRPC_ADDRESS": ""}
        log = os.open(bundle / "log", os.O_RDONLY | os.O_NONBLOCK)
        process = await asyncio.create_subprocess_exec(
            *(SHIM, *words), cwd=bundle, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        address, _ = await process.communicate()
        os.close(log)
        assert address.startswith(b"unix:///"), "plain: a version above 2 is refused"
        self.client = await Client.connect(address.decode())

    async def call(self, method: str, request: Message, timeout: float | None = 10) -> bytes:
        metadata = ((NAMESPACE_KEY, "default"),)
        return await self.client.call(TASK, method, request.SerializeToString(), timeout=timeout, metadata=metadata)

    async def run(self, bundle: Path) -> int:
        """Create and start a container; the descriptor of its stdout."""
        output = os.open(bundle / "stdout", os.O_RDONLY | os.O_NONBLOCK)
        out, err = str(bundle / "stdout"), str(bundle / "stderr")
        await self.call("Create", pb.CreateTaskRequest(id=bundle.name, bundle=str(bundle), stdout=out, stderr=err))
        await self.call("Start", pb.StartRequest(id=bundle.name))
        return output

    async def exit_of(self, name: str, exec_id: str = "") -> int:
        answer = await self.call("Wait", pb.WaitRequest(id=name, exec_id=exec_id), None)
        return pb.WaitResponse.FromString(answer).exit_status

    async def status(self, name: str) -> Any:
        return pb.StateResponse.FromString(await self.call("State", pb.StateRequest(id=name))).status


@pytest.fixture
async def crio(tmp_path: Path) -> AsyncIterator[Crio]:
    with tempfile.TemporaryDirectory(prefix="shm") as short:
        made = Crio(tmp_path, Path(short))
        yield made
        await made.client.close()
        for pid, line in processes(short):
            if "crishim.backends.runc.shim" in line:
                os.kill(pid, 9)


def read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1000)
    finally:
        os.close(descriptor)


async def test_a_pod_of_two_containers(crio: Crio) -> None:
    """The pod's own container and two more by one connection: output, an exec, exits, stop and removal."""
    pause = crio.bundle("pod", "sandbox", "sleep", "600")
    await crio.start(pause)
    os.close(await crio.run(pause))
    one = await crio.run(crio.bundle("one", "container", "sh", "-c", "echo from one; exit 3"))
    two = await crio.run(crio.bundle("two", "container", "sh", "-c", "echo from two; exec sleep 600"))
    assert 3 == await crio.exit_of("one")
    assert b"from one\n" == read(one)

    io = crio.folder / "two"
    os.mkfifo(io / "exec-out")
    output = os.open(io / "exec-out", os.O_RDONLY | os.O_NONBLOCK)
    process = json.loads((io / "config.json").read_text())["process"] | {"args": ["sh", "-c", "echo in exec; exit 4"]}
    added = pb.ExecProcessRequest(id="two", exec_id="x", stdout=str(io / "exec-out"), spec=runtime_spec("Process", process))
    await crio.call("Exec", added)
    await crio.call("Start", pb.StartRequest(id="two", exec_id="x"))
    assert (4, b"in exec\n") == (await crio.exit_of("two", "x"), read(output))
    await crio.call("Delete", pb.DeleteRequest(id="two", exec_id="x"))

    assert types_pb.RUNNING == await crio.status("two")
    await crio.call("Kill", pb.KillRequest(id="two", signal=9, all=True))
    assert (137, b"from two\n") == (await crio.exit_of("two"), read(two))
    await crio.call("Kill", pb.KillRequest(id="pod", signal=9))
    assert 137 == await crio.exit_of("pod")
    for name in ("one", "two", "pod"):
        await crio.call("Delete", pb.DeleteRequest(id=name))
        with pytest.raises(TtrpcError) as refused:
            await crio.call("State", pb.StateRequest(id=name))
        assert Code.NOT_FOUND is refused.value.answer
    await crio.call("Shutdown", pb.ShutdownRequest(id="pod"))


async def test_a_signal_after_the_exit(crio: Crio) -> None:
    """A Kill of a container that has exited meanwhile is no error, which CRI-O would answer to StopContainer."""
    pause = crio.bundle("pod", "sandbox", "true")
    await crio.start(pause)
    os.close(await crio.run(pause))
    assert 0 == await crio.exit_of("pod")
    await crio.call("Kill", pb.KillRequest(id="pod", signal=15))
    await crio.call("Delete", pb.DeleteRequest(id="pod"))
    with pytest.raises(TtrpcError):
        await crio.call("Kill", pb.KillRequest(id="pod", signal=15))


async def test_memory_runs_out(crio: Crio) -> None:
    """The file `oom` is in the bundle before the exit of a container that was killed for want of memory, and no other's."""
    eats = crio.bundle("pod", "sandbox", "dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1")
    config = json.loads((eats / "config.json").read_text())
    config["linux"]["resources"] = {"memory": {"limit": 16 << 20}}
    (eats / "config.json").write_text(json.dumps(config))
    await crio.start(eats)
    os.close(await crio.run(eats))
    assert 137 == await crio.exit_of("pod")
    assert (eats / "oom").exists()
    other = crio.bundle("other", "container", "sh", "-c", "kill -9 $$")
    os.close(await crio.run(other))
    await crio.exit_of("other")
    assert not (other / "oom").exists()
    for name in ("other", "pod"):
        await crio.call("Delete", pb.DeleteRequest(id=name))
