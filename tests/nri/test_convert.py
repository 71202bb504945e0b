"""What plugins see of containers."""

import asyncio
from pathlib import Path

import pytest

from crishim._proto import nri_pb2 as pb
from crishim.model.container import ContainerCreated, ContainerSpec, ContainerState, Mount
from crishim.model.features import Feature
from crishim.model.lifecycle import ContainerView, PodView
from crishim.model.resources import HugepageLimit, Resources
from crishim.model.sandbox import LinuxPodSandboxConfig, SandboxSpec
from crishim.model.security import (
    IDMapping,
    LinuxSandboxSecurityContext,
    NamespaceMode,
    NamespaceOption,
    UserNamespace,
)
from crishim.model.values import EMPTY, ContainerId, SandboxId
from crishim.nri.convert import CgroupSetup, container_message
from crishim.nri.plugin import Adjustment
from crishim.testing import FakeBackend
from crishim.testing.conformance.candidate import until
from crishim.testing.harness import sandbox_config
from tests.nri.world import Noting, nri_node, replying

DEFAULT = ["/proc", "/dev", "/dev/pts", "/dev/mqueue", "/sys", "/sys/fs/cgroup"]
V2, OWN = CgroupSetup(), NamespaceOption()


def seen(
    *mounts: str,
    has_config_json: bool = True,
    privileged: bool = False,
    cgroups: CgroupSetup = V2,
    namespaces: NamespaceOption = OWN,
) -> pb.Container:
    """A container of a pod with the cgroup `/pods`."""
    security = LinuxSandboxSecurityContext(namespace_options=namespaces)
    config = sandbox_config(linux=LinuxPodSandboxConfig(cgroup_parent="/pods", security_context=security))
    view = ContainerView(
        id=ContainerId("c"),
        name="main",
        state=ContainerState.CREATED,
        mounts=tuple(Mount(container_path=path, host_path="/host") for path in mounts),
        privileged=privileged,
        has_config_json=has_config_json,
    )
    return container_message(PodView(spec=SandboxSpec(id=SandboxId("p"), config=config)), view, cgroups)


def mount(container: pb.Container, path: str) -> pb.Mount:
    [found] = [mount for mount in container.mounts if mount.destination == path]
    return found


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        ((), DEFAULT),
        (("/data",), [*DEFAULT, "/data"]),
        (("/sys/fs/cgroup/",), [*DEFAULT[:-1], "/sys/fs/cgroup/"]),
        (("/dev",), ["/proc", "/sys", "/sys/fs/cgroup", "/dev"]),
    ],
)
def test_default_mounts(requested: tuple[str, ...], expected: list[str]) -> None:
    """A container has the default mounts that no requested one hides, and then those."""
    assert expected == [mount.destination for mount in seen(*requested).mounts]


def test_a_backend_without_config_json() -> None:
    """A container that has no config.json has the requested mounts alone, and no cgroup path."""
    container = seen("/data", has_config_json=False)
    assert (["/data"], "") == ([mount.destination for mount in container.mounts], container.linux.cgroups_path)


@pytest.mark.parametrize(
    ("privileged", "cgroups", "expected"),
    [
        (False, V2, ("cgroup", "ro")),
        (True, V2, ("bind", "rw")),
        (True, CgroupSetup(v2=False), ("cgroup", "rw")),
    ],
)
def test_the_cgroup_mount(privileged: bool, cgroups: CgroupSetup, expected: tuple[str, str]) -> None:
    """It is writable for privileged containers, and a bind mount for those on cgroup v2."""
    found = mount(seen(privileged=privileged, cgroups=cgroups), "/sys/fs/cgroup")
    assert expected == (found.type, found.options[-1])


def test_the_mounts_of_a_user_namespace() -> None:
    """With the node's network /sys is a bind mount, and without a group 5 /dev/pts has none."""
    mapping = (IDMapping(host_id=70000, container_id=0, length=5),)
    options = NamespaceOption(network=NamespaceMode.NODE, userns_options=UserNamespace(uids=mapping, gids=mapping))
    container = seen(namespaces=options)
    assert ("bind", False) == (mount(container, "/sys").type, "gid=5" in mount(container, "/dev/pts").options)


@pytest.mark.parametrize(("systemd", "expected"), [(False, "/pods/c"), (True, "pods:crishim:c")])
def test_the_cgroup_path(systemd: bool, expected: str) -> None:
    """It is that of config.json, in the form of the cgroup driver."""
    assert expected == seen(cgroups=CgroupSetup(systemd=systemd)).linux.cgroups_path


