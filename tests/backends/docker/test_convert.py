"""Specs as the bodies of create calls: whole golden bodies that were reviewed, and the rules one by one."""

import json
from pathlib import Path
from typing import Any

import attrs
import pytest

from crishim.backends.docker import convert
from crishim.backends.docker.convert import Found, Maker
from crishim.backends.docker.options import EngineFacts, Options
from crishim.errors import InvalidArgument, PullError
from crishim.model.container import ContainerMetadata, ContainerSpec, Device, Mount, MountPropagation
from crishim.model.features import Feature
from crishim.model.image import ImageSpec
from crishim.model.process import ExecSpec, Signal
from crishim.model.resources import Resources
from crishim.model.sandbox import (
    DNSConfig,
    LinuxPodSandboxConfig,
    PodSandboxConfig,
    PodSandboxMetadata,
    PortMapping,
    Protocol,
    SandboxSpec,
)
from crishim.model.security import (
    Capability,
    LinuxContainerSecurityContext,
    LinuxContainerUser,
    LinuxSandboxSecurityContext,
    NamespaceMode,
    NamespaceOption,
    ProfileType,
    SecurityProfile,
    SELinuxOption,
)
from crishim.model.values import ContainerId, FrozenDict, ImageId, SandboxId
from crishim.oci.facts import CAPABILITIES, BindSource, Host

GOLDEN = Path(__file__).parents[2] / "golden" / "docker"
OLD = Maker(facts=EngineFacts(), host=Host(), options=Options(), owner="me")
NEW = attrs.evolve(OLD, facts=EngineFacts(api=(1, 48), systemd_cgroup=True, cgroup_v2=True, selinux=True, apparmor=True))
OWN_NETWORK = attrs.evolve(OLD, options=Options(network="bridge", runtime="runsc"))
FOUND = Found(
    user=LinuxContainerUser(1000, 1001, (1001, 5)),
    sources=FrozenDict(
        {"/data": BindSource(path="/srv/data"), "/img": BindSource(path="/copies/0", shared=False, slave=False)}
    ),
    profiles=FrozenDict({"/p.json": '{ "defaultAction": "SCMP_ACT_ALLOW" }'}),
)


def sandbox(host_network: bool = False, **changes: Any) -> SandboxSpec:
    options = NamespaceOption(
        network=NamespaceMode.NODE if host_network else NamespaceMode.POD,
        pid=changes.pop("pid", NamespaceMode.CONTAINER),
        ipc=changes.pop("ipc", NamespaceMode.POD),
    )
    security = LinuxSandboxSecurityContext(namespace_options=options, **changes.pop("security", {}))
    linux = LinuxPodSandboxConfig(security_context=security, **changes.pop("linux", {}))
    values = {"metadata": PodSandboxMetadata("pod", "ns", "uid"), "hostname": "pod", "linux": linux}
    return SandboxSpec(id=SandboxId("5" * 64), config=PodSandboxConfig(**{**values, **changes}))


def spec(pod: SandboxSpec | None = None, **changes: Any) -> ContainerSpec:
    values: dict[str, Any] = {
        "id": ContainerId("c" * 64),
        "sandbox": pod or sandbox(),
        "metadata": ContainerMetadata("main"),
        "image_id": ImageId("sha256:1"),
        "argv": ("/bin/app", "--flag"),
        "env": FrozenDict({"PATH": "/bin", "A": "b=c\nd"}),
        "log_path": "/logs/main.log",
    }
    return ContainerSpec(**{**values, **changes})


def secured(pod: SandboxSpec | None = None, **security: Any) -> ContainerSpec:
    own = {"namespace_options": NamespaceOption(pid=NamespaceMode.CONTAINER), **security}
    return spec(pod, security=LinuxContainerSecurityContext(**own))


