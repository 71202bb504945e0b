"""Kata's annotations, refused fields, and port-forward to a pod."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from crishim.backends.kata import build
from crishim.backends.kata.pods import KataPods, add_errno, sizes
from crishim.errors import InvalidArgument, NotFound, Unavailable
from crishim.interfaces.backend import BackendContext
from crishim.interfaces.capabilities import SupportsPortForward, SupportsSandboxWait, SupportsStats
from crishim.linux.cgroups import Cgroups
from crishim.model.features import Feature
from crishim.model.resources import Resources
from crishim.model.security import LinuxContainerSecurityContext, ProfileType, SecurityProfile
from crishim.model.values import FrozenDict, SandboxId
from crishim.pods.namespaces import PinnedNamespaces
from crishim.system import SystemClock
from tests.backends.runc.world import needs
from tests.shimv2.kata_shim import MACHINES
from tests.shimv2.world import ShimWorld, kata, stand_in

on_node = needs("busybox", "unshare", "catatonit")


@pytest.fixture
async def machines(tmp_path: Path) -> AsyncIterator[ShimWorld]:
    with contextlib.closing(PinnedNamespaces(tmp_path / "pins")) as pins:
        world = ShimWorld(tmp_path, pins, kata(tmp_path))
        await world.begin()
        try:
            yield world
        finally:
            await world.tidy()
            await world.close()
    assert [] == world.shims()


def context_of(folder: Path, **options: object) -> BackendContext:
    return BackendContext(
        state=folder / "state", runtime_state=folder / "run", clock=SystemClock(), options=FrozenDict(options)
    )


def annotations_of(world: ShimWorld, folder: str, name: str) -> dict[str, str]:
    config = json.loads((world.folder / "r" / folder / name / "config.json").read_bytes())
    annotations: dict[str, str] = config["annotations"]
    return annotations


@pytest.mark.node
@on_node
async def test_annotations_reach_the_machine(machines: ShimWorld) -> None:
    """Kata's annotations of pod and container, the pod's sizes and ids are passed; other annotations are not."""
    plain = machines.sandbox_spec()
    config = attrs.evolve(
        plain.config,
        annotations=FrozenDict({"io.katacontainers.config.hypervisor.default_vcpus": "2", "mine": "no"}),
        linux=attrs.evolve(plain.config.linux, resources=Resources(cpu_period=100000, cpu_quota=50000)),
    )
    pod = await machines.sandbox(config=config)
    spec = await machines.create(
        pod,
        machines.programs.sleeps(),
        annotations=FrozenDict({"io.katacontainers.x": "y", "mine": "no"}),
    )
    sandbox = annotations_of(machines, "sandboxes", f"{pod.id}/pause")
    assert "sandbox" == sandbox["io.kubernetes.cri.container-type"]
    assert "2" == sandbox["io.katacontainers.config.hypervisor.default_vcpus"]
    assert ("100000", "50000") == (
        sandbox["io.kubernetes.cri.sandbox-cpu-period"],
        sandbox["io.kubernetes.cri.sandbox-cpu-quota"],
    )
    assert {"mine", "io.kubernetes.cri.sandbox-memory"}.isdisjoint(sandbox)
    member = annotations_of(machines, "containers", spec.id)
    assert ("container", pod.id, "y") == (
        member["io.kubernetes.cri.container-type"],
        member["io.kubernetes.cri.sandbox-id"],
        member["io.katacontainers.x"],
    )
    assert "mine" not in member


@pytest.mark.node
@on_node
async def test_a_guest_has_what_its_pod_has(machines: ShimWorld) -> None:
    """Hostname, sysctls and the shared /dev/shm stand in the sandbox's own config.json, from which the guest takes them."""
    plain = machines.sandbox_spec()
    linux = attrs.evolve(plain.config.linux, sysctls=FrozenDict({"net.core.somaxconn": "999"}))
    pod = await machines.sandbox(config=attrs.evolve(plain.config, hostname="mine", linux=linux))
    guest = json.loads((machines.folder / "host" / MACHINES / pod.id / "guest").read_text())
    assert {"hostname": "mine", "sysctl": {"net.core.somaxconn": "999"}, "shm": ["bind"]} == guest


@pytest.mark.node
@on_node
async def test_usage_of_a_pod_without_a_cgroup_parent(machines: ShimWorld) -> None:
    """A pod whose sandbox has no cgroup on the node uses what its containers do; else what the cgroup kata_ID does."""
    pod = await machines.sandbox()
    await machines.run_ready(pod, machines.programs.sleeps())
    usage = await machines.pods.sandbox_usage(pod.id)
    assert usage.cpu is not None
    assert 2 * 5_000_000 == usage.cpu.usage_core_nano_seconds
    config = json.loads((machines.folder / "r" / "sandboxes" / pod.id / "pause" / "config.json").read_bytes())
    cgroups = machines.folder / "cgroups"
    machines.pods._cgroups = Cgroups(v2=True, root=cgroups)
    machines.pods._host = attrs.evolve(machines.pods._host, cgroup_v2=True)
    folder = cgroups / Path(config["linux"]["cgroupsPath"]).parent.relative_to("/") / f"kata_{pod.id}"
    (folder / "memory").mkdir(parents=True)
    (folder / "cpu.stat").write_text("usage_usec 7\n")
    usage = await machines.pods.sandbox_usage(pod.id)
    assert usage.cpu is not None
    assert 7000 == usage.cpu.usage_core_nano_seconds


