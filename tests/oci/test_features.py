"""What a config.json asks for, by the features of CRI that its fields come from."""

from typing import Any

import attrs
import pytest

from crishim.lifecycle.features import container_features
from crishim.model.container import ContainerSpec, Mount, MountPropagation, UserSpec
from crishim.model.features import Feature
from crishim.model.resources import HugepageLimit, Resources
from crishim.model.security import Capability, LinuxContainerSecurityContext, LinuxContainerUser
from crishim.model.values import FrozenDict
from crishim.oci.facts import BindSource
from crishim.oci.features import config_features, of_a_pod
from crishim.oci.spec import config
from tests.oci.test_spec import HOST, PLACE, spec

SOURCE = BindSource(path="/srv")
ROOT = attrs.evolve(PLACE, user=LinuxContainerUser(0, 0, (0,)))


def plain(**changes: Any) -> ContainerSpec:
    return spec(**{"user": UserSpec(), **changes})


def secured(**changes: Any) -> ContainerSpec:
    return plain(security=LinuxContainerSecurityContext(**changes))


def mounted(**changes: Any) -> ContainerSpec:
    return plain(mounts=(Mount(container_path="/data", host_path="/srv", **changes),))


ASKING = {
    "plain": plain(),
    "caps": secured(capabilities=Capability(add_capabilities=("SYS_ADMIN",))),
    "drop": secured(capabilities=Capability(drop_capabilities=("ALL",))),
    "ambient": secured(capabilities=Capability(add_ambient_capabilities=("SYS_ADMIN",))),
    "privs": secured(no_new_privs=True),
    "root": secured(readonly_rootfs=True),
    "paths": secured(masked_paths=("/etc/secret",)),
    "memory": plain(resources=Resources(memory_limit_in_bytes=1 << 20)),
    "cpu": plain(resources=Resources(cpu_period=100_000, cpu_quota=5000)),
    "cpuset": plain(resources=Resources(cpuset_cpus="0")),
    "pages": plain(resources=Resources(hugepage_limits=(HugepageLimit(page_size="2MB", limit=0),))),
    "unified": plain(resources=Resources(unified={"memory.high": "1"})),
    "group": plain(resources=Resources(unified={"memory.oom.group": "1"})),
    "mount": mounted(),
    "read-only": mounted(readonly=True),
    "shared": mounted(propagation=MountPropagation.BIDIRECTIONAL),
    "usual": plain(mounts=(Mount(container_path="/etc/hosts", host_path="/srv", readonly=True),)),
    "terminal": plain(tty=True),
}


@pytest.mark.parametrize("name", ASKING)
def test_config_json_asks_for_what_the_pod_asked(name: str) -> None:
    """The features of a config.json are those of the spec that it was made of."""
    asked = ASKING[name]
    place = attrs.evolve(ROOT, sources=FrozenDict({mount.container_path: SOURCE for mount in asked.mounts}))
    host = attrs.evolve(HOST, cgroup_v2=True, page_sizes=frozenset({"2MB"}))
    shown = config_features(config(asked, host, place))
    wanted = container_features(asked)
    assert {feature: wanted[feature] for feature in shown} == shown


@pytest.mark.parametrize(
    ("changes", "feature"),
    [
        ({"process": {"user": {"uid": 5}}}, Feature.USER),
        ({"process": {"user": {"uid": 0, "gid": 7}}}, Feature.USER),
        ({"process": {"selinuxLabel": "a:b:c:s0"}}, Feature.SELINUX),
        ({"process": {"apparmorProfile": "mine"}}, Feature.APPARMOR),
        ({"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW"}}}, Feature.SECCOMP),
        ({"linux": {"devices": [{"path": "/dev/fuse"}]}}, Feature.DEVICES),
        ({"linux": {"namespaces": [{"type": "user"}]}}, Feature.USER_NAMESPACE),
        ({"mounts": [{"destination": "/a", "type": "bind", "options": ["rro"]}]}, Feature.RECURSIVE_READONLY_MOUNTS),
        ({"mounts": [{"destination": "/a", "options": ["bind"], "uidMappings": [{}]}]}, Feature.IDMAP_MOUNTS),
    ],
)
def test_what_a_config_json_has(changes: dict[str, Any], feature: Feature) -> None:
    """Each field that protects or changes a container counts as its feature."""
    assert config_features(changes)[feature]
    assert not config_features({})[feature]


@pytest.mark.parametrize("profile", ["", "unconfined", "cri-containerd.apparmor.d", "crio-default"])
def test_a_nodes_own_profile_does_not_count(profile: str) -> None:
    """The AppArmor profile that a runtime gives to every container is nothing that a pod asked for."""
    assert not config_features({"process": {"apparmorProfile": profile}})[Feature.APPARMOR]


def test_crios_capabilities_are_plain() -> None:
    """The capabilities that CRI-O gives to every container do not count, and one less does."""
    names = ("CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "SETGID", "SETUID", "SETPCAP", "NET_BIND_SERVICE", "KILL")
    own = [f"CAP_{name}" for name in names]
    assert [False, True] == [
        config_features({"process": {"capabilities": {"bounding": some}}})[Feature.CAPABILITIES] for some in (own, own[1:])
    ]


def test_whose_container_it_is() -> None:
    """A container of containerd's or CRI-O's pod is one; a sandbox, and a container of `ctr`, are not."""
    kinds = ("io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType")
    assert [True, True] == [of_a_pod({"annotations": {kind: "container"}}) for kind in kinds]
    assert [False, False] == [of_a_pod({"annotations": {kind: "sandbox"}}) for kind in kinds]
    assert [False, False] == [of_a_pod(config) for config in ({}, {"annotations": None})]