HARDENED = attrs.evolve(
    secured(
        sandbox(linux={"cgroup_parent": "/kubepods.slice/kubepods-pod1.slice"}),
        capabilities=Capability(add_capabilities=("net_admin",), drop_capabilities=("ALL",)),
        no_new_privs=True,
        readonly_rootfs=True,
        masked_paths=("/proc/kcore",),
        readonly_paths=("/proc/sys",),
        seccomp=SecurityProfile(ProfileType.LOCALHOST, "/p.json"),
        apparmor=SecurityProfile(ProfileType.LOCALHOST, "mine"),
        selinux_options=SELinuxOption(type="t", level="s0:c1"),
    ),
    mounts=(
        Mount(container_path="/data", host_path="/srv/data", selinux_relabel=True, propagation=MountPropagation.BIDIRECTIONAL),
        Mount(container_path="/img", image=ImageSpec(image="i")),
    ),
)
FULL = spec(
    sandbox(linux={"cgroup_parent": "/kubepods/pod1"}),
    resources=Resources(
        cpu_period=100000,
        cpu_quota=50000,
        cpu_shares=512,
        cpuset_cpus="0-1",
        cpuset_mems="0",
        memory_limit_in_bytes=1 << 26,
        oom_score_adj=500,
    ),
    mounts=(Mount(container_path="/data", host_path="/srv/data", readonly=True),),
    devices=(Device("/dev/fuse", "/dev/fuse", "rw"),),
    labels=FrozenDict({"io.kubernetes.container.name": "main"}),
    annotations=FrozenDict({"a": "b"}),
    stdin=True,
    stdin_once=True,
    tty=True,
    cwd="/work",
    stop_signal=Signal.SIGINT,
)
PRIVILEGED = secured(privileged=True, masked_paths=("/proc/kcore",), namespace_options=NamespaceOption(pid=NamespaceMode.NODE))
BODIES = {
    "container": lambda: convert.container_body(FULL, OLD, FOUND),
    "container-hardened": lambda: convert.container_body(HARDENED, NEW, FOUND),
    "container-privileged": lambda: convert.container_body(PRIVILEGED, NEW, FOUND),
    "sandbox": lambda: convert.sandbox_body(
        sandbox(
            dns_config=DNSConfig(servers=("1.1.1.1",), searches=("a.b",), options=("ndots:2",)),
            labels=FrozenDict({"io.kubernetes.pod.name": "pod"}),
            annotations=FrozenDict({"a": "b"}),
            port_mappings=(PortMapping(container_port=80, host_port=8080),),
            linux={"sysctls": FrozenDict({"net.core.somaxconn": "9"}), "cgroup_parent": "/kubepods/pod1"},
            security={"run_as_user": 1000, "supplemental_groups": (7,)},
        ),
        "pause",
        OLD,
    ),
    "sandbox-host": lambda: convert.sandbox_body(
        sandbox(host_network=True, pid=NamespaceMode.NODE, ipc=NamespaceMode.NODE), "pause", NEW
    ),
    "sandbox-own-network": lambda: convert.sandbox_body(
        sandbox(
            port_mappings=(
                PortMapping(container_port=80, host_port=8080, host_ip="127.0.0.1"),
                PortMapping(container_port=80, host_port=8081),
                PortMapping(protocol=Protocol.UDP, container_port=53),
            )
        ),
        "pause",
        OWN_NETWORK,
    ),
}


@pytest.mark.parametrize("name", BODIES)
def test_golden(name: str) -> None:
    """The whole body equals the reviewed golden one."""
    assert json.loads((GOLDEN / f"{name}.json").read_text()) == BODIES[name]()


def host_of(spec: ContainerSpec, maker: Maker = OLD) -> dict[str, Any]:
    host: dict[str, Any] = convert.container_body(spec, maker, FOUND)["HostConfig"]
    return host


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        (NamespaceOption(pid=NamespaceMode.CONTAINER), None),
        (NamespaceOption(pid=NamespaceMode.POD), "container:" + "5" * 64),
        (NamespaceOption(pid=NamespaceMode.NODE), "host"),
        (NamespaceOption(pid=NamespaceMode.TARGET, target_id="t"), "container:t"),
    ],
)
def test_pid_modes(requested: NamespaceOption, expected: str | None) -> None:
    """Each of CRI's four modes; where nothing is said, the pod's own counts."""
    assert expected == host_of(secured(namespace_options=requested)).get("PidMode")


