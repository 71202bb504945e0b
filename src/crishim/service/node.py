"""RPCs about the node: version, status, configuration, images, checkpoints of pods, and gauges for metrics."""

import contextlib
import json
import logging
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence

import attrs

from crishim.errors import AlreadyExists, Code, CrishimError, FailedPrecondition, InvalidArgument, NotFound, Unimplemented
from crishim.interfaces.capabilities import SupportsCheckpoint, SupportsLeftovers, SupportsPause
from crishim.interfaces.seats import ImageService, NetworkReady
from crishim.lifecycle.records import unstructure
from crishim.lifecycle.states import ContainerAct, container_after
from crishim.model.container import CheckpointOrigin, ContainerState, ContainerStatus
from crishim.model.features import Feature
from crishim.model.image import AuthConfig, Image, ImageDetail, ImageFsInfo, ImageSpec
from crishim.model.runtime import (
    CgroupDriver,
    PodCheckpoint,
    RestoredPod,
    RestorePod,
    RuntimeCondition,
    RuntimeFeatures,
    RuntimeHandler,
    RuntimeHandlerFeatures,
    RuntimeStatus,
    Version,
)
from crishim.model.sandbox import PodSandboxConfig, PodSandboxState
from crishim.model.values import EMPTY, ContainerId, FrozenDict, ImageId, SandboxId
from crishim.service.backends import BackendHandle
from crishim.service.containers import Containers
from crishim.service.core import Core
from crishim.service.entries import ContainerEntry, SandboxEntry
from crishim.service.sandboxes import Sandboxes

__all__ = ["Gauges"]

_log = logging.getLogger(__name__)


@attrs.frozen(kw_only=True)
class Gauges:
    """The listed sandboxes and containers by state, every state included; whether the backends of each name can be reached.

    `set_aside`: invalid records; `unrecorded`: pods of a backend without a record; `leftovers`: pods with resources that could
    not be freed.
    """

    sandboxes: Mapping[PodSandboxState, int]
    containers: Mapping[ContainerState, int]
    backends: Mapping[str, bool]
    set_aside: int = 0
    unrecorded: int = 0
    leftovers: int = 0


def count_gauges(core: Core) -> Gauges:
    """Count. Sandboxes and containers under creation are not listed and not counted."""
    sandboxes = Counter(entry.state for entry in core.table.sandboxes.values())
    containers = Counter(entry.state for entry in core.table.containers.values())
    problems: dict[str, list[str]] = {}
    for handle in core.backends.handles:
        problems.setdefault(handle.name, []).append(handle.problem)
    return Gauges(
        sandboxes=FrozenDict({state: sandboxes[state] for state in PodSandboxState}),
        containers=FrozenDict({state: containers[state] for state in ContainerState}),
        set_aside=len(core.table.set_aside),
        unrecorded=len(core.table.unrecorded),
        leftovers=len(leftovers_of(core)),
        backends=FrozenDict({name: not any(handles) for name, handles in problems.items()}),
    )


def leftovers_of(core: Core) -> Mapping[SandboxId, Sequence[str]]:
    """The resources of ended pods that the backends could not free, by sandbox."""
    found: dict[SandboxId, Sequence[str]] = {}
    for handle in core.backends.handles:
        if SupportsLeftovers in handle.capabilities:
            found |= handle.require(SupportsLeftovers).leftovers()
    return found


