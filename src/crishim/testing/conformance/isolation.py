"""Checks of namespaces, rights, profiles and devices that a backend supports, as a container sees them."""

import json
from collections.abc import Mapping
from typing import Any, Final

from crishim.errors import CrishimError, InvalidArgument
from crishim.model.container import Device, Mount
from crishim.model.features import Feature
from crishim.model.image import ImageSpec
from crishim.model.security import (
    Capability,
    IDMapping,
    NamespaceMode,
    NamespaceOption,
    ProfileType,
    SecurityProfile,
    SELinuxOption,
    SupplementalGroupsPolicy,
    UserNamespace,
)
from crishim.model.values import FrozenDict
from crishim.oci.facts import DeviceNode
from crishim.testing.conformance.candidate import World, equal
from crishim.testing.conformance.examine import Check
from crishim.testing.conformance.features import output_of_privileged
from crishim.testing.conformance.kubelet import Kubelet
from crishim.testing.conformance.logs import output_of
from crishim.testing.conformance.programs import Fact, LeftOut, needed

_NET_ADMIN: Final = 1 << 12
_WWW: Final = 33
"""A user that roots of the exam have in a further group."""

_DEVICES: Final = ("/dev/fuse", "/dev/loop-control")
"""Devices that no plain container may open."""

_LABEL: Final = SELinuxOption(type="container_t", level="s0:c101,c202")

MAPPING: Final = (IDMapping(host_id=5 << 16, container_id=0, length=1 << 16),)
"""The ids of a pod with a user namespace."""


async def check_host_ipc_is_shared(world: World) -> None:
    """namespace_options.ipc NODE: the IPC namespace of the node, which no other pod has."""
    argv = world.shows(Fact.IPC)
    async with Kubelet.over(world) as kubelet:
        options = kubelet.namespaces(ipc=NamespaceMode.NODE)
        config = {"namespace_options": options}
        shared = [await kubelet.output(await kubelet.pod(**config), kubelet.container(argv, **config)) for _ in range(2)]
        equal(shared[0], shared[1])
        if world.pods_are_apart:
            assert shared[0] != await kubelet.output(await kubelet.pod(), kubelet.container(argv)), "a plain pod has it, too"


async def check_target_has_its_pid_namespace(world: World) -> None:
    """namespace_options.pid TARGET: the container's namespace will be made to match that of container target_id."""
    argv = world.shows(Fact.PROCESSES)
    async with Kubelet.over(world) as kubelet:
        sandbox_id = await kubelet.pod()
        one, other = [await kubelet.run(sandbox_id, kubelet.container(world.programs.sleeps())) for _ in range(2)]

        async def seen(target: str) -> str:
            options = kubelet.namespaces(pid=NamespaceMode.TARGET, target_id=target)
            return await kubelet.output(sandbox_id, kubelet.container(argv, namespace_options=options))

        first = await seen(one)
        equal(first, await seen(one))
        assert first != await seen(other), "another container has the same pid namespace"


async def check_user_namespace_is_mapped(world: World) -> None:
    """userns_options POD: uids and gids specify the mappings for the user namespace, which all containers of the pod have."""
    async with Kubelet.over(world) as kubelet:
        options = mapped_namespaces(kubelet)
        sandbox_id = await kubelet.pod(namespace_options=options)
        for path in ("/proc/self/uid_map", "/proc/self/gid_map"):
            argv = needed(world.programs.reads(path), "read a file")
            seen = await kubelet.output(sandbox_id, kubelet.container(argv, namespace_options=options))
            equal(["0", str(5 << 16), str(1 << 16)], seen.split())


def mapped_namespaces(kubelet: Kubelet) -> NamespaceOption:
    """The namespaces of a pod, and of its containers, with a user namespace."""
    return kubelet.namespaces(userns_options=UserNamespace(NamespaceMode.POD, MAPPING, MAPPING))


async def check_sysctls_are_set(world: World) -> None:
    """sysctls: holds linux sysctls config for the sandbox; another sandbox does not have these values."""
    values = {"kernel.shm_rmid_forced": "1", "kernel.msgmax": "4321"}
    if world.pods_are_apart:
        values["net.ipv4.ip_unprivileged_port_start"] = "123"
    async with Kubelet.over(world) as kubelet:
        pods = [await kubelet.pod(sysctls=FrozenDict(values)), await kubelet.pod()]
        for name, value in values.items():
            argv = needed(world.programs.reads(f"/proc/sys/{name.replace('.', '/')}"), "read a file")
            seen = [await kubelet.output(sandbox_id, kubelet.container(argv)) for sandbox_id in pods]
            assert seen[0] == value != seen[1], f"{name} is {seen[0]} in the pod that sets {value}, and {seen[1]} in another"