@pytest.mark.parametrize(
    ("seccomp", "privileged", "expected"),
    [
        (None, False, ["seccomp=unconfined"]),
        (SecurityProfile(ProfileType.UNCONFINED), False, ["seccomp=unconfined"]),
        (SecurityProfile(), False, []),
        (SecurityProfile(ProfileType.LOCALHOST, "/p.json"), False, ['seccomp={"defaultAction":"SCMP_ACT_ALLOW"}']),
        (SecurityProfile(ProfileType.LOCALHOST, "/p.json"), True, ["seccomp=unconfined"]),
    ],
)
def test_seccomp(seccomp: SecurityProfile | None, privileged: bool, expected: list[str]) -> None:
    """Nil and Unconfined are none, RuntimeDefault is the engine's own, a file goes inline; the privileged have none."""
    options = host_of(secured(seccomp=seccomp, privileged=privileged))["SecurityOpt"]
    assert ["no-new-privileges=false", *expected] == options


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        (Capability(), ([], [])),
        (Capability(add_capabilities=("net_raw", "CAP_CHOWN")), (["CAP_NET_RAW", "CAP_CHOWN"], [])),
        (Capability(add_capabilities=("ALL",)), (["ALL"], [])),
        (Capability(add_capabilities=("ALL",), drop_capabilities=("ALL",)), ([], ["ALL"])),
        (Capability(add_capabilities=("ALL", "CHOWN"), drop_capabilities=("ALL",)), (["CAP_CHOWN"], ["ALL"])),
        (Capability(add_capabilities=("CHOWN",), drop_capabilities=("CHOWN",)), ([], ["CAP_CHOWN"])),
    ],
)
def test_capabilities(requested: Capability, expected: tuple[list[str], list[str]]) -> None:
    """Names in full; ALL is set first, added ones come on top, dropped ones go (mapping of CRI)."""
    result = convert.capabilities(requested, OLD)
    assert expected == (result["CapAdd"], result["CapDrop"])


@pytest.mark.parametrize(("maker", "missing"), [(OLD, ["CAP_SYS_RESOURCE"]), (NEW, ["CAP_SYS_RESOURCE", "CAP_BPF"])])
def test_all_is_what_is_here(maker: Maker, missing: list[str]) -> None:
    """On a machine without some capabilities ALL leaves them out; an old engine does not get names that it lacks."""
    narrow = Host(bounding=frozenset(CAPABILITIES) - {"CAP_SYS_RESOURCE", "CAP_BPF"})
    result = convert.capabilities(Capability(add_capabilities=("ALL",)), attrs.evolve(maker, host=narrow))
    assert (["ALL"], missing) == (result["CapAdd"], result["CapDrop"])


def test_unsaid_security_is_the_engines() -> None:
    """Without a security context the engine's own defaults protect; explicitly empty lists are empty."""
    assert {"MaskedPaths", "SecurityOpt", "CapAdd"}.isdisjoint(host_of(spec()))
    assert [] == host_of(secured())["MaskedPaths"]


def test_recursive_readonly() -> None:
    """Since API 1.44 a plain read-only mount must be requested as such, and a recursive one can be."""
    plain = Mount(container_path="/data", host_path="/srv/data", readonly=True)
    deep = attrs.evolve(plain, recursive_read_only=True)
    options = [
        host_of(spec(mounts=(mount,)), maker)["Mounts"][0]["BindOptions"] for mount in (plain, deep) for maker in (OLD, NEW)
    ]
    private = {"Propagation": "rprivate"}
    force = {**private, "ReadOnlyForceRecursive": True}
    assert [private, {**private, "ReadOnlyNonRecursive": True}, force, force] == options


REFUSED = [
    (spec(mounts=(Mount(container_path="/data"), Mount(container_path="/none", host_path="/x"))), "config.mounts[1].host_path"),
    (spec(mounts=(Mount(container_path="", host_path="/x"),)), "config.mounts[0].container_path"),
    (
        spec(mounts=(Mount(container_path="/img", host_path="/x", propagation=MountPropagation.BIDIRECTIONAL),)),
        "config.mounts[0].propagation",
    ),
    (
        spec(mounts=(Mount(container_path="/img", host_path="/x", propagation=MountPropagation.HOST_TO_CONTAINER),)),
        "config.mounts[0].propagation",
    ),
    (
        secured(seccomp=SecurityProfile(ProfileType.LOCALHOST, "/other.json")),
        "config.linux.security_context.seccomp.localhost_ref",
    ),
]


@pytest.mark.parametrize(("spec", "field"), REFUSED)
def test_refused(spec: ContainerSpec, field: str) -> None:
    """Fields that the engine, or no engine, supports are refused by name."""
    with pytest.raises(InvalidArgument) as refused:
        convert.container_body(spec, OLD, FOUND)
    assert field == refused.value.field


