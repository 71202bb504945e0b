"""Checks of the features that a backend supports, as a container sees them: users, rights, files and the terminal."""

from collections.abc import Mapping
from typing import Any, Final

from crishim.errors import CrishimError
from crishim.model.container import Mount
from crishim.model.features import Feature
from crishim.model.resources import Resources
from crishim.model.security import (
    Capability,
    NamespaceMode,
    NamespaceOption,
    ProfileType,
    SecurityProfile,
)
from crishim.model.values import EMPTY
from crishim.oci.facts import CAPABILITIES
from crishim.testing.conformance.candidate import World, equal
from crishim.testing.conformance.examine import Check
from crishim.testing.conformance.kubelet import Kubelet
from crishim.testing.conformance.logs import read_lines
from crishim.testing.conformance.programs import Fact, LeftOut, needed

_LIMIT: Final = 128 << 20
_NET_ADMIN: Final = 1 << 12
_CHOWN: Final = 1 << 0
_ALL: Final = 0x3FFFFFFFFF
"""The capabilities up to CAP_AUDIT_READ, which every kernel of today has."""


async def check_user_is_set(world: World) -> None:
    """run_as_user and run_as_group: the process has this user and this group."""
    async with Kubelet.over(world) as kubelet:
        sandbox_id = await kubelet.pod()
        for fact, expected in ((Fact.USER, "1234"), (Fact.GROUP, "5678")):
            argv = world.shows(fact)
            config = kubelet.container(argv, run_as_user=1234, run_as_group=5678)
            assert expected == await kubelet.output(sandbox_id, config)


async def check_supplemental_groups_are_set(world: World) -> None:
    """supplemental_groups: groups of the process in addition to its primary one."""
    argv = world.shows(Fact.GROUPS)
    async with Kubelet.over(world) as kubelet:
        config = kubelet.container(argv, supplemental_groups=(4321, 8765))
        assert {"4321", "8765"} <= set((await kubelet.output(await kubelet.pod(), config)).split())


async def check_capabilities_are_changed(world: World) -> None:
    """capabilities: what is dropped the process has not, what is added it has."""
    argv = world.shows(Fact.CAPABILITIES)
    async with Kubelet.over(world) as kubelet:
        sandbox_id = await kubelet.pod()
        dropped = kubelet.container(argv, capabilities=Capability(drop_capabilities=("ALL",)))
        assert 0 == int(await kubelet.output(sandbox_id, dropped), 16)
        changed = Capability(add_capabilities=("NET_ADMIN",), drop_capabilities=("CHOWN",))
        has = int(await kubelet.output(sandbox_id, kubelet.container(argv, capabilities=changed)), 16)
        assert (_NET_ADMIN, 0) == (has & _NET_ADMIN, has & _CHOWN)


async def check_plain_containers_have_few_capabilities(world: World) -> None:
    """A container that is not privileged does not have all capabilities."""
    argv = world.shows(Fact.CAPABILITIES)
    async with Kubelet.over(world) as kubelet:
        has = int(await kubelet.output_alone(argv), 16)
        assert has & _ALL != _ALL


async def check_privileged_has_all_capabilities(world: World) -> None:
    """privileged: all capabilities of the node's runtime."""
    argv = world.shows(Fact.CAPABILITIES)
    async with Kubelet.over(world) as kubelet:
        has = int(await output_of_privileged(kubelet, argv), 16)
        assert _NET_ADMIN == has & _NET_ADMIN


async def output_of_privileged(kubelet: Kubelet, argv: tuple[str, ...], **changes: Any) -> str:
    """What a privileged container prints. Raises `LeftOut` if the node lacks capabilities, and no privileged container can be
    run for it.
    """
    config = kubelet.container(argv, privileged=True, **changes)
    try:
        return await kubelet.output(await kubelet.pod(privileged=True), config)
    except CrishimError as error:
        lacking = sorted(set(CAPABILITIES) - kubelet.world.candidate.node.bounding)
        if lacking and await _no_privileged_runs(kubelet):
            raise LeftOut(f"this node lacks {', '.join(lacking)}: {error}") from error
        raise


