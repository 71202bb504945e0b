"""What one call costs on a crowded node, in counts that do not depend on the machine."""

from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from crishim.cri import Dispatcher, pb
from crishim.model.container import ContainerFilter
from crishim.model.sandbox import LinuxPodSandboxConfig
from crishim.model.security import LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption
from crishim.testing import Harness
from tests.backends.runc.world import needs, node
from tests.opens import Work, counted

pytestmark = [pytest.mark.node, needs("runc", "conmon", "busybox", "catatonit")]

FEW, MANY, ROUNDS = 3, 23, 4
HOST = LinuxPodSandboxConfig(
    security_context=LinuxSandboxSecurityContext(
        namespace_options=NamespaceOption(network=NamespaceMode.NODE, pid=NamespaceMode.CONTAINER)
    )
)

Call = Callable[[], Awaitable[object]]


async def grow(world: Harness, pods: int) -> None:
    """Have so many pods of one container."""
    for number in range(len(await world.services.containers.list(ContainerFilter())), pods):
        await world.run_container(await world.run_sandbox(f"pod{number}", linux=HOST), "main", "sleep", "600")


async def calls(world: Harness) -> dict[str, Call]:
    """Every call that names one object, on the first pod or on one that it makes."""
    dispatch = Dispatcher(world.services)
    container = (await world.services.containers.list(ContainerFilter()))[0].item
    pod = container.pod_sandbox_id
    made: list[tuple[str, str]] = []

    async def run() -> None:
        sandbox = await world.run_sandbox("other", linux=HOST)
        made.append((sandbox, await world.create_container(sandbox, "main", "sleep", "600")))

    def new(message: Callable[..., Any], field: str, index: int) -> Call:
        return lambda: dispatch(message(**{field: made[-1][index]}))

    return {
        "ContainerStatus": lambda: dispatch(pb.ContainerStatusRequest(container_id=container.id)),
        "PodSandboxStatus": lambda: dispatch(pb.PodSandboxStatusRequest(pod_sandbox_id=pod)),
        "ContainerStats": lambda: dispatch(pb.ContainerStatsRequest(container_id=container.id)),
        "PodSandboxStats": lambda: dispatch(pb.PodSandboxStatsRequest(pod_sandbox_id=pod)),
        "ExecSync": lambda: dispatch(pb.ExecSyncRequest(container_id=container.id, cmd=["true"], timeout=10)),
        "RunPodSandbox and CreateContainer": run,
        "StartContainer": new(pb.StartContainerRequest, "container_id", 1),
        "StopContainer": new(pb.StopContainerRequest, "container_id", 1),
        "RemoveContainer": new(pb.RemoveContainerRequest, "container_id", 1),
        "StopPodSandbox": new(pb.StopPodSandboxRequest, "pod_sandbox_id", 0),
        "RemovePodSandbox": new(pb.RemovePodSandboxRequest, "pod_sandbox_id", 0),
    }


async def work_of(world: Harness) -> dict[str, Work]:
    """The work of each call: the least of some rounds, since what waits for a program may look for its end once more."""
    found: dict[str, Work] = {}
    for _ in range(ROUNDS):
        for name, call in (await calls(world)).items():
            with counted() as work:
                await call()
            found[name] = min(work, found.get(name, work), key=lambda work: (len(work.programs), len(work.files)))
    return found


async def test_a_call_costs_the_same_among_many_pods(tmp_path: Path) -> None:
    """A call that names one object starts the same programs among many pods as among few, and opens no file for each other pod.

    None of its files is one of the kernel's that grow with the pods.
    """
    async with node(tmp_path) as world:
        await grow(world, FEW)
        few = await work_of(world)
        await grow(world, MANY)
        many = await work_of(world)
    assert {name: work.programs for name, work in few.items()} == {name: work.programs for name, work in many.items()}
    # what has not ended yet is looked at once more, which depends on the moment: a cost by pod would be one file for each
    more = {name: len(work.files) - len(few[name].files) for name, work in many.items()}
    assert {} == {name: count for name, count in more.items() if count >= MANY - FEW}
    names = {"/proc" if file == "/proc" else Path(file).name for work in many.values() for file in work.files}
    assert set() == names & {"mountinfo", "mounts", "/proc"}


async def test_a_list_of_stats_reads_no_file_twice(tmp_path: Path) -> None:
    """Lists of stats open each file of each cgroup once, also for pods without a cgroup of their own."""
    async with node(tmp_path) as world:
        await grow(world, FEW)
        dispatch = Dispatcher(world.services)
        for request in (pb.ListPodSandboxStatsRequest(), pb.ListContainerStatsRequest(), pb.ListPodSandboxMetricsRequest()):
            await dispatch(request)
            with counted() as work:
                await dispatch(request)
            files = Counter(file for file in work.files if file.startswith("/sys/fs/cgroup/"))
            assert (True, {1}) == (len(files) > 10 * FEW, set(files.values()))


async def test_of_a_pod_s_cgroup_only_what_is_reported_is_read(tmp_path: Path) -> None:
    """PodSandboxStats reads fewer files of the pod's own cgroup than of its container's, and none of the processes in it."""
    async with node(tmp_path) as world:
        config = attrs.evolve(HOST, cgroup_parent="/crishim-costs/pod")
        pod = await world.run_sandbox("pod", linux=config)
        main = await world.run_container(pod, "main", "sleep", "600")
        await world.run_container(pod, "other", "sleep", "600")
        dispatch = Dispatcher(world.services)
        with counted() as work:
            reply = await dispatch(pb.PodSandboxStatsRequest(pod_sandbox_id=pod))
        folders = Counter(str(Path(file).parent) for file in work.files if file.startswith("/sys/fs/cgroup/"))
        own = sum(count for folder, count in folders.items() if folder.endswith("/crishim-costs/pod"))
        containers = sum(count for folder, count in folders.items() if folder.endswith(f"/crishim-costs/pod/{main}"))
        stats = reply.stats.linux
        assert (True, 2) == (4 < own < containers, len(stats.containers)), folders
        assert all((stats.cpu.usage_core_nano_seconds.value, stats.memory.usage_bytes.value, stats.process.process_count.value))
    remove_parents()


def remove_parents() -> None:
    """Remove what the kubelet would: the cgroups of pods."""
    for group in Path("/sys/fs/cgroup").glob("**/crishim-costs"):
        for folder in (group / "pod", group):
            if folder.is_dir():
                folder.rmdir()