def test_recursive_readonly_needs_readonly() -> None:
    """A recursive read-only mount that is not read-only has the kubelet's own word for its error."""
    with pytest.raises(PullError, match="RROUnsupported"):
        host_of(spec(mounts=(Mount(container_path="/data", host_path="/srv/data", recursive_read_only=True),)))


def test_relabelled_paths_have_no_colon() -> None:
    """A mount that SELinux must relabel goes in a form that knows no colon in its paths."""
    mount = Mount(container_path="/data", host_path="/srv/data", selinux_relabel=True)
    found = Found(sources=FrozenDict({"/data": BindSource(path="/srv/a:b")}))
    with pytest.raises(InvalidArgument):
        convert.container_body(spec(mounts=(mount,)), NEW, found)
    assert [] == host_of(spec(mounts=(mount,)))["Binds"]


def test_a_group_needs_a_user() -> None:
    """A pod's run_as_group without a user is refused, as everywhere."""
    with pytest.raises(InvalidArgument):
        convert.sandbox_body(sandbox(security={"run_as_group": 5}), "pause", OLD)


@pytest.mark.parametrize(
    ("facts", "extra", "missing"),
    [
        (EngineFacts(), set(), {Feature.UNIFIED, Feature.APPARMOR, Feature.RECURSIVE_READONLY_MOUNTS}),
        (EngineFacts(cgroup_v2=True, apparmor=True, recursive_readonly=True), {Feature.UNIFIED, Feature.APPARMOR}, set()),
    ],
)
def test_supported(facts: EngineFacts, extra: set[Feature], missing: set[Feature]) -> None:
    """What is supported depends on the engine; what no engine can is never claimed."""
    features = convert.supported(facts)
    assert extra <= features
    assert features.isdisjoint(missing | {Feature.USER_NAMESPACE, Feature.IDMAP_MOUNTS, Feature.HUGEPAGES, Feature.CDI_DEVICES})


@pytest.mark.parametrize(
    ("requested", "systemd", "expected"),
    [
        ("/kubepods/pod1", False, ("/kubepods/pod1", "/kubepods/pod1/e")),
        ("", False, ("/crishim", "/crishim/e")),
        ("/kubepods.slice/kubepods-pod1.slice", True, ("kubepods-pod1.slice", "kubepods-pod1.slice:docker:e")),
        ("", True, ("system.slice", "system.slice:docker:e")),
    ],
)
def test_cgroups(requested: str, systemd: bool, expected: tuple[str, str]) -> None:
    """The engine takes a path, or a slice's own name; its containers' cgroups lie below, or in scopes of their own."""
    facts = EngineFacts(systemd_cgroup=systemd)
    parent = convert.cgroup_parent(requested, facts)
    assert expected == (parent, convert.cgroups_path(parent, "e", facts))


def test_swap_is_requested() -> None:
    """Memory without swap means no swap on top; with it, CRI's number is the sum, as the engine's is."""
    assert {"Memory": 5, "MemorySwap": 5} == convert.limits(Resources(memory_limit_in_bytes=5))
    swapping = Resources(memory_limit_in_bytes=5, memory_swap_limit_in_bytes=9)
    assert {"Memory": 5, "MemorySwap": 9} == convert.limits(swapping)


def test_unified_limits_are_stored_in_a_label() -> None:
    """Files of cgroup v2 are written by us after the start: a later life finds them."""
    labels = convert.container_body(spec(resources=Resources(unified=FrozenDict({"memory.high": "1"}))), NEW, FOUND)["Labels"]
    assert '{"memory.high": "1"}' == labels["io.crishim.unified"]


@pytest.mark.parametrize("tty", [True, False])
def test_exec(tty: bool) -> None:
    """All output is requested, wanted or not: its end is the end of the process. A terminal has no stderr."""
    body = convert.exec_body(ExecSpec(argv=("a", "b"), tty=tty), stdin=True)
    assert (["a", "b"], True, True, not tty, tty) == (
        body["Cmd"],
        body["AttachStdin"],
        body["AttachStdout"],
        body["AttachStderr"],
        body["Tty"],
    )


def test_no_log_no_copy() -> None:
    """A container without a log has no copy of its output in the engine either."""
    assert {"Type": "none"} == convert.log_config(spec(log_path=""), Options())
    assert "local" == convert.log_config(spec(), Options())["Type"]
