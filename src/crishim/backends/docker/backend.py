"""The ten verbs over the Docker Engine API.

A sandbox is a pause container, named by its id; containers are named by their ids and join it. The engine stores all state:
labels mark and find what belongs to this backend, and what is needed of a container is read from its inspect once.

A call that changes something is never interrupted (see `engine.Calls`): a removal finds what a cancelled creation has created.
"""

import asyncio
import contextlib
import hashlib
import json
import shutil
from typing import Any, Final

import attrs

from crishim.backends.docker.convert import Found, Maker, container_body, limits, sandbox_body, supported
from crishim.backends.docker.engine import Calls, Conflict, Engine
from crishim.backends.docker.image_files import ImageFiles, PauseImage
from crishim.backends.docker.logs import Logs
from crishim.backends.docker.observed import (
    CONTAINER_KIND,
    HELPER_KIND,
    KIND,
    OWNER,
    SANDBOX_KIND,
    Known,
    addresses_of,
    container_of,
    exit_of,
    exit_of_event,
    known_of,
    labels_of,
    name_of,
    netns_of,
    pid_of,
    runs,
)
from crishim.backends.docker.options import EngineFacts, Options
from crishim.backends.docker.streams import ContainerStreams
from crishim.backends.docker.usage import Usages, write_unified
from crishim.backends.docker.watch import Event, EventWatch
from crishim.cni.network import SetnsDialer
from crishim.errors import AlreadyExists, CrishimError, FailedPrecondition, NotFound, PullError, PullReason
from crishim.interfaces.backend import Backend, BackendContext, BackendInfo, NetnsSource
from crishim.interfaces.capabilities import (
    ByteStream,
    ProcessIO,
    SupportsAttach,
    SupportsExec,
    SupportsLogReopen,
    SupportsPause,
    SupportsPortForward,
    SupportsSandboxUpdate,
    SupportsSandboxWait,
    SupportsStats,
    SupportsUpdate,
)
from crishim.linux import processes
from crishim.linux.namespaces import is_network_namespace
from crishim.linux.pins import pin, unpin
from crishim.model.container import ContainerCreated, ContainerSpec, Inventory
from crishim.model.process import ExecSpec, Exit
from crishim.model.resources import Resources
from crishim.model.runtime import RuntimeHandlerFeatures
from crishim.model.sandbox import ObservedSandbox, SandboxSpec, SandboxStarted
from crishim.model.stats import ContainerUsage, SandboxUsage
from crishim.model.values import ContainerId, FrozenDict, SandboxId
from crishim.oci.facts import BindSource
from crishim.oci.users import resolve_user
from crishim.pods import sources
from crishim.pods.host import host as this_machine

_AT_ONCE: Final = 16
"""Inspects that an inventory runs concurrently."""

_PAUSE: Final = 0.05
"""Seconds between two checks of a removal that is already under way in the engine."""


