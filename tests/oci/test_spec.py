"""config.json, request by request."""

import json
import re
from pathlib import Path
from typing import Any

import attrs
import pytest

from crishim.errors import InvalidArgument, PullError, ResourceExhausted
from crishim.model.container import ContainerMetadata, ContainerSpec, Mount, MountPropagation, UserSpec
from crishim.model.image import ImageSpec
from crishim.model.resources import HugepageLimit, Resources
from crishim.model.sandbox import LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata, SandboxSpec
from crishim.model.security import (
    Capability,
    IDMapping,
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
from crishim.oci.facts import (
    CAPABILITIES,
    DEFAULT_CAPABILITIES,
    AppArmor,
    BindSource,
    DeviceNode,
    Host,
    Labels,
    NamespacePaths,
    Place,
)
from crishim.oci.mounts import PROPAGATIONS
from crishim.oci.resources import cgroups_path, resources
from crishim.oci.security import (
    APPARMOR_DEFAULT,
    MASKED,
    READONLY,
    apparmor_profile,
    free_level,
    named_level,
    relabelled,
    selinux_labels,
)
from crishim.oci.spec import config, process_of

GOLDEN = Path(__file__).parents[1] / "golden" / "oci"
SANDBOX = SandboxSpec(
    id=SandboxId("5" * 64),
    config=PodSandboxConfig(metadata=PodSandboxMetadata(name="pod", namespace="ns", uid="uid"), hostname="pod"),
    netns="/pins/net",
)
HOST_NETWORK = attrs.evolve(
    SANDBOX,
    config=attrs.evolve(
        SANDBOX.config,
        linux=LinuxPodSandboxConfig(
            security_context=LinuxSandboxSecurityContext(namespace_options=NamespaceOption(network=NamespaceMode.NODE))
        ),
    ),
    netns="",
)
HOST = Host(kernel=(6, 1))
PLACE = Place(
    rootfs="/root",
    user=LinuxContainerUser(1000, 1000, (1000, 5)),
    namespaces=NamespacePaths(network="/pins/net", ipc="/pins/ipc", uts="/pins/uts"),
    files=FrozenDict({"/etc/hosts": "/pod/hosts", "/dev/shm": "/pod/shm"}),
    cgroups_path="/kubepods/pod/c",
)


def spec(**changes: Any) -> ContainerSpec:
    values: dict[str, Any] = {
        "id": ContainerId("c" * 64),
        "sandbox": SANDBOX,
        "metadata": ContainerMetadata("main"),
        "image_id": ImageId("sha256:1"),
        "argv": ("/bin/app", "--flag"),
        "env": FrozenDict({"PATH": "/bin", "HOSTNAME": "pod"}),
        "user": UserSpec(user="1000"),
    }
    return ContainerSpec(**{**values, **changes})


def secured(**changes: Any) -> ContainerSpec:
    return spec(security=LinuxContainerSecurityContext(**changes))


def destinations(result: dict[str, Any]) -> list[str]:
    return [mount["destination"] for mount in result["mounts"]]


def options_of(result: dict[str, Any], path: str) -> list[str]:
    return next(mount["options"] for mount in result["mounts"] if mount["destination"] == path)


CASES = {
    "plain": (spec(), HOST, PLACE),
    "privileged": (
        secured(privileged=True),
        attrs.evolve(HOST, devices=(DeviceNode(path="/dev/fuse", kind="c", major=10, minor=229),)),
        PLACE,
    ),
    "limits": (
        spec(
            resources=Resources(
                cpu_shares=512,
                cpu_quota=50000,
                cpu_period=100000,
                cpuset_cpus="0-1",
                memory_limit_in_bytes=1 << 28,
                oom_score_adj=-998,
                hugepage_limits=(HugepageLimit("2MB", 1 << 21), HugepageLimit("1GB")),
                unified=FrozenDict({"memory.high": "1000"}),
            )
        ),
        attrs.evolve(HOST, cgroup_v2=True, lowest_oom_score_adj=0),
        PLACE,
    ),
    "hardened": (
        secured(
            capabilities=Capability(add_capabilities=("NET_ADMIN",), drop_capabilities=("ALL",)),
            readonly_rootfs=True,
            no_new_privs=True,
            masked_paths=("/proc/kcore",),
            readonly_paths=("/proc/sys",),
        ),
        HOST,
        PLACE,
    ),
    "labelled": (
        secured(selinux_options=SELinuxOption(type="my_t")),
        HOST,
        attrs.evolve(
            PLACE,
            labels=Labels("system_u:system_r:my_t:s0:c3,c7", "system_u:object_r:container_file_t:s0:c3,c7"),
            apparmor=APPARMOR_DEFAULT,
        ),
    ),
    "image-volumes": (
        attrs.evolve(
            secured(readonly_rootfs=True),
            mounts=(Mount(container_path="/var/run/secrets", host_path="/token", readonly=True),),
        ),
        HOST,
        attrs.evolve(
            PLACE,
            volumes=FrozenDict({"/var/lib/data": "/volumes/0", "/run": "/volumes/1"}),
            sources=FrozenDict({"/var/run/secrets": BindSource(path="/token")}),
        ),
    ),
    "mapped-host-network": (
        spec(sandbox=HOST_NETWORK),
        HOST,
        attrs.evolve(
            PLACE,
            namespaces=NamespacePaths(
                ipc="/pins/ipc", user="/pins/user", uids=(IDMapping(100000, 0, 65536),), gids=(IDMapping(100000, 0, 65536),)
            ),
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    """The whole configuration equals the reviewed golden one."""
    result = config(*CASES[name])
    expected = json.loads((GOLDEN / f"{name}.json").read_text())
    assert expected == result


@pytest.mark.parametrize(
    ("page_sizes", "expected"),
    [({"2MB", "1GB"}, [("2MB", 0), ("1GB", 4)]), ({"2MB"}, [("2MB", 0), ("1GB", 4)]), ({"1GB"}, [("1GB", 4)]), (set(), [])],
)
def test_hugepage_limits(page_sizes: set[str], expected: list[tuple[str, int]]) -> None:
    """A limit of zero is set where there are such pages; another one always, so that its refusal is seen; none without the
    controller.
    """
    limits = Resources(hugepage_limits=(HugepageLimit("2MB"), HugepageLimit("1GB", 4)))
    made = resources(limits, attrs.evolve(HOST, page_sizes=frozenset(page_sizes))).get("hugepageLimits", [])
    assert expected == [(page["pageSize"], page["limit"]) for page in made]


@pytest.mark.parametrize("name", CASES)
def test_nothing_propagates_unasked(name: str) -> None:
    """Every bind, and the cgroups, which runtimes bind, is private with all mounts below it; the root shares with no peer."""
    result = config(*CASES[name])
    binds = [mount for mount in result["mounts"] if mount["type"] in {"bind", "cgroup"}]
    assert {"/etc/hosts", "/dev/shm", "/sys/fs/cgroup"} <= {mount["destination"] for mount in binds}
    assert [["rprivate"]] * len(binds) == [sorted(PROPAGATIONS & set(mount["options"])) for mount in binds]
    assert "rootfsPropagation" not in result["linux"]


def test_unsaid_security_protects_the_host() -> None:
    """Where nothing is said of security, the usual paths are masked; an empty list that is said means none (mapping.md 1)."""
    result = config(spec(), HOST, PLACE)["linux"]
    assert (list(MASKED), list(READONLY)) == (result["maskedPaths"], result["readonlyPaths"])
    said = config(secured(), HOST, PLACE)["linux"]
    assert ([], []) == (said["maskedPaths"], said["readonlyPaths"])


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        (Capability(), set(DEFAULT_CAPABILITIES)),
        (Capability(add_capabilities=("net_admin",)), {*DEFAULT_CAPABILITIES, "CAP_NET_ADMIN"}),
        (Capability(drop_capabilities=("CAP_CHOWN",)), set(DEFAULT_CAPABILITIES) - {"CAP_CHOWN"}),
        (Capability(add_capabilities=("ALL",)), set(CAPABILITIES)),
        (Capability(add_capabilities=("ALL",), drop_capabilities=("SYS_ADMIN",)), set(CAPABILITIES) - {"CAP_SYS_ADMIN"}),
        (Capability(drop_capabilities=("ALL",), add_capabilities=("KILL",)), {"CAP_KILL"}),
        (Capability(add_capabilities=("ALL",), drop_capabilities=("ALL",)), set()),
    ],
)
def test_capabilities(requested: Capability, expected: set[str]) -> None:
    """Add ALL, then drop ALL, then single additions, then single drops; never ambient unasked (mapping.md 4)."""
    result = config(secured(capabilities=requested), HOST, PLACE)["process"]["capabilities"]
    assert expected == set(result["bounding"]) == set(result["effective"]) == set(result["permitted"])
    assert "ambient" not in result


def test_all_is_what_this_process_has() -> None:
    """Privileged and ALL mean the capabilities that the process itself may hand on."""
    host = attrs.evolve(HOST, bounding=frozenset({"CAP_CHOWN", "CAP_KILL"}))
    assert ["CAP_CHOWN", "CAP_KILL"] == config(secured(privileged=True), host, PLACE)["process"]["capabilities"]["bounding"]


@pytest.mark.parametrize(
    ("v2", "privileged", "expected"),
    [(True, True, "bind"), (True, False, "cgroup"), (False, True, "cgroup"), (False, False, "cgroup")],
)
def test_the_node_s_cgroup2_is_bound(v2: bool, privileged: bool, expected: str) -> None:
    """Without a cgroup namespace cgroup2 is bound: a new mount would change the options of the node's own mount."""
    result = config(secured(privileged=privileged), attrs.evolve(HOST, cgroup_v2=v2), PLACE)
    (kind,) = [mount["type"] for mount in result["mounts"] if mount["destination"] == "/sys/fs/cgroup"]
    assert expected == kind
    assert {"type": "cgroup"} not in result["linux"]["namespaces"] or expected == "cgroup"


def test_unknown_capability_is_refused() -> None:
    """A capability that Linux does not have is named."""
    with pytest.raises(InvalidArgument, match="MAGIC"):
        config(secured(capabilities=Capability(add_capabilities=("MAGIC",))), HOST, PLACE)


def test_mounts_are_sorted_by_depth_and_replace_the_usual() -> None:
    """Deeper mounts come later; a usual mount gives way to one of the container's own (mapping.md 5)."""
    mounts = (
        Mount(container_path="/data/deep/er", host_path="/h1"),
        Mount(container_path="/data", host_path="/h2", readonly=True),
        Mount(container_path="/etc/hosts", host_path="/h3"),
        Mount(container_path="/proc", host_path="/h4"),
    )
    sources = FrozenDict({mount.container_path: BindSource(path=mount.host_path) for mount in mounts})
    result = config(spec(mounts=mounts), HOST, attrs.evolve(PLACE, sources=sources))
    order = destinations(result)
    assert 1 == order.count("/proc") == order.count("/etc/hosts")
    assert order.index("/data") < order.index("/data/deep/er")
    assert ["rbind", "rprivate", "ro"] == options_of(result, "/data")


@pytest.mark.parametrize(
    ("propagation", "source", "option", "rootfs"),
    [
        (MountPropagation.PRIVATE, BindSource(path="/h", shared=False, slave=False), "rprivate", None),
        (MountPropagation.HOST_TO_CONTAINER, BindSource(path="/h", shared=False, slave=True), "rslave", "rslave"),
        (MountPropagation.BIDIRECTIONAL, BindSource(path="/h"), "rshared", "rshared"),
    ],
)
def test_propagation(propagation: MountPropagation, source: BindSource, option: str, rootfs: str | None) -> None:
    """Propagation becomes an option of the mount and of the root (mapping.md 5)."""
    mounts = (Mount(container_path="/data", host_path="/h", propagation=propagation),)
    result = config(spec(mounts=mounts), HOST, attrs.evolve(PLACE, sources=FrozenDict({"/data": source})))
    assert option in options_of(result, "/data")
    assert rootfs == result["linux"].get("rootfsPropagation")


def bidirectional(*paths: str) -> tuple[tuple[Mount, ...], Place]:
    """Mounts of which the first is bidirectional, and the place of their container."""
    kinds = [MountPropagation.BIDIRECTIONAL, *(MountPropagation.PRIVATE for _ in paths[1:])]
    mounts = tuple(
        Mount(container_path=path, host_path=f"/h{path}", propagation=kind) for path, kind in zip(paths, kinds, strict=True)
    )
    sources = FrozenDict({mount.container_path: BindSource(path=mount.host_path) for mount in mounts})
    return mounts, attrs.evolve(PLACE, sources=sources)


@pytest.mark.parametrize(("path", "missing"), [("/etc", "/etc/hosts"), ("/dev/", "/dev/shm")])
def test_the_pod_s_files_stay_out_of_bidirectional_mounts(path: str, missing: str) -> None:
    """Where the container sees the node's own folder, and shares its mounts, no file of the pod is mounted over the node's."""
    mounts, place = bidirectional(path)
    result = config(spec(mounts=mounts, security=LinuxContainerSecurityContext(privileged=True)), HOST, place)
    assert missing not in destinations(result)


@pytest.mark.parametrize(
    ("paths", "security", "field"),
    [
        (("/data", "/data/inner"), LinuxContainerSecurityContext(privileged=True), r"config\.mounts\[1\]\.container_path"),
        (("/data/", "/data/a/b"), LinuxContainerSecurityContext(), r"config\.mounts\[1\]\.container_path"),
        (("/sys",), None, r"config\.mounts\[0\]\.propagation"),
        (("/proc",), LinuxContainerSecurityContext(readonly_paths=("/proc/sys",)), r"config\.mounts\[0\]\.propagation"),
    ],
)
def test_what_would_be_mounted_on_the_node_is_refused(
    paths: tuple[str, ...], security: LinuxContainerSecurityContext | None, field: str
) -> None:
    """Mounts, masks and read-only paths below a bidirectional mount, which would appear on the node, are refused by name."""
    mounts, place = bidirectional(*paths)
    with pytest.raises(InvalidArgument, match=field):
        config(spec(mounts=mounts, security=security), HOST, place)


def test_further_options_of_a_mount() -> None:
    """They follow the options of the other fields (CRI, `Mount.mount_options`), for a path and for an image."""
    mounts = (
        Mount(container_path="/data", host_path="/h", readonly=True, mount_options=("noexec", "nosuid")),
        Mount(container_path="/image", image=ImageSpec(image="i"), mount_options=("nodev",)),
    )
    place = attrs.evolve(PLACE, sources=FrozenDict({mount.container_path: BindSource(path="/h") for mount in mounts}))
    result = config(spec(mounts=mounts), HOST, place)
    assert ["rbind", "rprivate", "ro", "noexec", "nosuid"] == options_of(result, "/data")
    assert ["rbind", "rprivate", "ro", "nodev"] == options_of(result, "/image")


@pytest.mark.parametrize("option", ["rw", "rshared", "suid", "bind", "size=1k", ""])
def test_options_that_take_something_back(option: str) -> None:
    """An option that contradicts another field of the mount, or that no bind mount supports, is refused by the field's name."""
    mounts = (Mount(container_path="/data", host_path="/h", readonly=True, mount_options=("noexec", option)),)
    place = attrs.evolve(PLACE, sources=FrozenDict({"/data": BindSource(path="/h")}))
    with pytest.raises(InvalidArgument) as refused:
        config(spec(mounts=mounts), HOST, place)
    assert "config.mounts[0].mount_options" == refused.value.field


@pytest.mark.parametrize("propagation", [MountPropagation.BIDIRECTIONAL, MountPropagation.HOST_TO_CONTAINER])
def test_propagation_needs_its_source(propagation: MountPropagation) -> None:
    """A source on a private mount cannot propagate: it is refused by name (mapping.md 5)."""
    mounts = (Mount(container_path="/data", host_path="/h", propagation=propagation),)
    sources = FrozenDict({"/data": BindSource(path="/h", shared=False, slave=False)})
    with pytest.raises(InvalidArgument, match="propagation"):
        config(spec(mounts=mounts), HOST, attrs.evolve(PLACE, sources=sources))


def test_recursive_read_only() -> None:
    """Recursive read-only is `rro`; without readonly it is refused with the kubelet's word (mapping.md 5)."""
    sources = FrozenDict({"/data": BindSource(path="/h")})
    mount = Mount(container_path="/data", host_path="/h", readonly=True, recursive_read_only=True)
    result = config(spec(mounts=(mount,)), HOST, attrs.evolve(PLACE, sources=sources))
    assert "rro" in options_of(result, "/data")
    with pytest.raises(PullError, match=r"^RROUnsupported"):
        config(spec(mounts=(attrs.evolve(mount, readonly=False),)), HOST, attrs.evolve(PLACE, sources=sources))


def test_the_later_of_two_mounts_at_one_path_is_seen() -> None:
    """The kubelet sends /dev/termination-log after a volume of the same path; however it is spelt, the later one is on top."""
    mounts = (Mount(container_path="/data", host_path="/a"), Mount(container_path="/data/", host_path="/b"))
    sources = FrozenDict({mount.container_path: BindSource(path=mount.host_path) for mount in mounts})
    result = config(spec(mounts=mounts), HOST, attrs.evolve(PLACE, sources=sources))
    assert ["/b"] == [mount["source"] for mount in result["mounts"] if mount["destination"].startswith("/data")]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (NamespacePaths(), [{"type": "mount"}, {"type": "pid"}]),
        (NamespacePaths(host_pid=True), [{"type": "mount"}]),
        (
            NamespacePaths(network="/n", ipc="/i", uts="/u", pid="/p"),
            [
                {"type": "mount"},
                {"type": "network", "path": "/n"},
                {"type": "ipc", "path": "/i"},
                {"type": "uts", "path": "/u"},
                {"type": "pid", "path": "/p"},
            ],
        ),
    ],
)
def test_namespaces(paths: NamespacePaths, expected: list[dict[str, str]]) -> None:
    """A namespace to join has a path, the host's is absent, a new one has none (mapping.md 8)."""
    assert expected == config(spec(), HOST, attrs.evolve(PLACE, namespaces=paths))["linux"]["namespaces"]


