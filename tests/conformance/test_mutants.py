"""The exam fails backends that are wrong in one thing: each mutant of the fake is found by the check that is about it."""

import asyncio
import contextlib
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from crishim.errors import FailedPrecondition, InvalidArgument, NotFound
from crishim.interfaces.backend import Backend, BackendContext, NetnsSource
from crishim.interfaces.capabilities import ByteStream, ProcessIO
from crishim.model.container import ContainerCreated, ContainerSpec, ContainerState, Mount, MountPropagation, UserSpec
from crishim.model.features import Feature
from crishim.model.process import ExecSpec, Exit
from crishim.model.resources import Resources
from crishim.model.sandbox import SandboxSpec, SandboxStarted
from crishim.model.security import Capability, LinuxContainerSecurityContext, ProfileType, SecurityProfile, SELinuxOption
from crishim.model.stats import ContainerUsage
from crishim.model.values import EMPTY, ContainerId, SandboxId
from crishim.oci.facts import DeviceNode, Host
from crishim.system import SystemClock
from crishim.testing import FakeBackend
from crishim.testing.conformance import CHECKS, candidate
from crishim.testing.conformance.candidate import Candidate
from crishim.testing.conformance.checks import FEATURES, not_claimed
from crishim.testing.conformance.examine import Grade, Result, examine, name_of
from crishim.testing.conformance.programs import Fact
from crishim.testing.conformance.refusals import REQUESTS, SANDBOX_REQUESTS
from crishim.testing.conformance.volumes import VOLUME_FEATURES
from crishim.testing.doubles import MemoryStream
from crishim.testing.fake_programs import FakeInside, FakePrograms
from crishim.testing.fakes import FakeContainer, FakeNamespaces


def of_this_process(kind: str) -> str:
    return os.readlink(f"/proc/self/ns/{kind}")  # noqa: PTH115 - it is no path


Maker = Callable[[], FakeBackend]


class Mutated(FakeInside):
    """What processes see, but for some facts; `change` alters the specs that all others follow from."""

    def __init__(self, facts: Mapping[Fact, str] = {}, change: Callable[[ContainerSpec], ContainerSpec] | None = None) -> None:
        super().__init__()
        self.facts = facts
        self.change = change or (lambda spec: spec)

    def fact(self, spec: ContainerSpec, fact: Fact, limits: Resources, *, tty: bool) -> str:
        return self.facts.get(fact) or super().fact(self.change(spec), fact, limits, tty=tty)

    def variable(self, spec: ContainerSpec, name: str) -> str:
        return super().variable(self.change(spec), name)

    def read(self, spec: ContainerSpec, path: str) -> str:
        return super().read(self.change(spec), path)

    def write(self, spec: ContainerSpec, path: str) -> str:
        return super().write(self.change(spec), path)

    def open(self, spec: ContainerSpec, path: str) -> str:
        return super().open(self.change(spec), path)


class OwnedBy(FakeInside):
    """A namespace that belongs to what `owner` says."""

    def __init__(self, fact: Fact, owner: Callable[[ContainerSpec], str]) -> None:
        super().__init__()
        self.mutated, self.belongs_to = fact, owner

    def namespace(self, spec: ContainerSpec, fact: Fact) -> str:
        if fact is not self.mutated:
            return super().namespace(spec, fact)
        kind = {Fact.NETWORK: "net", Fact.IPC: "ipc", Fact.PROCESSES: "pid"}[fact]
        owner = self.belongs_to(spec)
        return f"{kind}:[{int(owner[-12:], 16)}]" if owner else of_this_process(kind)


def seeing(facts: Mapping[Fact, str] | None = None, **changes: Any) -> Maker:
    """A fake whose processes see these facts, or follow a spec with these changes."""
    return lambda: FakeBackend(inside=Mutated(facts or {}, lambda spec: attrs.evolve(spec, **changes)))


def secured(**changes: Any) -> Maker:
    """A fake that takes other values for these parts of the security context."""

    def change(spec: ContainerSpec) -> ContainerSpec:
        security = spec.security or LinuxContainerSecurityContext()
        return attrs.evolve(spec, security=attrs.evolve(security, **changes))

    return lambda: FakeBackend(inside=Mutated(change=change))


def without_mappings(spec: ContainerSpec) -> ContainerSpec:
    mounts = tuple(attrs.evolve(mount, uid_mappings=(), gid_mappings=()) for mount in spec.mounts)
    return attrs.evolve(spec, mounts=mounts)


def owned(fact: Fact, owner: Callable[[ContainerSpec], str]) -> Maker:
    """A fake with one kind of namespace owned otherwise."""
    return lambda: FakeBackend(inside=OwnedBy(fact, owner))


def inside(what: FakeInside) -> Maker:
    """A fake whose processes see this."""
    return lambda: FakeBackend(inside=what)


class Unmounted(FakeInside):
    def place(self, spec: ContainerSpec, path: str) -> None:
        return None


class Writable(FakeInside):
    def write(self, spec: ContainerSpec, path: str) -> str:
        mounts = tuple(attrs.evolve(mount, readonly=False) for mount in spec.mounts)
        return super().write(attrs.evolve(spec, mounts=mounts), path)