class Runtime:
    """The runtime verbs of CRI."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.pod_cidr = ""

    async def version(self, version: str) -> Version:
        """Our name and version. The client's version is ignored, as in containerd and CRI-O."""
        del version
        return Version(runtime_name=self._core.settings.runtime_name, runtime_version=self._core.settings.runtime_version)

    async def status(self, verbose: bool) -> RuntimeStatus:
        """RuntimeReady, NetworkReady, and the features of each handler.

        RuntimeReady is false if the default handler's backend, or one that has pods, cannot be reached. An optional handler
        that is unavailable does not make the node unready: it is named in the verbose info.
        """
        problems = {handle.handlers: handle.problem for handle in self._needed() if handle.problem}
        message = "; ".join(f"{'/'.join(name or 'default' for name in names)}: {why}" for names, why in problems.items())
        runtime = RuntimeCondition(
            type="RuntimeReady", status=not problems, reason="BackendNotReady" if problems else "", message=message
        )
        network = await self._network()
        return RuntimeStatus(
            conditions=(runtime, network),
            handlers=self._handlers(),
            features=self._features(),
            info=self._info() if verbose else EMPTY,
        )

    async def update_config(self, pod_cidr: str) -> None:
        """Pass the node's pod CIDR to the network."""
        self.pod_cidr = pod_cidr

    async def config(self) -> CgroupDriver:
        """The cgroup driver. Raises `Unimplemented` if none is configured: the kubelet then uses its own flag."""
        driver = self._core.settings.cgroup_driver
        if driver is None:
            raise Unimplemented("cgroup_driver", "no cgroup driver is configured")
        return driver

    def _needed(self) -> list[BackendHandle]:
        used = {entry.record.handler for entry in self._core.table.sandboxes.values()}
        return [handle for handle in self._core.backends.handles if {"", *used} & set(handle.handlers)]

    async def _network(self) -> RuntimeCondition:
        network = self._core.network
        try:
            ready = NetworkReady(ready=True) if network is None else await self._core.network_step("network", network.ready())
        except CrishimError as error:
            ready = NetworkReady(ready=False, message=error.message)
        return RuntimeCondition(
            type="NetworkReady",
            status=ready.ready,
            reason="" if ready.ready else ready.reason or "NetworkPluginNotReady",
            message="" if ready.ready else f"Network plugin returns error: {ready.message}",
        )

    def _handlers(self) -> tuple[RuntimeHandler, ...]:
        listed = []
        for name, handle in self._core.backends.handlers.items():
            info = handle.known_info
            listed.append(RuntimeHandler(name=name, features=info.features if info else RuntimeHandlerFeatures()))
        return tuple(listed)

    def _features(self) -> RuntimeFeatures:
        supported = [handle.known_info.supported for handle in self._core.backends.handles if handle.known_info]
        everywhere = frozenset.intersection(*supported) if supported else frozenset()
        return RuntimeFeatures(
            supplemental_groups_policy=Feature.STRICT_GROUPS in everywhere,
            mount_options=Feature.MOUNT_OPTIONS in everywhere,
        )

    def _info(self) -> FrozenDict[str, str]:
        backends = {
            "/".join(handle.handlers) or "default": {
                "name": handle.known_info.name if handle.known_info else "",
                "version": handle.known_info.version if handle.known_info else "",
                "problem": handle.problem,
                "capabilities": sorted(capability.__name__ for capability in handle.capabilities),
                "supported": sorted(handle.known_info.supported) if handle.known_info else [],
                "details": dict(handle.known_info.details) if handle.known_info else {},
            }
            for handle in self._core.backends.handles
        }
        info = {
            "settings": unstructure(self._core.settings),
            "backends": backends,
            "podCIDR": self.pod_cidr,
            "setAside": dict(self._core.table.set_aside),
            "unrecorded": sorted(self._core.table.unrecorded),
            "leftovers": {sandbox_id: list(left) for sandbox_id, left in leftovers_of(self._core).items()},
        }
        return FrozenDict({"config": json.dumps(info)})


class Images:
    """CRI's ImageService."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def list(self, wanted: ImageSpec | None) -> tuple[Image, ...]:
        """All images, or the one that the filter names; empty without an image service."""
        images = self._find(wanted)
        if images is None:
            return ()
        if wanted is None or not wanted.image:
            return await self._core.image_step("image list", images.list())
        detail = await self._core.image_step("image status", images.status(wanted))
        return () if detail is None else (detail.image,)

    async def status(self, wanted: ImageSpec, verbose: bool) -> ImageDetail | None:
        """One image, or None: an unknown image is no error (CRI, ImageStatus)."""
        images = self._find(wanted)
        detail = None if images is None else await self._core.image_step("image status", images.status(wanted))
        return detail if verbose or detail is None else attrs.evolve(detail, info=EMPTY)

    async def pull(self, wanted: ImageSpec, auth: AuthConfig | None, sandbox: PodSandboxConfig | None) -> ImageId:
        """Pull an image, and return its id."""
        if not wanted.image:
            raise InvalidArgument("image.image", "is empty")
        work = self._service(wanted).pull(wanted, auth, sandbox)
        begin, code = self._core.clock.monotonic(), Code.CANCELLED
        try:
            image_id = await self._core.image_step("image pull", work, forever=True)
            code = Code.OK
        except CrishimError as error:
            code = error.code
            raise
        finally:
            self._core.observer.pull_ended(code, self._core.clock.monotonic() - begin)
        return image_id

    async def remove(self, wanted: ImageSpec) -> None:
        """Remove an image with all its tags. An unknown image is no error."""
        if (images := self._find(wanted)) is not None:
            await self._core.image_step("image removal", images.remove(wanted))

    async def fs_info(self) -> ImageFsInfo:
        """The usage of the default handler's image store."""
        return await self._core.image_step("image fs info", self._service(None).fs_info())

    def _find(self, wanted: ImageSpec | None) -> ImageService | None:
        handler = wanted.runtime_handler if wanted else ""
        if handler:
            self._core.backends.get(handler)
        return self._core.image_service(handler)

    def _service(self, wanted: ImageSpec | None) -> ImageService:
        images = self._find(wanted)
        if images is None:
            raise Unimplemented("images", "this runtime has no image service")
        return images