def test_a_user_namespace_is_joined_without_its_mappings() -> None:
    """A pod's user namespace is joined by its path alone: runc warns of mappings beside it, and means to refuse them."""
    lines = (IDMapping(host_id=100000, container_id=0, length=65536),)
    paths = NamespacePaths(user="/user", uids=lines, gids=lines)
    result = config(spec(), HOST, attrs.evolve(PLACE, namespaces=paths))["linux"]
    assert {"type": "user", "path": "/user"} in result["namespaces"]
    assert set() == {"uidMappings", "gidMappings"} & set(result)


def test_seccomp_profiles() -> None:
    """Unsaid and Unconfined are none; RuntimeDefault needs the distribution's; Localhost is a file; privileged has none."""
    text = json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]})
    host = attrs.evolve(HOST, seccomp_default=text)
    default = SecurityProfile(ProfileType.RUNTIME_DEFAULT)
    local = SecurityProfile(ProfileType.LOCALHOST, "/p.json")
    place = attrs.evolve(PLACE, profiles=FrozenDict({"/p.json": text}))
    expected = json.loads(text)
    assert expected == config(secured(seccomp=default), host, PLACE)["linux"]["seccomp"]
    assert expected == config(secured(seccomp=local), HOST, place)["linux"]["seccomp"]
    for unconfined in (None, SecurityProfile(ProfileType.UNCONFINED)):
        assert "seccomp" not in config(secured(seccomp=unconfined), host, PLACE)["linux"]
    assert "seccomp" not in config(secured(seccomp=local, privileged=True), host, place)["linux"]
    with pytest.raises(InvalidArgument, match="RuntimeDefault"):
        config(secured(seccomp=default), HOST, PLACE)
    with pytest.raises(InvalidArgument, match="localhost_ref"):
        config(secured(seccomp=local), HOST, PLACE)