class Propagates(FakeInside):
    """Mounts propagate otherwise than requested."""

    def __init__(self, requested: MountPropagation, actual: MountPropagation) -> None:
        super().__init__()
        self.requested, self.actual = requested, actual

    def place(self, spec: ContainerSpec, path: str) -> tuple[Mount, Path] | None:
        place = super().place(spec, path)
        if place is None or place[0].propagation is not self.requested:
            return place
        return attrs.evolve(place[0], propagation=self.actual), place[1]


class TopIsReadOnly(FakeInside):
    def is_read_only(self, mount: Mount, file: Path) -> bool:
        return super().is_read_only(attrs.evolve(mount, recursive_read_only=False), file)


class BelowIsReadOnly(FakeInside):
    def is_read_only(self, mount: Mount, file: Path) -> bool:
        return super().is_read_only(mount, file) or file.parent != Path(mount.host_path)


class ShiftsOwners(FakeInside):
    """Id-mapped mounts are as others: owners are not mapped where files are read, or where they are written."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self.method = method

    def owner(self, spec: ContainerSpec, path: str) -> str:
        return super().owner(without_mappings(spec) if self.method == "owner" else spec, path)

    def own(self, spec: ContainerSpec, mount: Mount, file: Path) -> None:
        super().own(spec, attrs.evolve(mount, uid_mappings=()) if self.method == "own" else mount, file)


class DropsEdits(FakeInside):
    """CDI devices have no effect in one part of the container."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self.part = part

    def with_devices(self, spec: ContainerSpec) -> ContainerSpec:
        return attrs.evolve(super().with_devices(spec), **{self.part: getattr(spec, self.part)})


class AnyName(FakeInside):
    """CDI devices that nothing describes change nothing."""

    def with_devices(self, spec: ContainerSpec) -> ContainerSpec:
        try:
            return super().with_devices(spec)
        except InvalidArgument:
            return spec


class HostsOfTheImage(FakeInside):
    def read(self, spec: ContainerSpec, path: str) -> str:
        return "127.0.0.1 localhost\n" if path == "/etc/hosts" else super().read(spec, path)


class Files(FakeInside):
    """Some files of the kernel have another content."""

    def __init__(self, contents: Mapping[str, str]) -> None:
        super().__init__()
        self.contents = contents

    def kernel_file(self, spec: ContainerSpec, path: str) -> str | None:
        return self.contents.get(path) or super().kernel_file(spec, path)