def archive(folder: str, name: str) -> str:
    """The path of a container's archive in a pod's checkpoint folder."""
    return posixpath.join(folder, f"{name}.tar")


class Pods:
    """The verbs for whole pods."""

    def __init__(self, core: Core, sandboxes: Sandboxes, containers: Containers) -> None:
        self._core = core
        self._sandboxes = sandboxes
        self._containers = containers

    async def checkpoint(
        self, sandbox_id: SandboxId, output_path: str, container_ids: tuple[ContainerId, ...], options: FrozenDict[str, str]
    ) -> None:
        """Pause the containers (all running ones if none is named), write an archive of each below `output_path`, resume them.

        The manifest is written last: without it the folder is no checkpoint. Unknown options are refused (CRI,
        CheckpointPodRequest.options); there are no known ones. Raises `AlreadyExists` if the folder has a checkpoint.
        """
        _refuse(options)
        sandbox = self._core.table.sandbox(sandbox_id)
        handle = self._core.handle(sandbox)
        writer, pauser = handle.require(SupportsCheckpoint), handle.require(SupportsPause)
        entries = self._chosen(sandbox, container_ids)
        deadline = self._core.settings.deadlines.create_container
        with contextlib.suppress(NotFound):
            await handle.call("read_pod_checkpoint", writer.read_pod_checkpoint(output_path))
            raise AlreadyExists("checkpoint", output_path)
        async with contextlib.AsyncExitStack() as paused:
            for entry in entries:
                await paused.enter_async_context(entry.operations.lock)
                paused.push_async_callback(self._resume, handle, pauser, entry.id)  # a failed pause may have taken effect
                await handle.call("pause_container", pauser.pause_container(entry.id))
            for entry in entries:
                path = archive(output_path, entry.record.config.metadata.name)
                writing = writer.checkpoint(entry.id, path, entry.status(), sandbox.status().ips)
                await handle.call("checkpoint", writing, deadline)
        checkpoint = PodCheckpoint(
            sandbox_id=sandbox.id,
            metadata=sandbox.record.config.metadata,
            containers=tuple(_origin(entry.status()) for entry in entries),
        )
        await handle.call("write_pod_checkpoint", writer.write_pod_checkpoint(output_path, checkpoint))

    def _chosen(self, sandbox: SandboxEntry, container_ids: tuple[ContainerId, ...]) -> list[ContainerEntry]:
        """The containers of a checkpoint, in the order in which their locks must be taken."""
        entries = [self._core.table.container(container_id) for container_id in set(container_ids)]
        for entry in entries:
            if entry.sandbox is not sandbox:
                raise InvalidArgument("container_ids", f"{entry.id} is not in this sandbox")
            container_after(entry.state, ContainerAct.CHECKPOINT, f"container {entry.id}")
        if not entries:
            entries = [entry for entry in sandbox.containers.values() if entry.state is ContainerState.RUNNING]
        if len({entry.record.config.metadata.name for entry in entries}) < len(entries):
            raise InvalidArgument("container_ids", "two of the containers have the same name")
        return sorted(entries, key=lambda entry: entry.id)

    async def restore(self, request: RestorePod) -> RestoredPod:
        """Create a pod from a checkpoint; its containers are CREATED, and continue from the dump when they are started."""
        _refuse(request.options)
        handle = self._core.backends.get(request.handler)
        reading = handle.require(SupportsCheckpoint).read_pod_checkpoint(request.checkpoint_path)
        known = {origin.name for origin in (await handle.call("read_pod_checkpoint", reading)).containers}
        for place, config in enumerate(request.container_configs):
            if config.metadata.name not in known:
                raise InvalidArgument(f"container_configs[{place}].metadata.name", "names no container of the checkpoint")
        sandbox_id = await self._sandboxes.run(request.config, request.handler)
        restored = []
        try:
            for config in request.container_configs:
                path = archive(request.checkpoint_path, config.metadata.name)
                restored.append((config.metadata.name, await self._containers.restore(sandbox_id, config, path)))
        except BaseException:
            await self._sandboxes.remove(sandbox_id)
            raise
        return RestoredPod(sandbox_id=sandbox_id, containers=tuple(restored))

    async def _resume(self, handle: BackendHandle, pauser: SupportsPause, container_id: ContainerId) -> None:
        try:
            await handle.call("resume_container", pauser.resume_container(container_id))
        except (NotFound, FailedPrecondition) as error:
            _log.debug("container %s needs no resume after its checkpoint: %s", container_id, error)


def _origin(status: ContainerStatus) -> CheckpointOrigin:
    return CheckpointOrigin(name=status.metadata.name, image=status.image.image, image_ref=status.image_ref)


def _refuse(options: FrozenDict[str, str]) -> None:
    for name in options:
        raise InvalidArgument(f"options[{name}]", "is not known")