@pytest.mark.node
@on_node
async def test_metrics_of_a_guest(machines: ShimWorld) -> None:
    """Open files, sockets and kills for want of memory are among a container's metrics: of the node's, none are its own."""
    pod = await machines.sandbox()
    spec = await machines.run_ready(pod, machines.programs.sleeps())
    metrics = {sample.name: sample.value for sample in (await machines.pods.container_usage(spec.id)).metrics}
    names = ("container_file_descriptors", "container_sockets", "container_oom_events_total")
    assert [0, 0, 0] == [metrics.get(name) for name in names]
    (await machines.runtime._sandbox(pod.id)).task(spec.id).note_oom()
    metrics = {sample.name: sample.value for sample in (await machines.pods.container_usage(spec.id)).metrics}
    assert 1 == metrics["container_oom_events_total"]


def test_refusals_of_seccomp_have_a_number() -> None:
    """An ERRNO action without a number gets EPERM, by default and in rules; numbers and other actions stay."""
    rules: list[dict[str, Any]] = [
        {"names": ["a"], "action": "SCMP_ACT_ERRNO"},
        {"names": ["b"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        {"names": ["c"], "action": "SCMP_ACT_ALLOW"},
    ]
    profile: dict[str, Any] = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules}
    add_errno(profile)
    add_errno(None)
    assert 1 == profile["defaultErrnoRet"]
    assert [1, 38, None] == [rule.get("errnoRet") for rule in rules]


@pytest.mark.node
@on_node
async def test_a_profile_in_a_bundle_has_numbers(machines: ShimWorld, tmp_path: Path) -> None:
    """The profile that kata reads of a container's config.json has a number at every ERRNO action."""
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"name": "x", "action": "SCMP_ACT_ERRNO"}]}))
    profile = SecurityProfile(profile_type=ProfileType.LOCALHOST, localhost_ref=str(path))
    pod = await machines.sandbox()
    security = LinuxContainerSecurityContext(seccomp=profile)
    spec = await machines.create(pod, machines.programs.sleeps(), security=security)
    config = json.loads((machines.folder / "r" / "containers" / spec.id / "config.json").read_bytes())
    assert [1] == [rule["errnoRet"] for rule in config["linux"]["seccomp"]["syscalls"]]


def test_patterns_do_not_match_the_annotations_of_ids(tmp_path: Path) -> None:
    """Whatever patterns are configured, a pod's annotations never say which pod a container belongs to."""
    pods = build(context_of(tmp_path, annotations=["*"]))
    assert isinstance(pods, KataPods)
    assert {"mine": "yes"} == pods._passed({"io.kubernetes.cri.sandbox-id": "another", "mine": "yes"})


@pytest.mark.node
@on_node
async def test_ports_are_dialled_at_the_pods_address(machines: ShimWorld) -> None:
    """A port is reached at the pod's address from the node; a pod without an address has no ports."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert isinstance(machines.pods, KataPods)
    pod = await machines.sandbox(ips=("127.0.0.1",))
    stream = await machines.pods.dial(pod.id, port)
    assert b"hello" == await stream.read()
    await stream.close()
    server.close()
    with pytest.raises(Unavailable):
        await machines.pods.dial(pod.id, port)
    bare = await machines.sandbox()
    with pytest.raises(Unavailable):
        await machines.pods.dial(bare.id, port)
    with pytest.raises(NotFound):
        await machines.pods.dial(SandboxId("nobody"), port)


@pytest.mark.node
@on_node
async def test_what_a_machine_cannot_keep(machines: ShimWorld) -> None:
    """The node's PID, IPC and network namespaces, another container's PIDs and host profiles are not supported."""
    lacking = {
        Feature.HOST_PID,
        Feature.HOST_IPC,
        Feature.HOST_NETWORK,
        Feature.TARGET_PID,
        Feature.APPARMOR,
        Feature.SELINUX,
        Feature.SECCOMP,
        Feature.MOUNT_PROPAGATION,
        Feature.UNIFIED,
    }
    assert set() == lacking & machines.info.supported
    assert ("kata", "4.1.0") == (machines.info.name, machines.info.version)
    assert {SupportsPortForward, SupportsSandboxWait, SupportsStats} <= machines.pods.capabilities


async def test_seccomp_in_the_guest_is_supported_where_it_is_configured(tmp_path: Path) -> None:
    """With `guest_seccomp` profiles are supported."""
    backend = build(context_of(tmp_path, shim=stand_in(tmp_path), guest_seccomp=True))
    assert Feature.SECCOMP in (await backend.probe()).supported


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"hypervisor": "x"}, "options.hypervisor"),
        ({"guest_seccomp": "yes"}, "options.guest_seccomp"),
        ({"config_path": "kata.toml"}, "options.config_path"),
    ],
)
def test_options_that_are_wrong(tmp_path: Path, options: dict[str, object], field: str) -> None:
    """An option that is not known, or of another type, is refused by its name."""
    with pytest.raises(InvalidArgument) as caught:
        build(context_of(tmp_path, **options))
    assert field == caught.value.field


def test_sizes_of_machines() -> None:
    """Only sizes that are set are passed: zeros would shrink a machine to nothing."""
    assert {} == sizes(None)
    assert {} == sizes(Resources())
    wanted = Resources(cpu_shares=512, memory_limit_in_bytes=1 << 30)
    expected = {"io.kubernetes.cri.sandbox-cpu-shares": "512", "io.kubernetes.cri.sandbox-memory": "1073741824"}
    assert expected == sizes(wanted)