async def _no_privileged_runs(kubelet: Kubelet) -> bool:
    """Whether a privileged container cannot be run even if nothing else is requested."""
    config = kubelet.container(kubelet.world.programs.prints("privileged"), privileged=True)
    try:
        await kubelet.output(await kubelet.pod(privileged=True), config)
    except CrishimError:
        return True
    return False


async def check_root_is_read_only(world: World) -> None:
    """readonly_rootfs: nothing can be written to the root file system; without it, it can."""
    argv = needed(world.programs.writes("/written"), "write a file")
    async with Kubelet.over(world) as kubelet:
        sandbox_id = await kubelet.pod()
        codes = []
        for readonly in (True, False):
            config = kubelet.container(argv, readonly_rootfs=readonly)
            codes.append((await kubelet.ended(await kubelet.run(sandbox_id, config))).exit_code)
        assert [True, not world.candidate.writable_root] == [code != 0 for code in codes]


async def check_no_new_privileges(world: World) -> None:
    """no_new_privs: the process and its children can gain no privileges."""
    argv = world.shows(Fact.NO_NEW_PRIVS)
    async with Kubelet.over(world) as kubelet:
        equal("1", await kubelet.output_alone(argv, no_new_privs=True))


async def check_seccomp_filters(world: World) -> None:
    """Seccomp RuntimeDefault: the process has a filter; Unconfined: it has none."""
    argv = world.shows(Fact.SECCOMP)
    async with Kubelet.over(world) as kubelet:
        sandbox_id = await kubelet.pod()
        for kind, expected in ((ProfileType.RUNTIME_DEFAULT, "2"), (ProfileType.UNCONFINED, "0")):
            config = kubelet.container(argv, seccomp=SecurityProfile(kind))
            assert expected == await kubelet.output(sandbox_id, config)


async def check_paths_are_masked(world: World) -> None:
    """masked_paths: nothing of a masked file can be read."""
    argv = needed(world.programs.reads("/proc/uptime"), "read a file")
    async with Kubelet.over(world) as kubelet:
        sandbox_id = await kubelet.pod()
        plain, masked = kubelet.container(argv), kubelet.container(argv, masked_paths=("/proc/uptime",))
        assert await kubelet.output(sandbox_id, plain)
        await kubelet.ended(await kubelet.run(sandbox_id, masked))
        assert [] == [text for stream, text in read_lines(kubelet.log_of(masked)) if stream == "stdout"]


async def check_mounts_are_there(world: World) -> None:
    """mounts: what is in the folder of the host is in the container, and what the container writes is in the folder."""
    reading = needed(world.programs.reads("/data/given"), "read a file")
    writing = needed(world.programs.writes("/data/new"), "write a file")
    folder = world.candidate.scratch / "volume"
    folder.mkdir()
    (folder / "given").write_text("content\n")
    mounts = (Mount(container_path="/data", host_path=str(folder)),)
    async with Kubelet.over(world) as kubelet:
        sandbox_id = await kubelet.pod()
        equal("content", await kubelet.output(sandbox_id, kubelet.container(reading, mounts=mounts)))
        equal("", await kubelet.output(sandbox_id, kubelet.container(writing, mounts=mounts)))
        assert "written\n" == (folder / "new").read_text()


async def check_read_only_mounts_cannot_be_written(world: World) -> None:
    """mounts.readonly: the container cannot write to the folder."""
    argv = needed(world.programs.writes("/data/new"), "write a file")
    folder = world.candidate.scratch / "volume"
    folder.mkdir()
    mounts = (Mount(container_path="/data", host_path=str(folder), readonly=True),)
    async with Kubelet.over(world) as kubelet:
        config = kubelet.container(argv, mounts=mounts)
        assert 0 != (await kubelet.ended(await kubelet.run(await kubelet.pod(), config))).exit_code
        assert [] == list(folder.iterdir())


async def check_mount_options_are_applied(world: World) -> None:
    """mounts.mount_options: additional bind mount options (e.g., noexec, nodev, nosuid) that the runtime must apply."""
    argv = needed(world.programs.reads("/proc/self/mountinfo"), "read a file")
    folder = world.candidate.scratch / "volume"
    folder.mkdir()
    mounts = (Mount(container_path="/data", host_path=str(folder), mount_options=("noexec",)),)
    async with Kubelet.over(world) as kubelet:
        lines = (await kubelet.output_alone(argv, mounts=mounts)).splitlines()
        options = [line.split()[5].split(",") for line in lines if line.split()[4] == "/data"]
        assert options, "/data is not mounted"
        assert "noexec" in options[-1], f"the options are {options[-1]}"