ADJUSTMENT = pb.ContainerAdjustment(
    mounts=[pb.Mount(destination="-/sys/fs/cgroup"), pb.Mount(destination="/sys/fs/cgroup", type="cgroup", options=["rw"])],
    hooks=pb.Hooks(poststop=[pb.Hook(path="/bin/true")]),
    rlimits=[pb.POSIXRlimit(type="RLIMIT_CORE", hard=1, soft=1)],
    linux=pb.LinuxContainerAdjustment(
        cgroups_path="/other",
        resources=pb.LinuxResources(pids=pb.LinuxPids(limit=7), hugepage_limits=[pb.HugepageLimit(page_size="2MB", limit=1)]),
    ),
)


async def test_adjustments_are_seen_later(tmp_path: Path) -> None:
    """Every later event, and the synchronization of a later plugin, has the container as it was adjusted, in its present
    state and with its present limits.
    """
    adjustment = Adjustment(annotations={"added": "1"}, cpu_shares=11, message=ADJUSTMENT)
    synchronized: list[pb.Container] = []

    async def note(_: object, containers: list[pb.Container]) -> None:
        synchronized.extend(containers)

    async with nri_node(tmp_path) as node:
        async with node.plugin(plugin := Noting(create_container=replying(adjustment))):
            pod = await node.world.run_sandbox()
            container = await node.world.run_container(pod, "main", "sleep")
            limits = Resources(cpu_shares=12, hugepage_limits=(HugepageLimit("2MB", 2),))
            await node.world.services.containers.update_resources(container, limits, EMPTY)
        async with node.plugin(later := Noting(synchronize=note)):
            await node.world.services.containers.stop(container, 0)
            await node.world.services.containers.remove(container)
        assert not node.nri._adjusted
    [known] = synchronized
    for message, state, shares, pages in (
        (plugin.containers["start_container"], pb.CONTAINER_CREATED, 11, 1),
        (plugin.containers["post_update_container"], pb.CONTAINER_RUNNING, 12, 2),
        (known, pb.CONTAINER_RUNNING, 12, 2),
        (later.containers["remove_container"], pb.CONTAINER_STOPPED, 12, 2),
    ):
        cgroup, linux = mount(message, "/sys/fs/cgroup"), message.linux
        assert (["rw"], "1", "/bin/true") == (
            list(cgroup.options),
            message.annotations["added"],
            message.hooks.poststop[0].path,
        )
        assert ("RLIMIT_CORE", "/other", 7) == (message.rlimits[0].type, linux.cgroups_path, linux.resources.pids.limit)
        assert (state, shares) == (message.state, linux.resources.cpu.shares.value)
        assert [pages] == [limit.limit for limit in linux.resources.hugepage_limits]


async def test_adjustments_of_removed_containers_are_forgotten(tmp_path: Path) -> None:
    """What is removed while no plugin is connected is forgotten when the next one has disconnected."""
    async with nri_node(tmp_path) as node:
        async with node.plugin(Noting(create_container=replying(Adjustment(annotations={"added": "1"})))):
            pod = await node.world.run_sandbox()
            container = await node.world.create_container(pod, "main", "sleep")
        await node.world.services.containers.remove(container)
        assert [container] == list(node.nri._adjusted)
        async with node.plugin(Noting()):
            pass
        assert not node.nri._adjusted


class Slow(FakeBackend):
    """Creates a container when it may."""

    def __init__(self) -> None:
        super().__init__(logs_to_disk=False)
        self.creating, self.go = asyncio.Event(), asyncio.Event()

    async def create_container(self, spec: ContainerSpec) -> ContainerCreated | None:
        self.creating.set()
        await self.go.wait()
        return await super().create_container(spec)


async def test_adjustments_outlive_the_plugin_during_a_creation(tmp_path: Path) -> None:
    """A plugin that connects while a container is created, after the one that adjusted it has gone, sees the adjustments."""
    backend = Slow()
    async with nri_node(tmp_path, backend=backend) as node:
        pod = await node.world.run_sandbox()
        async with node.plugin(Noting(create_container=replying(Adjustment(annotations={"added": "1"})))):
            creation = asyncio.create_task(node.world.create_container(pod, "main", "sleep"))
            await backend.creating.wait()
        async with node.plugin(later := Noting()):
            backend.go.set()
            await creation
            await until(lambda: "post_create_container" in later.containers)
        assert "1" == later.containers["post_create_container"].annotations["added"]


async def test_the_view_depends_on_the_backend(tmp_path: Path) -> None:
    """The default mounts are seen for a backend that writes a config.json, and not for another one."""
    for feature, expected in (frozenset(Feature), DEFAULT), (frozenset(Feature) - {Feature.OCI_CHANGES}, []):
        backend = FakeBackend(logs_to_disk=False, supported=feature)
        async with nri_node(tmp_path, backend=backend) as node, node.plugin(plugin := Noting()):
            await node.world.create_container(await node.world.run_sandbox(), "main", "sleep")
        assert expected == [mount.destination for mount in plugin.containers["create_container"].mounts]