async def check_groups_are_strict(world: World) -> None:
    """supplemental_groups_policy Strict: supplemental_groups is used instead of any groups defined in the container image."""
    argv, requested = world.shows(Fact.GROUPS), {"5678", "4321"}
    async with Kubelet.over(world) as kubelet:
        sandbox_id = await kubelet.pod()

        async def groups(user: int, policy: SupplementalGroupsPolicy) -> set[str]:
            changes = {"run_as_user": user, "run_as_group": 5678, "supplemental_groups": (4321,)}
            config = kubelet.container(argv, supplemental_groups_policy=policy, **changes)
            return set((await kubelet.output(sandbox_id, config)).split())

        if requested == await groups(_WWW, SupplementalGroupsPolicy.MERGE):
            raise LeftOut(f"the image has no further group of user {_WWW}, which Strict would keep out")
        for user in (0, _WWW):
            equal(requested, await groups(user, SupplementalGroupsPolicy.STRICT))


async def check_ambient_capabilities_are_given(world: World) -> None:
    """add_ambient_capabilities: a program that another user than root runs has them, too."""
    argv = world.shows(Fact.CAPABILITIES)
    added = Capability(add_capabilities=("NET_ADMIN",), add_ambient_capabilities=("NET_ADMIN",))
    async with Kubelet.over(world) as kubelet:
        config = kubelet.container(argv, run_as_user=1234, capabilities=added)
        assert int(await kubelet.output(await kubelet.pod(), config), 16) & _NET_ADMIN, "it has no CAP_NET_ADMIN"


async def check_paths_are_read_only(world: World) -> None:
    """readonly_paths: nothing can be written below such a path; without it, it can."""
    argv = needed(world.programs.writes("/etc/new"), "write a file")
    async with Kubelet.over(world) as kubelet:
        sandbox_id = await kubelet.pod()
        codes = []
        for paths in (("/etc",), ()):
            config = kubelet.container(argv, readonly_paths=paths)
            codes.append((await kubelet.ended(await kubelet.run(sandbox_id, config))).exit_code)
        assert [True, not world.candidate.writable_root] == [code != 0 for code in codes]


async def check_privileged_is_not_confined(world: World) -> None:
    """privileged: seccomp restrictions are not applied, and sensitive paths are not masked, even if they are requested."""
    seccomp: dict[str, Any] = {"seccomp": SecurityProfile(ProfileType.RUNTIME_DEFAULT)}
    masked: dict[str, Any] = {"masked_paths": ("/proc/uptime",)}
    if not {Feature.SECCOMP, Feature.MASKED_PATHS} & world.info.supported:
        raise LeftOut("the backend supports neither seccomp nor masked paths, which no other container has then")
    async with Kubelet.over(world) as kubelet:
        if Feature.SECCOMP in world.info.supported:
            equal("0", await output_of_privileged(kubelet, world.shows(Fact.SECCOMP), **seccomp))
        if Feature.MASKED_PATHS in world.info.supported:
            argv = needed(world.programs.reads("/proc/uptime"), "read a file")
            assert await output_of_privileged(kubelet, argv, **masked), "/proc/uptime is masked"


async def check_privileged_has_all_devices(world: World) -> None:
    """privileged: all devices from the host's /dev are available within the container."""
    source = _device(world)
    argv = needed(world.programs.opens(source.path), "open a device")
    async with Kubelet.over(world) as kubelet:
        await output_of_privileged(kubelet, argv)


async def check_devices_are_there(world: World) -> None:
    """devices: the device of the host at container_path; without the permission r the container cannot read from it."""
    argv = needed(world.programs.opens("/dev/exam"), "open a device")
    source = _device(world)
    async with Kubelet.over(world) as kubelet:
        sandbox_id = await kubelet.pod()

        async def code(*permissions: str) -> int:
            devices = tuple(Device("/dev/exam", source.path, permission) for permission in permissions)
            return (await kubelet.ended(await kubelet.run(sandbox_id, kubelet.container(argv, devices=devices)))).exit_code

        assert 0 == await code("rw"), f"{source.path} cannot be opened"
        assert 0 != await code(), "a container without the device has it, too"
        assert 0 != await code("w"), f"{source.path} can be opened for reading, with permission to write alone"


async def check_cdi_devices_are_given(world: World) -> None:
    """CDI_devices: the device of a fully qualified CDI device name. The container has what its description edits (CDI
    specification, containerEdits); a device that nothing describes fails it.
    """
    reading = needed(world.programs.reads("/exam-cdi/given"), "read a file")
    variable = needed(world.programs.prints_variable("EXAM_CDI"), "print a variable")
    kind = _describe_a_device(world)
    sandbox = await world.sandbox()
    device = (f"{kind}=one",)
    equal("described", await output_of(world, sandbox, variable, cdi_devices=device))
    equal("content", await output_of(world, sandbox, reading, cdi_devices=device))
    if (opening := world.programs.opens("/dev/exam")) is not None:
        equal("", await output_of(world, sandbox, opening, cdi_devices=device))
    try:
        await world.run(sandbox, world.programs.fails(0), cdi_devices=(f"{kind}=missing",))
    except CrishimError:
        return
    raise AssertionError("a device that nothing describes must fail the container")