class SysctlsOfAll(FakeInside):
    """A value that one pod sets is that of all pods."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, str] = {}

    def kernel_file(self, spec: ContainerSpec, path: str) -> str | None:
        self.values |= spec.sandbox.config.linux.sysctls
        return self.values.get(path.removeprefix("/proc/sys/").replace("/", ".")) or super().kernel_file(spec, path)


class ConfinesThePrivileged(FakeInside):
    def fact(self, spec: ContainerSpec, fact: Fact, limits: Resources, *, tty: bool) -> str:
        security = spec.security or LinuxContainerSecurityContext()
        if fact is Fact.SECCOMP and security.privileged:
            spec = attrs.evolve(spec, security=attrs.evolve(security, privileged=False))
        return super().fact(spec, fact, limits, tty=tty)


class MasksForThePrivileged(FakeInside):
    def read(self, spec: ContainerSpec, path: str) -> str:
        security = spec.security or LinuxContainerSecurityContext()
        return super().read(attrs.evolve(spec, security=attrs.evolve(security, privileged=False)), path)


class AnyDevice(FakeInside):
    def open(self, spec: ContainerSpec, path: str) -> str:
        return ""


class AnyAccess(FakeInside):
    def open(self, spec: ContainerSpec, path: str) -> str:
        devices = tuple(attrs.evolve(device, permissions="rwm") for device in spec.devices)
        return super().open(attrs.evolve(spec, devices=devices), path)


class WritableImages(FakeInside):
    def write(self, spec: ContainerSpec, path: str) -> str:
        return super().write(attrs.evolve(spec, mounts=()), path)


class WholeImages(FakeInside):
    def image_path(self, spec: ContainerSpec, path: str) -> str | None:
        mounts = tuple(attrs.evolve(mount, image_sub_path="") for mount in spec.mounts)
        return super().image_path(attrs.evolve(spec, mounts=mounts), path)


class NodesResolver(FakeInside):
    def resolver(self, spec: ContainerSpec) -> str:
        return "nameserver 192.0.2.1\n"


class NothingAdded(FakeInside):
    def capabilities(self, spec: ContainerSpec) -> int:
        return super().capabilities(spec) & 0xA80425FB


class ExecBesides(FakeBackend):
    """Its execs run as if the container had another spec."""

    def __init__(self, **changes: Any) -> None:
        super().__init__()
        self.changes = changes

    async def exec(self, container_id: ContainerId, spec: ExecSpec, io: ProcessIO) -> Exit:
        container = self._container(container_id)
        own = container.spec
        container.spec = attrs.evolve(own, **self.changes)
        try:
            return await super().exec(container_id, spec, io)
        finally:
            container.spec = own


class ExecWithoutATerminal(FakeBackend):
    async def exec(self, container_id: ContainerId, spec: ExecSpec, io: ProcessIO) -> Exit:
        return await super().exec(container_id, attrs.evolve(spec, tty=False), io)


class ExecReadsOnce(FakeBackend):
    async def exec(self, container_id: ContainerId, spec: ExecSpec, io: ProcessIO) -> Exit:
        if io.stdin is not None and spec.argv[0] == "count" and io.stdout is not None:
            await io.stdout.write(f"{len(await io.stdin.read())}\n".encode())
            return Exit(code=0)
        return await super().exec(container_id, spec, io)


class ExecWritesOnePipe(FakeBackend):
    async def exec(self, container_id: ContainerId, spec: ExecSpec, io: ProcessIO) -> Exit:
        cut = tuple(word[:65536] for word in spec.argv)
        return await super().exec(container_id, attrs.evolve(spec, argv=cut), io)


class ExecWaitsForChildren(FakeBackend):
    async def exec(self, container_id: ContainerId, spec: ExecSpec, io: ProcessIO) -> Exit:
        await super().exec(container_id, spec, io)
        return await asyncio.Future()


class ExecAlwaysSucceeds(FakeBackend):
    async def exec(self, container_id: ContainerId, spec: ExecSpec, io: ProcessIO) -> Exit:
        await super().exec(container_id, spec, io)
        return Exit(code=0)


class ExecOutlivesItsRequest(FakeBackend):
    async def exec(self, container_id: ContainerId, spec: ExecSpec, io: ProcessIO) -> Exit:
        try:
            return await super().exec(container_id, spec, io)
        except asyncio.CancelledError:
            self._container(container_id).end(Exit(code=137))
            raise


class ExecOnTheNode(FakeBackend):
    async def exec(self, container_id: ContainerId, spec: ExecSpec, io: ProcessIO) -> Exit:
        kinds = {"NETWORK": "net", "PROCESSES": "pid"}
        if spec.argv[0] == "show" and spec.argv[1] in kinds and io.stdout is not None:
            await io.stdout.write(of_this_process(kinds[spec.argv[1]]).encode() + b"\n")
            return Exit(code=0)
        return await super().exec(container_id, spec, io)


class AlwaysZero(FakeBackend):
    async def wait_container(self, container_id: ContainerId) -> Exit:
        await super().wait_container(container_id)
        return Exit(code=0)


class WaitsOnce(FakeBackend):
    async def wait_container(self, container_id: ContainerId) -> Exit:
        container = self._container(container_id)
        if container.exit is not None:
            raise NotFound("running container", container_id)
        return await super().wait_container(container_id)


class StartsAnything(FakeBackend):
    async def start_container(self, container_id: ContainerId) -> None:
        container = self._container(container_id)
        container.spec = attrs.evolve(container.spec, argv=("sleep",))
        await super().start_container(container_id)


class StartsAtCreation(FakeBackend):
    async def create_container(self, spec: ContainerSpec) -> ContainerCreated | None:
        created = await super().create_container(spec)
        self.containers[spec.id].state = ContainerState.RUNNING
        return created


class KnowsEverything(FakeBackend):
    async def stop_sandbox(self, sandbox_id: SandboxId) -> None:
        if sandbox_id in self.sandboxes:
            await super().stop_sandbox(sandbox_id)


class RemovesNothing(FakeBackend):
    async def remove_sandbox(self, sandbox_id: SandboxId) -> None:
        self._sandbox(sandbox_id)


class IgnoresSigkill(FakeBackend):
    async def kill_container(self, container_id: ContainerId, signal: int) -> None:
        if self._container(container_id).spec.argv != ("stubborn",):
            await super().kill_container(container_id, signal)


class OneOutput(FakeBackend):
    async def _output(self, container: FakeContainer, stream: str, text: str) -> None:
        await super()._output(container, "stdout", text)


class ShortLog(FakeBackend):
    async def _output(self, container: FakeContainer, stream: str, text: str) -> None:
        await super()._output(container, stream, text[:65536])


class PlainLog(FakeBackend):
    async def _output(self, container: FakeContainer, stream: str, text: str) -> None:
        Path(container.spec.log_path).write_text(f"{text}\n")  # noqa: ASYNC240


class NeverReopens(FakeBackend):
    """It writes on to the renamed file, as a backend that keeps its descriptor does."""

    async def reopen_log(self, container_id: ContainerId) -> None:
        container = self._container(container_id)
        await super().reopen_log(container_id)
        container.spec = attrs.evolve(container.spec, log_path=f"{container.spec.log_path}.old")


class KeepsStdin(FakeBackend):
    async def create_container(self, spec: ContainerSpec) -> ContainerCreated | None:
        return await super().create_container(attrs.evolve(spec, stdin_once=False))


class EndsStdin(FakeBackend):
    async def create_container(self, spec: ContainerSpec) -> ContainerCreated | None:
        return await super().create_container(attrs.evolve(spec, stdin_once=True))


class CloseEndsAll(FakeBackend):
    async def close(self) -> None:
        for container in self.containers.values():
            if container.state is ContainerState.RUNNING:
                container.end(Exit(code=137))


class ExhaustionIsAKill(FakeBackend):
    async def wait_container(self, container_id: ContainerId) -> Exit:
        return attrs.evolve(await super().wait_container(container_id), oom=False)


class NoSubPathIsMissing(FakeBackend):
    async def create_container(self, spec: ContainerSpec) -> ContainerCreated | None:
        mounts = tuple(
            attrs.evolve(mount, image_sub_path=mount.image_sub_path.removeprefix("no/such/")) for mount in spec.mounts
        )
        return await super().create_container(attrs.evolve(spec, mounts=mounts))


class RefusesProfiles(FakeBackend):
    """It refuses these kinds of AppArmor profile."""

    def __init__(self, *kinds: ProfileType) -> None:
        super().__init__()
        self.kinds = kinds

    async def create_container(self, spec: ContainerSpec) -> ContainerCreated | None:
        profile = None if spec.security is None else spec.security.apparmor
        if profile is not None and profile.profile_type in self.kinds:
            raise InvalidArgument("config.linux.security_context.apparmor", f"is {profile.profile_type}")
        return await super().create_container(spec)


class RefusesPrivileged(FakeBackend):
    """It cannot start privileged containers: all of them, or those with a shared mount."""

    def __init__(self, *, shared: bool) -> None:
        super().__init__()
        self.shared = shared

    async def start_container(self, container_id: ContainerId) -> None:
        spec = self._container(container_id).spec
        shared = any(mount.propagation is MountPropagation.BIDIRECTIONAL for mount in spec.mounts)
        if spec.security is not None and spec.security.privileged and (shared or not self.shared):
            raise FailedPrecondition("without rights", "privileged", "the fake")
        await super().start_container(container_id)


class DetachEnds(FakeBackend):
    async def attach(self, container_id: ContainerId, io: ProcessIO) -> None:
        try:
            await super().attach(container_id, io)
        except asyncio.CancelledError:
            self._container(container_id).end(Exit(code=137))
            raise


class ClosedPorts(FakeBackend):
    async def dial(self, sandbox_id: SandboxId, port: int) -> ByteStream:
        near, far = MemoryStream.pair()
        await far.write_eof()
        return near


class OpenPorts(FakeBackend):
    async def dial(self, sandbox_id: SandboxId, port: int) -> ByteStream:
        return await super().dial(sandbox_id, 2 if port == 1 else port)


class OpensHostPorts(FakeBackend):
    """It connects its pods itself: a port of the host leads to the program behind the pod's port, `shift` ports further on."""

    def __init__(self, shift: int = 0) -> None:
        super().__init__(netns=NetnsSource.NONE)
        self.shift = shift
        self.servers: dict[SandboxId, list[asyncio.Server]] = {}

    async def start_sandbox(self, spec: SandboxSpec) -> SandboxStarted:
        for mapping in spec.config.port_mappings:
            connect = functools.partial(self.connect, spec.id, mapping.container_port + self.shift)
            server = await asyncio.start_server(connect, "127.0.0.1", mapping.host_port)
            self.servers.setdefault(spec.id, []).append(server)
        return await super().start_sandbox(spec)

    async def connect(self, sandbox_id: SandboxId, port: int, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            if self.serves(sandbox_id, port):
                writer.write(await (await self.dial(sandbox_id, port)).read())

    def serves(self, sandbox_id: SandboxId, port: int) -> bool:
        return any(member.spec.argv[:2] == ("serve", str(port)) for member in self._members(sandbox_id))

    async def stop_sandbox(self, sandbox_id: SandboxId) -> None:
        for server in self.servers.pop(sandbox_id, ()):
            server.close()
        await super().stop_sandbox(sandbox_id)


class Unlimited(FakeBackend):
    async def update_container(self, container_id: ContainerId, resources: Resources) -> None:
        self._container(container_id)


class KeepsItsQuota(FakeBackend):
    async def update_container(self, container_id: ContainerId, resources: Resources) -> None:
        own = self._container(container_id).resources
        await super().update_container(container_id, attrs.evolve(resources, cpu_quota=own.cpu_quota))


class Untimed(FakeBackend):
    async def container_usage(self, container_id: ContainerId) -> ContainerUsage:
        self._container(container_id)
        return ContainerUsage()


class AfterARestart(FakeBackend):
    """A fake that `restart` is called on when it was built again."""

    def restart(self) -> None:
        raise NotImplementedError


class LosesOutput(AfterARestart):
    def restart(self) -> None:
        for container in self.containers.values():
            if container.work is not None:
                container.work.cancel()
            if container.spec.argv[0] == "later":
                container.end(Exit(code=int(container.spec.argv[-1])))


class EndsAll(AfterARestart):
    def restart(self) -> None:
        for container in self.containers.values():
            if container.state is ContainerState.RUNNING:
                container.end(Exit(code=137))


class ForgetsAll(AfterARestart):
    def restart(self) -> None:
        self.containers.clear()
        self.sandboxes.clear()


class ForgetsCreated(AfterARestart):
    def restart(self) -> None:
        for container_id in [key for key, value in self.containers.items() if value.state is ContainerState.CREATED]:
            del self.containers[container_id]


class ForgetsExits(AfterARestart):
    def restart(self) -> None:
        for container in self.containers.values():
            container.exit = None


class ForgetsStdin(AfterARestart):
    lost = False

    def restart(self) -> None:
        self.lost = True

    async def attach(self, container_id: ContainerId, io: ProcessIO) -> None:
        await super().attach(container_id, attrs.evolve(io, stdout=None) if self.lost else io)


class ForgetsExecs(AfterARestart):
    lost = False

    def restart(self) -> None:
        self.lost = True

    async def exec(self, container_id: ContainerId, spec: ExecSpec, io: ProcessIO) -> Exit:
        if self.lost:
            raise NotFound("process", container_id)
        return await super().exec(container_id, spec, io)


class RenewsNetworks(AfterARestart):
    def restart(self) -> None:
        self._inside = Mutated({Fact.NETWORK: "net:[1]"})


class MixesUp(AfterARestart):
    def restart(self) -> None:
        ended = asyncio.Event()
        for container in self.containers.values():
            container.ended = ended
            container.exit = container.exit or Exit(code=137)


class RevivesAll(AfterARestart):
    removed: dict[SandboxId, Any]

    async def remove_sandbox(self, sandbox_id: SandboxId) -> None:
        self.removed = {sandbox_id: self.sandboxes[sandbox_id]}
        await super().remove_sandbox(sandbox_id)

    def restart(self) -> None:
        self.sandboxes |= self.removed


class OneAtATime(FakeBackend):
    """A second container of a pod replaces the first one."""

    async def create_container(self, spec: ContainerSpec) -> ContainerCreated | None:
        for container in [*self.containers.values()]:
            if container.state is ContainerState.RUNNING and container.spec.sandbox.id == spec.sandbox.id:
                container.end(Exit(code=137))
        return await super().create_container(spec)


def on_the_node(_: ContainerSpec) -> str:
    return ""


def of_its_own(spec: ContainerSpec) -> str:
    return spec.id


def of_the_pod(spec: ContainerSpec) -> str:
    return spec.sandbox.id


def of_all(_: ContainerSpec) -> str:
    return "f" * 12


PRIVATE, SLAVE, SHARED = MountPropagation

MUTANTS: Final[Mapping[str, tuple[Maker, str]]] = {
    "pods are on the node's network": (owned(Fact.NETWORK, on_the_node), "pod_has_its_own_network"),
    "a network for each container": (owned(Fact.NETWORK, of_its_own), "containers_of_a_pod_share"),
    "one network for all pods": (owned(Fact.NETWORK, of_all), "pods_share_nothing"),
    "an IPC namespace for each container": (owned(Fact.IPC, of_its_own), "containers_of_a_pod_share"),
    "one IPC namespace for all pods": (owned(Fact.IPC, of_all), "pods_share_nothing"),
    "the pod's pid namespace is not shared": (owned(Fact.PROCESSES, of_its_own), "pid_namespace_can_be_the_pods"),
    "every container sees the node's processes": (owned(Fact.PROCESSES, on_the_node), "host_pid_is_shared"),
    "the host's network is not given": (owned(Fact.NETWORK, of_its_own), "host_network_is_the_nodes"),
    "the host name is the node's": (seeing({Fact.HOSTNAME: "node"}), "host_name_is_the_pods"),
    "the resolver is the node's": (lambda: FakeBackend(inside=NodesResolver()), "resolver_is_the_pods"),
    "the hosts are the image's": (lambda: FakeBackend(inside=HostsOfTheImage()), "files_of_the_kubelet_are_mounted"),
    "the folder is always /": (seeing(cwd="/"), "folder_is_given"),
    "the environment is empty": (seeing(env=EMPTY), "environment_is_given"),
    "everybody is root": (seeing(user=UserSpec()), "user_is_set"),
    "the group is always root's": (seeing({Fact.GROUP: "0"}), "user_is_set"),
    "supplemental groups are dropped": (seeing({Fact.GROUPS: "0"}), "supplemental_groups_are_set"),
    "no capability is dropped": (secured(capabilities=Capability()), "capabilities_are_changed"),
    "no capability is added": (lambda: FakeBackend(inside=NothingAdded()), "capabilities_are_changed"),
    "everything is privileged": (secured(privileged=True), "plain_containers_have_few_capabilities"),
    "nothing is privileged": (secured(privileged=False), "privileged_has_all_capabilities"),
    "the root can be written": (secured(readonly_rootfs=False), "root_is_read_only"),
    "the root cannot be written": (secured(readonly_rootfs=True), "root_is_read_only"),
    "privileges can be gained": (secured(no_new_privs=False), "no_new_privileges"),
    "seccomp is off": (secured(seccomp=None), "seccomp_filters"),
    "nothing is masked": (secured(masked_paths=()), "paths_are_masked"),
    "nothing is mounted": (lambda: FakeBackend(inside=Unmounted()), "mounts_are_there"),
    "read-only mounts can be written": (lambda: FakeBackend(inside=Writable()), "read_only_mounts_cannot_be_written"),
    "no memory limit": (seeing({Fact.MEMORY_LIMIT: "max"}), "memory_limit_is_set"),
    "limits do not change": (Unlimited, "limits_are_updated"),
    "a descriptor too many": (seeing({Fact.DESCRIPTORS: "5"}), "no_descriptor_is_inherited"),
    "no CPU quota": (seeing({Fact.CPU_QUOTA: "max 100000"}), "cpu_quota_is_set"),
    "the CPU period is the kernel's": (seeing({Fact.CPU_QUOTA: "50000 100000"}), "cpu_quota_is_set"),
    "every CPU may be used": (seeing({Fact.CPUS: "0-1"}), "cpus_are_limited"),
    "an OOM kill is any kill": (ExhaustionIsAKill, "exhausted_memory_is_the_reason"),
    "huge pages are not limited": (seeing({Fact.HUGEPAGE_LIMIT: "max"}), "hugepages_are_limited"),
    "unified is not written": (inside(Files({"/sys/fs/cgroup/pids.max": "max"})), "unified_is_written"),
    "oom_score_adj is the node's": (seeing({Fact.OOM_SCORE: "0"}), "oom_score_is_set"),
    "exec has the node's oom_score_adj": (seeing({Fact.OOM_SCORE: "0"}), "exec_has_the_oom_score"),
    "the IPC namespace is always the pod's": (owned(Fact.IPC, of_the_pod), "host_ipc_is_shared"),
    "every pod has the node's IPC namespace": (owned(Fact.IPC, on_the_node), "host_ipc_is_shared"),
    "the target's processes are not seen": (owned(Fact.PROCESSES, of_its_own), "target_has_its_pid_namespace"),
    "the target is the whole pod": (owned(Fact.PROCESSES, of_the_pod), "target_has_its_pid_namespace"),
    "the user namespace has another mapping": (
        inside(Files({"/proc/self/uid_map": "0 100000 65536"})),
        "user_namespace_is_mapped",
    ),
    "the user namespace has groups of the node": (
        inside(Files({"/proc/self/gid_map": "0 0 4294967295"})),
        "user_namespace_is_mapped",
    ),
    "sysctls are dropped": (inside(Files({"/proc/sys/kernel/msgmax": "8192"})), "sysctls_are_set"),
    "sysctls are the node's": (lambda: FakeBackend(inside=SysctlsOfAll()), "sysctls_are_set"),
    "groups of the image are added": (seeing({Fact.GROUPS: "5678 4321 50000"}), "groups_are_strict"),
    "no ambient capability": (
        secured(capabilities=Capability(add_capabilities=("NET_ADMIN",))),
        "ambient_capabilities_are_given",
    ),
    "read-only paths can be written": (secured(readonly_paths=()), "paths_are_read_only"),
    "every path is read-only": (secured(readonly_paths=("/tmp",)), "paths_are_read_only"),
    "seccomp filters the privileged": (inside(ConfinesThePrivileged()), "privileged_is_not_confined"),
    "paths are masked for the privileged": (inside(MasksForThePrivileged()), "privileged_is_not_confined"),
    "CPU limits do not change": (KeepsItsQuota, "cpu_quota_is_updated"),
    "the privileged have no devices": (secured(privileged=False), "privileged_has_all_devices"),
    "mount options are dropped": (
        inside(Files({"/proc/self/mountinfo": "2 1 0:1 / /data rw,relatime"})),
        "mount_options_are_applied",
    ),
    "mounts of the host are seen": (inside(Propagates(PRIVATE, SLAVE)), "private_mounts_are_apart"),
    "all mounts are shared": (inside(Propagates(PRIVATE, SHARED)), "private_mounts_are_apart"),
    "mounts of the host are not seen": (inside(Propagates(SLAVE, PRIVATE)), "mounts_of_the_host_reach_the_container"),
    "a slave is shared": (inside(Propagates(SLAVE, SHARED)), "mounts_of_the_host_reach_the_container"),
    "mounts of the container stay": (inside(Propagates(SHARED, SLAVE)), "mounts_of_the_container_reach_the_host"),
    "mounts of both sides are private": (inside(Propagates(SHARED, PRIVATE)), "mounts_of_the_container_reach_the_host"),
    "mounts below can be written": (inside(TopIsReadOnly()), "mounts_below_are_read_only"),
    "mounts below are always read-only": (inside(BelowIsReadOnly()), "mounts_below_are_read_only"),
    "volumes are nobody's": (inside(ShiftsOwners("owner")), "volumes_have_the_ids_of_the_pod"),
    "new files are the pod's user's": (inside(ShiftsOwners("own")), "volumes_have_the_ids_of_the_pod"),
    "no device is there": (seeing(devices=()), "devices_are_there"),
    "every device is there": (inside(AnyDevice()), "devices_are_there"),
    "permissions of devices are dropped": (inside(AnyAccess()), "devices_are_there"),
    "no variable of a CDI device": (inside(DropsEdits("env")), "cdi_devices_are_given"),
    "no mount of a CDI device": (inside(DropsEdits("mounts")), "cdi_devices_are_given"),
    "no node of a CDI device": (inside(DropsEdits("devices")), "cdi_devices_are_given"),
    "an unknown CDI device is nothing": (inside(AnyName()), "cdi_devices_are_given"),
    "no image is mounted": (seeing(mounts=()), "images_are_mounted"),
    "image mounts can be written": (inside(WritableImages()), "images_are_mounted"),
    "image_sub_path has no effect": (inside(WholeImages()), "images_are_mounted"),
    "a missing image_sub_path is nothing": (NoSubPathIsMissing, "images_are_mounted"),
    "AppArmor is off": (secured(apparmor=SecurityProfile(ProfileType.UNCONFINED)), "apparmor_confines"),
    "AppArmor cannot be turned off": (secured(apparmor=None), "apparmor_confines"),
    "AppArmor's Unconfined is refused": (lambda: RefusesProfiles(ProfileType.UNCONFINED), "apparmor_confines"),
    "AppArmor's default is refused": (lambda: RefusesProfiles(ProfileType.RUNTIME_DEFAULT), "apparmor_confines"),
    "the SELinux type is the node's": (secured(selinux_options=SELinuxOption(type="spc_t", level="s0")), "selinux_labels"),
    "stdin ends with its first client": (EndsStdin, "attach_keeps_stdin_open"),
    "close ends what the engine runs": (CloseEndsAll, "close_ends_what_needs_this_process"),
    "no terminal": (seeing({Fact.TERMINAL: "no"}), "terminal_is_given"),
    "exec runs in /": (lambda: ExecBesides(cwd="/"), "exec_has_the_folder"),
    "exec runs as root": (lambda: ExecBesides(user=UserSpec()), "exec_has_the_user"),
    "exec has no environment": (lambda: ExecBesides(env=EMPTY), "exec_has_the_environment"),
    "exec has no terminal": (ExecWithoutATerminal, "exec_has_a_terminal"),
    "exec runs on the node": (ExecOnTheNode, "exec_is_in_the_container"),
    "exec reads stdin once": (ExecReadsOnce, "exec_reads_all_of_stdin"),
    "exec writes one pipe of output": (ExecWritesOnePipe, "exec_writes_all_output"),
    "exec waits for what it left behind": (ExecWaitsForChildren, "exec_leaves_children_behind"),
    "exec always succeeds": (ExecAlwaysSucceeds, "exec_runs_beside"),
    "a cancelled exec ends the container": (ExecOutlivesItsRequest, "exec_is_killed_when_cancelled"),
    "exits are always 0": (AlwaysZero, "exit_codes_are_reported"),
    "an exit can be waited for once": (WaitsOnce, "wait_is_sticky"),
    "a missing program starts": (StartsAnything, "missing_program_fails_the_start"),
    "a container runs when it is created": (StartsAtCreation, "created_container_does_not_run"),
    "unknown sandboxes are stopped": (KnowsEverything, "unknown_ids_are_not_found"),
    "a removed sandbox stays": (RemovesNothing, "sandbox_lifecycle"),
    "SIGKILL does not end all": (IgnoresSigkill, "sigkill_ends_the_stubborn"),
    "a second container ends the first": (OneAtATime, "containers_are_apart"),
    "stderr is logged as stdout": (OneOutput, "output_is_logged"),
    "long lines are cut": (ShortLog, "long_output_is_complete"),
    "the log has no format": (PlainLog, "output_is_logged"),
    "the log is not reopened": (NeverReopens, "log_is_reopened"),
    "stdin_once has no effect": (KeepsStdin, "attach_closes_stdin_once"),
    "a client that leaves ends the container": (DetachEnds, "attach_joins_the_streams"),
    "a port leads nowhere": (ClosedPorts, "port_leads_to_the_pod"),
    "no port of the host is open": (lambda: FakeBackend(netns=NetnsSource.NONE), "host_port_leads_to_the_pod"),
    "a port of the host leads to another one": (lambda: OpensHostPorts(shift=1), "host_port_leads_to_the_pod"),
    "every port is open": (OpenPorts, "refused_port_is_unavailable"),
    "nothing is measured": (Untimed, "stats_are_measured"),
    "a restart loses output": (LosesOutput, "restart_loses_no_output"),
    "a restart ends what runs": (EndsAll, "restart_ends_nothing"),
    "a restart forgets everything": (ForgetsAll, "restart_ends_nothing"),
    "a restart forgets what was created": (ForgetsCreated, "restart_keeps_what_was_created"),
    "a restart forgets exits": (ForgetsExits, "restart_keeps_exits"),
    "a restart revives what was removed": (RevivesAll, "restart_revives_nothing"),
    "a restart mixes up exits": (MixesUp, "restart_keeps_containers_apart"),
    "a restart renews networks": (RenewsNetworks, "restart_keeps_the_pods_network"),
    "no exec after a restart": (ForgetsExecs, "restart_allows_execs"),
    "no output for clients after a restart": (ForgetsStdin, "restart_allows_attach"),
}
"""What is wrong with each mutant, how it is built, and the check that finds it."""

BY_NAME: Final = {name_of(check): check for check in CHECKS}


NODE: Final = Host(
    cgroup_v2=True,
    apparmor=True,
    apparmor_profiles=frozenset({"fake-default"}),
    selinux=True,
    devices=(DeviceNode(path="/dev/fuse", kind="c", major=10, minor=229),),
)
"""A machine that has everything that checks need of one."""


def examined(check: str, backend: FakeBackend, folder: Path, node: Host = NODE) -> Result:
    """Run one check on a fake that is built once, and told of each restart."""
    for name in ("state", "run", "scratch"):
        (folder / name).mkdir(parents=True)
    built: list[FakeBackend] = []

    async def make(_: BackendContext) -> Backend:
        if built and isinstance(backend, AfterARestart):
            backend.restart()
        built.append(backend)
        return backend

    context = BackendContext(
        state=folder / "state", runtime_state=folder / "run", clock=SystemClock(), namespaces=FakeNamespaces()
    )
    programs, scratch = FakePrograms(), folder / "scratch"
    under_test = Candidate(make=make, context=context, scratch=scratch, programs=programs, in_memory=True, node=node)
    return examine(BY_NAME[check], under_test, lambda world: not_claimed(BY_NAME[check], world))


NEED_ROOT: Final = frozenset({*map(name_of, VOLUME_FEATURES), "cdi_devices_are_given"})
"""The checks that mount on the host, look at owners of files there, or describe a CDI device to it."""


def rootly(value: str, check: str) -> Any:
    """A parameter, which is left out where its check needs root."""
    needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for mounts, owners of files, and /var/run/cdi")
    return pytest.param(value, marks=[needs_root] if check in NEED_ROOT else [])


@pytest.mark.parametrize("what", [rootly(what, check) for what, (_, check) in MUTANTS.items()])
def test_a_mutant_fails(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check fails, with the sentence of the contract."""
    monkeypatch.setattr(candidate, "TIMEOUT", 1.0)
    make, check = MUTANTS[what]
    with pytest.raises((AssertionError, TimeoutError, NotFound, InvalidArgument)) as caught:
        examined(check, make(), tmp_path / "mutant")
    assert any(note.startswith("the contract: ") for note in caught.value.__notes__)


@pytest.mark.parametrize("check", [rootly(check, check) for check in sorted({check for _, check in MUTANTS.values()})])
def test_the_fake_passes(check: str, tmp_path: Path) -> None:
    """The check passes on the fake that is not mutated, so that it is the mutation that it finds."""
    faithful = OpensHostPorts() if check == "host_port_leads_to_the_pod" else FakeBackend()
    assert Result(Grade.PASSED) == examined(check, faithful, tmp_path / "fake")


def test_no_profile_on_the_node(tmp_path: Path) -> None:
    """On a node without AppArmor profiles a refused RuntimeDefault leaves the check out, and a refused Unconfined fails it."""
    node = attrs.evolve(NODE, apparmor_profiles=frozenset())
    result = examined("apparmor_confines", RefusesProfiles(ProfileType.RUNTIME_DEFAULT), tmp_path / "default", node)
    assert Grade.LEFT_OUT is result.grade
    with pytest.raises(InvalidArgument):
        examined("apparmor_confines", RefusesProfiles(*ProfileType), tmp_path / "both", node)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for mounts")
def test_no_rights_on_the_node(tmp_path: Path) -> None:
    """Where the node lacks capabilities a check is left out if no privileged container runs, and fails if another one runs."""
    node, check = attrs.evolve(NODE, bounding=frozenset()), "mounts_of_the_container_reach_the_host"
    result = examined(check, RefusesPrivileged(shared=False), tmp_path / "all", node)
    assert Grade.LEFT_OUT is result.grade
    with pytest.raises(FailedPrecondition):
        examined(check, RefusesPrivileged(shared=True), tmp_path / "shared", node)


def test_no_group_in_the_image(tmp_path: Path) -> None:
    """Where the image has no further group of the user, the policy Strict cannot be seen, and its check is left out."""
    assert Grade.LEFT_OUT is examined("groups_are_strict", seeing({Fact.GROUPS: "5678 4321"})(), tmp_path / "fake").grade


def test_every_feature_is_looked_at() -> None:
    """Each feature has a check for backends that claim it and a refusal for others.

    Changes of config.json come from plugins of the node, and image volumes from an image service, which the exam does not have.
    """
    requested = {feature for feature, _ in (*REQUESTS, *SANDBOX_REQUESTS)}
    assert {Feature.OCI_CHANGES} == set(Feature) - set(FEATURES.values())
    assert {Feature.OCI_CHANGES, Feature.IMAGE_MOUNTS} == set(Feature) - requested


def test_forty_at_least() -> None:
    """The mutants are many, and no two are the same."""
    assert len(MUTANTS) >= 40
    assert len({id(make) for make, _ in MUTANTS.values()}) == len(MUTANTS)