@pytest.mark.parametrize("privileged", [False, True])
@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        (None, APPARMOR_DEFAULT),
        (SecurityProfile(ProfileType.RUNTIME_DEFAULT), APPARMOR_DEFAULT),
        (SecurityProfile(ProfileType.UNCONFINED), ""),
        (SecurityProfile(ProfileType.LOCALHOST, "mine"), "mine"),
    ],
)
def test_apparmor_profiles(requested: SecurityProfile | None, expected: str, privileged: bool) -> None:
    """Unsaid and RuntimeDefault are the default, but for the privileged, who have it only by its name (mapping.md 9)."""
    machine = AppArmor(loaded=frozenset({APPARMOR_DEFAULT, "mine"}))
    chosen = apparmor_profile(secured(apparmor=requested, privileged=privileged), machine)
    assert ("" if privileged and expected == APPARMOR_DEFAULT else expected) == chosen
    process = config(secured(apparmor=requested), HOST, attrs.evolve(PLACE, apparmor=expected))["process"]
    assert expected == process.get("apparmorProfile", "")
    assert process.get("apparmorProfile") == process_of({"process": process}, ("sh",), terminal=False).get("apparmorProfile")


def test_apparmor_profiles_that_are_not_there() -> None:
    """A requested profile is refused by its name; the default is left out if no profile is requested."""
    local = secured(apparmor=SecurityProfile(ProfileType.LOCALHOST, "mine"))
    with pytest.raises(InvalidArgument, match=r"apparmor\.localhost_ref.*'mine': the kernel has no such profile"):
        apparmor_profile(local, AppArmor(loaded=frozenset({APPARMOR_DEFAULT})))
    without = AppArmor(problem="this machine has no AppArmor")
    with pytest.raises(InvalidArgument, match="'mine': this machine has no AppArmor"):
        apparmor_profile(local, without)
    with pytest.raises(InvalidArgument, match="RuntimeDefault: this machine has no AppArmor"):
        apparmor_profile(secured(apparmor=SecurityProfile(ProfileType.RUNTIME_DEFAULT)), without)
    assert "" == apparmor_profile(spec(), without) == apparmor_profile(secured(), without)