class DockerBackend(
    Backend,
    SupportsExec,
    SupportsAttach,
    SupportsPortForward,
    SupportsSandboxWait,
    SupportsStats,
    SupportsUpdate,
    SupportsSandboxUpdate,
    SupportsLogReopen,
    SupportsPause,
):
    """Pods on one engine. `disconnect` closes the connections to it; containers keep running."""

    def __init__(self, context: BackendContext, options: Options) -> None:
        self._clock = context.clock
        self._options = options
        self._owner = hashlib.sha256(str(context.state).encode()).hexdigest()[:16]
        self._volumes = context.state / "image-volumes"
        self._pins = context.runtime_state / "netns"
        self._engine = Engine(options.socket)
        self._facts: EngineFacts | None = None
        self._host = this_machine()
        self._pause = PauseImage(self._engine, options)
        self._files = ImageFiles(self._engine)
        self._watch = EventWatch(self._engine, self._clock, self._owner)
        self._logs = Logs(self._engine, self._clock, context.state / "logged", options.log_bytes)
        self._streams = ContainerStreams(self._engine, self._clock)
        self._dialer = SetnsDialer()
        self._usages = Usages(self._clock)
        self._known: dict[str, Known] = {}
        self._calls = Calls()

    async def probe(self) -> BackendInfo:
        facts = self._facts = await self._engine.probe()
        if self._options.runtime and self._options.runtime not in facts.runtimes:
            raise FailedPrecondition("missing", "configured", f"the engine's runtime {self._options.runtime!r}")
        return BackendInfo(
            name="docker",
            version=facts.version,
            netns=NetnsSource.BACKEND if self._options.cni else NetnsSource.NONE,
            supported=supported(facts),
            features=RuntimeHandlerFeatures(recursive_read_only_mounts=facts.recursive_readonly),
        )

    async def inventory(self) -> Inventory:
        """One labelled list, and an inspect for each container. Logs are followed again, and completed for exited
        containers.
        """
        filters = json.dumps({"label": [f"{OWNER}={self._owner}"]})
        listed = await self._engine.get("/containers/json", all=1, filters=filters)
        gate = asyncio.Semaphore(_AT_ONCE)
        inspected = [seen for seen in await asyncio.gather(*(self._look(row, gate) for row in listed)) if seen is not None]
        kinds = [(labels_of(seen).get(KIND), seen) for seen in inspected]
        for seen in (seen for kind, seen in kinds if kind == HELPER_KIND):
            await self._discard(name_of(seen))
        containers = [seen for kind, seen in kinds if kind == CONTAINER_KIND]
        await asyncio.gather(*(self._follow_again(seen) for seen in containers))
        pods = [seen for kind, seen in kinds if kind == SANDBOX_KIND]
        return Inventory(
            sandboxes=tuple(ObservedSandbox(id=SandboxId(name_of(seen)), ready=runs(seen)) for seen in pods),
            containers=tuple(container_of(seen) for seen in containers),
        )

    async def start_sandbox(self, spec: SandboxSpec) -> SandboxStarted:
        """Create and start the pause container."""
        body = sandbox_body(spec, self._pause.name, await self._maker())
        await self._calls.run(spec.id, lambda: self._start_pause(spec.id, body))
        if spec.host_network:
            return SandboxStarted()
        inspected = await self._engine.inspect(spec.id, "sandbox")
        self._known[spec.id] = known_of(inspected)
        return (
            SandboxStarted(netns=await self._netns(inspected))
            if self._options.cni
            else SandboxStarted(ips=addresses_of(inspected))
        )

    async def stop_sandbox(self, sandbox_id: SandboxId) -> None:
        """Kill the pause container, which needs no grace period."""
        await self._calls.settled(sandbox_id)
        with contextlib.suppress(Conflict):  # it is not running
            await self._engine.post(f"/containers/{sandbox_id}/kill", "sandbox", sandbox_id, signal="KILL")

    async def remove_sandbox(self, sandbox_id: SandboxId) -> None:
        self._known.pop(sandbox_id, None)
        await asyncio.to_thread(unpin, self._pins / sandbox_id)
        await self._remove(sandbox_id, "sandbox")

    async def create_container(self, spec: ContainerSpec) -> ContainerCreated:
        """Look up what the container needs, and create it in the engine."""
        maker = await self._maker()
        users = await self._files.users(spec.image_id, maker)
        user = resolve_user(spec.user, users.passwd, users.group)
        lookups = Found(user=user, sources=await self._sources(spec, maker), profiles=sources.profiles(spec))
        sources.devices(spec)  # a missing device is refused here, instead of failing the start
        body = container_body(spec, maker, lookups)
        engine_id = await self._calls.run(spec.id, lambda: self._create(spec.id, body))
        self._known[spec.id] = Known(
            engine_id=engine_id,
            parent=body["HostConfig"]["CgroupParent"],
            sandbox=spec.sandbox.id,
            log=spec.log_path,
            tty=spec.tty,
            unified=spec.resources.unified,
        )
        return ContainerCreated(user=user)

    async def start_container(self, container_id: ContainerId) -> None:
        known = await self._know(container_id)
        self._logs.prepare(container_id, known.log, tty=known.tty)
        await self._calls.run(container_id, lambda: self._start(container_id, known))

    async def kill_container(self, container_id: ContainerId, signal: int) -> None:
        await self._calls.settled(container_id)
        try:
            await self._engine.post(f"/containers/{container_id}/kill", "container", container_id, signal=signal)
        except Conflict as error:
            raise NotFound("process of container", container_id) from error

    async def wait_container(self, container_id: ContainerId) -> Exit:
        """The exit status from the engine, when the log is complete."""
        end = await self._end_of(container_id, "container")
        await self._logs.finished(container_id)
        return end

    async def remove_container(self, container_id: ContainerId) -> None:
        """Remove the container with its anonymous volumes and its unpacked image volumes, also if it was removed from the
        engine already.
        """
        try:
            await self._remove(container_id, "container")
        except NotFound:
            await self._forget(container_id)
            raise
        await self._forget(container_id)

    async def wait_sandbox(self, sandbox_id: SandboxId) -> Exit:
        """The exit of the pause container."""
        return await self._end_of(sandbox_id, "sandbox")

    async def exec(self, container_id: ContainerId, spec: ExecSpec, io: ProcessIO) -> Exit:
        return await self._streams.exec(container_id, spec, io)

    async def attach(self, container_id: ContainerId, io: ProcessIO) -> None:
        await self._streams.attach(container_id, io)

    async def dial(self, sandbox_id: SandboxId, port: int) -> ByteStream:
        """Dial in the pod's network namespace."""
        inspected = await self._engine.inspect(sandbox_id, "sandbox")
        if not runs(inspected):
            raise FailedPrecondition("stopped", "ready", f"sandbox {sandbox_id}")
        host_network = inspected["HostConfig"].get("NetworkMode") == "host"
        return await self._dialer.dial("" if host_network else await self._netns(inspected), port)

    async def reopen_log(self, container_id: ContainerId) -> None:
        await self._know(container_id)
        self._logs.reopen(container_id)

    async def update_container(self, container_id: ContainerId, resources: Resources) -> None:
        """Update limits; the engine applies all of an update or nothing."""
        known = await self._know(container_id)
        await self._engine.post(f"/containers/{container_id}/update", "container", container_id, limits(resources))
        await asyncio.to_thread(write_unified, known, resources.unified, await self._engine_facts())
        self._known[container_id] = attrs.evolve(known, unified=resources.unified)

    async def update_sandbox(self, sandbox_id: SandboxId, overhead: Resources | None, resources: Resources | None) -> None:
        """Do nothing: the kubelet has written the pod's cgroup, which is the parent of the pod's containers."""

    async def pause_container(self, container_id: ContainerId) -> None:
        await self._engine.post(f"/containers/{container_id}/pause", "container", container_id)

    async def resume_container(self, container_id: ContainerId) -> None:
        await self._engine.post(f"/containers/{container_id}/unpause", "container", container_id)

    async def container_usage(self, container_id: ContainerId) -> ContainerUsage:
        """The usage of its cgroup, and of its writable layer."""
        known = await self._know(container_id)
        if known.upper is None:  # the response to a creation does not have it
            known = self._known[container_id] = known_of(await self._engine.inspect(container_id))
        return await self._usages.container(container_id, known, await self._engine_facts())

    async def sandbox_usage(self, sandbox_id: SandboxId) -> SandboxUsage:
        """The usage of the pod's cgroup and of its network namespace."""
        pod = await self._know(sandbox_id, "sandbox")
        members = [known for known in self._known.values() if known.sandbox == sandbox_id]
        return await self._usages.sandbox(pod, members, await self._engine_facts())

    async def disconnect(self) -> None:
        """Close all connections to the engine and end the background tasks."""
        await self._watch.close()
        self._logs.close()
        self._engine.close()

    async def _maker(self) -> Maker:
        return Maker(facts=await self._engine_facts(), host=self._host, options=self._options, owner=self._owner)

    async def _engine_facts(self) -> EngineFacts:
        if self._facts is None:
            self._facts = await self._engine.probe()
        return self._facts

    async def _netns(self, inspected: dict[str, Any]) -> str:
        """The engine's own pin of a pause container's network namespace; if that is in another mount namespace, one of ours.

        A pid from an inspect is certainly still the pause container's if a later inspect has the same one.
        """
        name = name_of(inspected)
        file = self._pins / name
        for path in (netns_of(inspected), str(file)):
            if is_network_namespace(path):
                return path
        process = processes.read(pid_of(inspected))
        again = await self._engine.inspect(name, "sandbox")
        await asyncio.to_thread(file.parent.mkdir, mode=0o700, parents=True, exist_ok=True)
        same = process is not None and process.pid == pid_of(again)
        if process is None or not same or not await asyncio.to_thread(pin, process.identity, "net", file):
            raise FailedPrecondition("stopped", "ready", f"sandbox {name}")
        return str(file)

    async def _know(self, subject: str, kind: str = "container") -> Known:
        """The stored properties of a container. Raises `NotFound`."""
        known = self._known.get(subject)
        if known is None:
            known = self._known[subject] = known_of(await self._engine.inspect(subject, kind))
        return known

    async def _look(self, row: dict[str, Any], gate: asyncio.Semaphore) -> dict[str, Any] | None:
        async with gate:
            try:
                seen = await self._engine.inspect(row["Id"])
            except NotFound:  # it was removed meanwhile
                return None
        self._known[name_of(seen)] = known_of(seen)
        return seen

    async def _follow_again(self, seen: dict[str, Any]) -> None:
        container_id, known = ContainerId(name_of(seen)), known_of(seen)
        ended = exit_of(seen) is not None
        if ended or runs(seen):
            self._logs.follow(container_id, known.log, tty=known.tty)
        if ended:
            await self._logs.finished(container_id)

    async def _create(self, name: str, body: dict[str, Any]) -> str:
        try:
            created = await self._engine.post("/containers/create", "image", body["Image"], body, name=name)
        except Conflict as error:
            raise AlreadyExists("container", name) from error
        return str(created["Id"])

    async def _start_pause(self, sandbox_id: SandboxId, body: dict[str, Any]) -> None:
        try:
            await self._create(sandbox_id, body)
        except NotFound:
            await self._pause.make()
            await self._create(sandbox_id, body)
        await self._engine.post(f"/containers/{sandbox_id}/start", "sandbox", sandbox_id)

    async def _start(self, container_id: ContainerId, known: Known) -> None:
        try:
            await self._engine.post(f"/containers/{container_id}/start", "container", container_id)
        except BaseException:
            self._logs.forget(container_id)
            raise
        self._logs.follow(container_id, known.log, tty=known.tty)
        if known.unified:
            await asyncio.to_thread(write_unified, known, known.unified, await self._engine_facts())

    async def _end_of(self, subject: str, kind: str) -> Exit:
        async def look(event: Event) -> Exit | None:
            try:
                return exit_of(await self._engine.inspect(subject, kind))
            except NotFound:
                if (end := exit_of_event(event)) is not None:
                    return end
                raise

        return await self._watch.until(subject, look)

    async def _remove(self, subject: str, kind: str) -> None:
        try:
            path = f"/containers/{subject}"
            await self._calls.run(subject, lambda: self._engine.delete(path, kind, subject, force=1, v=1))
        except Conflict:  # it is being removed already
            with contextlib.suppress(NotFound):
                while True:
                    await self._engine.inspect(subject, kind)
                    await self._clock.sleep(_PAUSE)

    async def _forget(self, container_id: ContainerId) -> None:
        self._known.pop(container_id, None)
        self._logs.forget(container_id)
        self._usages.forget(container_id)
        await asyncio.to_thread(shutil.rmtree, self._volumes / container_id, ignore_errors=True)

    async def _discard(self, name: str) -> None:
        with contextlib.suppress(CrishimError):
            await self._engine.delete(f"/containers/{name}", "container", name, force=1, v=1)

    async def _sources(self, spec: ContainerSpec, maker: Maker) -> FrozenDict[str, BindSource]:
        """The mounts' sources by container path; the content of image volumes is unpacked for this container."""
        bound = dict(await asyncio.to_thread(sources.bind_sources, spec))
        for number, mount in enumerate(spec.mounts):
            if mount.image is None or not mount.image.image:
                continue
            if mount.host_path:
                raise PullError(PullReason.IMAGE_VOLUME_MOUNT_FAILED, f"config.mounts[{number}] has an image and a host path")
            # The image may have setuid programs, which must not work for users of this machine.
            await asyncio.to_thread(self._volumes.mkdir, mode=0o700, parents=True, exist_ok=True)
            target = self._volumes / spec.id / str(number)
            await self._files.unpack(mount.image.image_ref or mount.image.image, target, maker)
            bound[mount.container_path] = sources.image_source(target, mount.image_sub_path)
        return FrozenDict(bound)