def _describe_a_device(world: World) -> str:
    """Describe a CDI device `one`, with a variable, a mount and a device node, and return its kind.

    Raises `LeftOut` where no description can be written.
    """
    candidate = world.candidate
    kind = f"crishim.example/exam-{candidate.mark}"
    given = candidate.scratch / "cdi"
    given.mkdir()
    (given / "given").write_text("content\n")
    node = next((node.path for node in candidate.node.devices if node.path in _DEVICES), "/dev/null")
    edits = {
        "env": ["EXAM_CDI=described"],
        "mounts": [{"hostPath": str(given), "containerPath": "/exam-cdi", "options": ["ro", "bind"]}],
        "deviceNodes": [{"path": "/dev/exam", "hostPath": node}],
    }
    description = {"cdiVersion": "0.5.0", "kind": kind, "devices": [{"name": "one", "containerEdits": edits}]}
    try:
        candidate.cdi_file.parent.mkdir(exist_ok=True)
        candidate.cdi_file.write_text(json.dumps(description))
    except OSError as error:
        raise LeftOut(f"no CDI device can be described: {error}") from error
    return kind


async def check_images_are_mounted(world: World) -> None:
    """mounts.image: the files of the image, or of its image_sub_path; all image mounts are read-only."""
    candidate = world.candidate
    image = ImageSpec(image=candidate.image_id, image_ref=candidate.image_id)
    mounts = (Mount(container_path="/image", image=image), Mount(container_path="/part", image=image, image_sub_path="etc"))
    sandbox = await world.sandbox()
    own, whole, part = [
        await output_of(world, sandbox, needed(world.programs.reads(path), "read a file"), mounts=mounts)
        for path in ("/etc/passwd", "/image/etc/passwd", "/part/passwd")
    ]
    assert own
    equal((own, own), (whole, part))
    writing = needed(world.programs.writes("/image/new"), "write a file")
    assert 0 != (await world.wait((await world.run(sandbox, writing, mounts=mounts)).id)).code, "an image can be written to"
    missing = (Mount(container_path="/part", image=image, image_sub_path="no/such/folder"),)
    try:
        await world.run(sandbox, world.programs.fails(0), mounts=missing)
    except CrishimError:
        return
    raise AssertionError("an image_sub_path that is not in the image must fail the container")


async def check_apparmor_confines(world: World) -> None:
    """apparmor: RuntimeDefault enforces a profile, and Unconfined none."""
    argv = needed(world.programs.reads("/proc/self/attr/current"), "read a file")
    if not world.candidate.node.apparmor:
        raise LeftOut("the node has no AppArmor")
    async with Kubelet.over(world) as kubelet:
        sandbox_id = await kubelet.pod()

        async def profile(kind: ProfileType) -> str:
            return await kubelet.output(sandbox_id, kubelet.container(argv, apparmor=SecurityProfile(kind)))

        free = await profile(ProfileType.UNCONFINED)  # a node's own profile of the runtime may be named, with this mode
        assert free.removesuffix(")").rpartition("(")[2] == "unconfined", f"the profile is {free!r}"
        try:
            confined = await profile(ProfileType.RUNTIME_DEFAULT)
        except InvalidArgument as error:
            if world.candidate.node.apparmor_profiles:
                raise
            raise LeftOut(f"the node has no AppArmor profile: {error}") from error
        assert confined.endswith("(enforce)"), f"the profile is {confined!r}"


async def check_selinux_labels(world: World) -> None:
    """selinux_options: the type and the level of the container's processes."""
    argv = needed(world.programs.reads("/proc/self/attr/current"), "read a file")
    if not world.candidate.node.selinux:
        raise LeftOut("the node has no SELinux")
    async with Kubelet.over(world) as kubelet:
        sandbox_id = await kubelet.pod(selinux_options=_LABEL)
        seen = await kubelet.output(sandbox_id, kubelet.container(argv, selinux_options=_LABEL))
        equal([_LABEL.type, _LABEL.level], seen.strip("\0").split(":", 3)[2:])


ISOLATION_FEATURES: Final[Mapping[Check, Feature]] = {
    check_host_ipc_is_shared: Feature.HOST_IPC,
    check_target_has_its_pid_namespace: Feature.TARGET_PID,
    check_user_namespace_is_mapped: Feature.USER_NAMESPACE,
    check_sysctls_are_set: Feature.SYSCTLS,
    check_groups_are_strict: Feature.STRICT_GROUPS,
    check_ambient_capabilities_are_given: Feature.AMBIENT_CAPABILITIES,
    check_paths_are_read_only: Feature.MASKED_PATHS,
    check_privileged_is_not_confined: Feature.PRIVILEGED,
    check_privileged_has_all_devices: Feature.PRIVILEGED,
    check_devices_are_there: Feature.DEVICES,
    check_cdi_devices_are_given: Feature.CDI_DEVICES,
    check_images_are_mounted: Feature.IMAGE_MOUNTS,
    check_apparmor_confines: Feature.APPARMOR,
    check_selinux_labels: Feature.SELINUX,
}
"""The feature of each check."""


def _device(world: World) -> DeviceNode:
    """A device of the node that no plain container may open. Raises `LeftOut` if there is none."""
    nodes = {node.path: node for node in world.candidate.node.devices}
    for path in _DEVICES:
        if path in nodes:
            return nodes[path]
    raise LeftOut(f"the node has none of {', '.join(_DEVICES)}")