async def check_files_of_the_kubelet_are_mounted(world: World) -> None:
    """mounts: the kubelet's own /etc/hosts is the container's."""
    argv = needed(world.programs.reads("/etc/hosts"), "read a file")
    async with Kubelet.over(world) as kubelet:
        config = kubelet.container(argv)
        hosts = next(mount.host_path for mount in config.mounts if mount.container_path == "/etc/hosts")
        (world.candidate.scratch / hosts).write_text("127.0.0.1 exam\n")
        equal("127.0.0.1 exam", await kubelet.output(await kubelet.pod(), config))


async def check_memory_limit_is_set(world: World) -> None:
    """memory_limit_in_bytes: the limit of the container's cgroup."""
    argv = world.shows(Fact.MEMORY_LIMIT)
    async with Kubelet.over(world) as kubelet:
        equal(str(_LIMIT), await kubelet.output_alone(argv, memory_limit_in_bytes=_LIMIT))


async def check_terminal_is_given(world: World) -> None:
    """tty: stdout is a terminal; without it, it is none."""
    argv = world.shows(Fact.TERMINAL)
    async with Kubelet.over(world) as kubelet:
        sandbox_id = await kubelet.pod()
        assert "yes" == (await kubelet.output(sandbox_id, kubelet.container(argv, tty=True))).strip()
        equal("no", await kubelet.output(sandbox_id, kubelet.container(argv)))


async def check_host_pid_is_shared(world: World) -> None:
    """namespace_options.pid NODE: the pid namespace of the node, which no other container has."""
    argv = world.shows(Fact.PROCESSES)
    options = NamespaceOption(pid=NamespaceMode.NODE)
    async with Kubelet.over(world) as kubelet:
        sandbox_id = await kubelet.pod(namespace_options=options)
        shared = [await kubelet.output(sandbox_id, kubelet.container(argv, namespace_options=options)) for _ in range(2)]
        assert shared[0] == shared[1]
        if world.pods_are_apart:
            assert shared[0] != await kubelet.output(sandbox_id, kubelet.container(argv))


async def check_limits_are_updated(world: World) -> None:
    """update_container: the new memory limit is the container's."""
    argv = world.shows(Fact.MEMORY_LIMIT)
    async with Kubelet.over(world) as kubelet:
        config = kubelet.container(world.programs.sleeps(), memory_limit_in_bytes=_LIMIT)
        container_id = await kubelet.run(await kubelet.pod(), config)
        change = Resources(memory_limit_in_bytes=2 * _LIMIT)
        await kubelet.services.containers.update_resources(container_id, change, EMPTY)
        result = await kubelet.services.streams.exec_sync(container_id, argv, 30)
        assert str(2 * _LIMIT) == result.stdout.decode().strip()


FEATURES: Final[Mapping[Check, Feature]] = {
    check_user_is_set: Feature.USER,
    check_supplemental_groups_are_set: Feature.SUPPLEMENTAL_GROUPS,
    check_capabilities_are_changed: Feature.CAPABILITIES,
    check_privileged_has_all_capabilities: Feature.PRIVILEGED,
    check_root_is_read_only: Feature.READONLY_ROOTFS,
    check_no_new_privileges: Feature.NO_NEW_PRIVS,
    check_seccomp_filters: Feature.SECCOMP,
    check_paths_are_masked: Feature.MASKED_PATHS,
    check_mounts_are_there: Feature.MOUNTS,
    check_read_only_mounts_cannot_be_written: Feature.READONLY_MOUNTS,
    check_mount_options_are_applied: Feature.MOUNT_OPTIONS,
    check_files_of_the_kubelet_are_mounted: Feature.MOUNTS,
    check_memory_limit_is_set: Feature.MEMORY_LIMIT,
    check_terminal_is_given: Feature.TTY,
    check_host_pid_is_shared: Feature.HOST_PID,
    check_limits_are_updated: Feature.MEMORY_LIMIT,
}
"""The feature of each check."""