def test_seccomp_conditions() -> None:
    """Rules for other capabilities, architectures and kernels are left out; sub-architectures are added."""
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
        "syscalls": [
            {"names": ["a"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["b"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["c"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["arm64"]}},
            {"names": ["d"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["e"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "9.0"}},
        ],
    }
    host = attrs.evolve(HOST, seccomp_default=json.dumps(profile))
    result = config(secured(seccomp=SecurityProfile(ProfileType.RUNTIME_DEFAULT)), host, PLACE)["linux"]["seccomp"]
    assert ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"] == result["architectures"]
    assert [["b"], ["d"]] == [rule["names"] for rule in result["syscalls"]]


ON = attrs.evolve(HOST, selinux=True)


def in_pod(option: SELinuxOption | None = None, ipc: NamespaceMode = NamespaceMode.POD) -> SandboxSpec:
    """A sandbox with this label and IPC namespace."""
    context = LinuxSandboxSecurityContext(selinux_options=option, namespace_options=NamespaceOption(ipc=ipc))
    return attrs.evolve(SANDBOX, config=attrs.evolve(SANDBOX.config, linux=LinuxPodSandboxConfig(security_context=context)))


@pytest.mark.parametrize(
    ("of_pod", "of_container", "expected"),
    [
        (None, None, "system_u:system_r:container_t:s0:c3,c7"),
        (None, SELinuxOption(type="my_t"), "system_u:system_r:my_t:s0:c3,c7"),
        (None, SELinuxOption(type="my_t", level="s0:c1,c2"), "system_u:system_r:my_t:s0:c1,c2"),
        (SELinuxOption(type="pod_t"), None, "system_u:system_r:pod_t:s0:c3,c7"),
        (SELinuxOption(type="pod_t"), SELinuxOption(user="u", role="r", type="t", level="s0"), "u:r:t:s0"),
        (SELinuxOption(type="pod_t"), SELinuxOption(), "system_u:system_r:pod_t:s0:c3,c7"),
    ],
)
def test_labels(of_pod: SELinuxOption | None, of_container: SELinuxOption | None, expected: str) -> None:
    """Each part of a label is the container's or its pod's, else the default with the pod's level (mapping.md 9)."""
    requested = attrs.evolve(secured(selinux_options=of_container), sandbox=in_pod(of_pod))
    labels = selinux_labels(requested, ON, "s0:c3,c7")
    user, _, _, level = expected.split(":", 3)
    assert Labels(process=expected, mounts=f"{user}:object_r:container_file_t:{level}") == labels


def test_who_has_no_process_label() -> None:
    """The privileged, and who shares the node's processes or IPC and names nothing, are left to policy; their files are not."""
    files = "system_u:object_r:container_file_t:s0:c3,c7"
    own = SELinuxOption(type="my_t")
    for requested, host_pid in (
        (secured(privileged=True), False),
        (secured(privileged=True, selinux_options=own), False),
        (spec(), True),
        (spec(sandbox=in_pod(ipc=NamespaceMode.NODE)), False),
    ):
        assert Labels(mounts=files) == selinux_labels(requested, ON, "s0:c3,c7", host_pid=host_pid)
    named = secured(selinux_options=own)
    assert "system_u:system_r:my_t:s0:c3,c7" == selinux_labels(named, ON, "s0:c3,c7", host_pid=True).process


def test_where_there_are_no_labels() -> None:
    """Without SELinux there are no labels, nor without options in a pod created before levels; an invalid level is refused."""
    option = SELinuxOption(type="my_t")
    assert Labels() == selinux_labels(secured(selinux_options=option), HOST, "") == selinux_labels(spec(), ON, "")
    assert "system_u:system_r:my_t:s0" == selinux_labels(secured(selinux_options=option), ON, "").process
    with pytest.raises(InvalidArgument, match="level"):
        selinux_labels(secured(selinux_options=SELinuxOption(level="loud")), ON, "s0:c3,c7")
    with pytest.raises(InvalidArgument, match="level"):
        named_level(in_pod(SELinuxOption(level="loud")))


def test_levels_of_pods() -> None:
    """Every pair of two categories can be had, each once, and one that is taken is not given again."""
    every = {free_level(seed, ()) for seed in range(1024 * 1023 // 2)}
    assert 1024 * 1023 // 2 == len(every)
    assert all(re.fullmatch(r"s0:c\d+,c\d+", level) for level in every)
    pairs = [tuple(int(part.lstrip("c")) for part in level[3:].split(",")) for level in every]
    assert all(0 <= low < high < 1024 for low, high in pairs)
    assert free_level(6, ()) == free_level(5, {free_level(5, ())})
    with pytest.raises(ResourceExhausted):
        free_level(5, every)


def test_what_is_relabelled() -> None:
    """Volumes that ask for it, with their numbers; of who may use all labels (`spc_t`) none."""
    requested = Mount(container_path="/a", host_path="/a", selinux_relabel=True)
    mounts = (Mount(container_path="/b", host_path="/b"), requested, Mount(container_path="/c", selinux_relabel=True))
    assert [(1, requested)] == relabelled(spec(mounts=mounts), Labels("u:r:container_t:s0", "files"))
    assert [(1, requested)] == relabelled(spec(mounts=mounts), Labels("", "files"))
    assert [] == relabelled(spec(mounts=mounts), Labels("u:r:spc_t:s0", "files")) == relabelled(spec(mounts=mounts), Labels())


def test_cgroups_path() -> None:
    """A path below the pod's cgroup, or slice:prefix:name for systemd (mapping.md 7)."""
    assert "/kubepods/pod1/c1" == cgroups_path("/kubepods/pod1", "c1", systemd=False)
    assert "kubepods-pod1.slice:crishim:c1" == cgroups_path("/kubepods.slice/kubepods-pod1.slice", "c1", systemd=True)
    assert "/crishim/c1" == cgroups_path("", "c1", systemd=False)


def test_exec_has_the_container_s_process() -> None:
    """An exec inherits user, environment, folder and capabilities; a terminal brings TERM."""
    result = config(spec(), HOST, PLACE)
    process = process_of(result, ("sh",), terminal=True)
    assert (["sh"], True, result["process"]["user"]) == (process["args"], process["terminal"], process["user"])
    assert "TERM=xterm" in process["env"]
    assert result["process"]["env"] == process_of(result, ("sh",), terminal=False)["env"]
