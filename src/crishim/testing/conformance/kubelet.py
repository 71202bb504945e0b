"""Requests as the kubelet sends them, to a service over the backend under test."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

import attrs

from crishim.config import Deadlines
from crishim.interfaces.backend import Backend
from crishim.lifecycle.features import USUAL_PATHS
from crishim.model.container import (
    ContainerConfig,
    ContainerMetadata,
    ContainerState,
    ContainerStatus,
    KeyValue,
    LinuxContainerConfig,
    Mount,
)
from crishim.model.image import ImageSpec
from crishim.model.resources import HugepageLimit, Resources
from crishim.model.sandbox import PodSandboxConfig
from crishim.model.security import (
    LinuxContainerSecurityContext,
    NamespaceMode,
    NamespaceOption,
    ProfileType,
    SecurityProfile,
    UserNamespace,
)
from crishim.model.values import ContainerId, FrozenDict, SandboxId
from crishim.service.backends import Settings
from crishim.service.services import Services
from crishim.testing.conformance.candidate import MARK, World, patiently
from crishim.testing.conformance.logs import read_lines


class Kubelet:
    """A service over the backend, and the requests of a kubelet. `backend` may be the world's with a fault around it."""

    def __init__(self, world: World, services: Services) -> None:
        self.world = world
        self.services = services
        self._number = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def over(
        cls, world: World, *, backend: Backend | None = None, deadlines: Deadlines | None = None
    ) -> AsyncIterator[Self]:
        """A kubelet of a backend, for the duration of the `async with`; its pods are removed at the end."""
        settings = Settings(runtime_version="0.0.0", deadlines=deadlines or Deadlines())
        namespaces = world.candidate.context.namespaces
        async with Services(backends={"": backend or world.backend}, namespaces=namespaces, settings=settings) as services:
            kubelet = cls(world, services)
            try:
                yield kubelet
            finally:
                for sandbox_id in list(services.known_sandboxes()):
                    await services.sandboxes.remove(SandboxId(sandbox_id))

    async def pod(self, **changes: Any) -> SandboxId:
        """Run a sandbox, with the changes of `sandbox_config`."""
        return await self.services.sandboxes.run(self.sandbox_config(**changes), "")

    def sandbox_config(self, **changes: Any) -> PodSandboxConfig:
        """The configuration of a plain sandbox. `changes` are its sysctls, its port mappings, or parts of its security
        context.
        """
        config = self.world.sandbox_spec().config
        outer = {key: changes.pop(key) for key in ("port_mappings",) if key in changes}
        linux = {key: changes.pop(key) for key in ("sysctls",) if key in changes}
        context = attrs.evolve(config.linux.security_context, **changes)
        return attrs.evolve(config, **outer, linux=attrs.evolve(config.linux, **linux, security_context=context))

    def namespaces(self, **changes: Any) -> NamespaceOption:
        """The namespaces of a plain container, with these changes."""
        return attrs.evolve(self._security().namespace_options, **changes)

    async def create(self, sandbox_id: SandboxId, config: ContainerConfig) -> ContainerId:
        """Create a container."""
        return await self.services.containers.create(sandbox_id, config, None)

    async def run(self, sandbox_id: SandboxId, config: ContainerConfig) -> ContainerId:
        """Create and start a container."""
        container_id = await self.create(sandbox_id, config)
        await self.services.containers.start(container_id)
        return container_id

    async def status(self, container_id: ContainerId | str) -> ContainerStatus:
        """A container's status."""
        return (await self.services.containers.status(ContainerId(container_id), verbose=False)).status

    async def ended(self, container_id: ContainerId) -> ContainerStatus:
        """Wait for a container's exit."""

        async def poll() -> ContainerStatus:
            # It may have exited before the events were subscribed to.
            while (status := await self.status(container_id)).state is not ContainerState.EXITED:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            return status

        return await patiently(poll())

    async def output(self, sandbox_id: SandboxId, config: ContainerConfig) -> str:
        """What a container prints to stdout. Raises `AssertionError` if it ends with another code than 0."""
        status = await self.ended(await self.run(sandbox_id, config))
        lines = read_lines(self.log_of(config))
        assert 0 == status.exit_code, f"{' '.join(config.command)!r} ended with {status.exit_code}: {lines}"
        return "\n".join(text for stream, text in lines if stream == "stdout")

    async def output_alone(self, argv: tuple[str, ...], **changes: Any) -> str:
        """What a container prints that is alone in a plain pod; `changes` as of `container`."""
        return await self.output(await self.pod(), self.container(argv, **changes))

    def log_of(self, config: ContainerConfig) -> Path:
        """The path of a container's log."""
        return self.world.candidate.scratch / "logs" / config.log_path

    def container(self, argv: tuple[str, ...], **changes: Any) -> ContainerConfig:
        """A container as the kubelet requests it for an author without security settings. `changes` are parts of its
        configuration, of its security context, or of its resources.
        """
        self._number += 1
        name, scratch = f"plain{self._number}", self.world.candidate.scratch
        files = {path: scratch / path.replace("/", "-") for path in ("/etc/hosts", "/dev/termination-log")}
        for file in files.values():
            file.touch()
        mounts = tuple(Mount(container_path=path, host_path=str(file)) for path, file in files.items())
        own = {field.name for field in attrs.fields(ContainerConfig)} & changes.keys()
        security = {field.name for field in attrs.fields(LinuxContainerSecurityContext)} & changes.keys()
        resources = {field.name for field in attrs.fields(Resources)} & changes.keys()
        config = ContainerConfig(
            metadata=ContainerMetadata(name),
            image=ImageSpec(image=self.world.candidate.image_id, user_specified_image=self.world.candidate.image.image),
            command=argv,
            envs=(KeyValue(MARK, self.world.candidate.mark),),
            labels=FrozenDict({"io.kubernetes.container.name": name}),
            log_path=f"{name}/0.log",
            linux=LinuxContainerConfig(
                resources=attrs.evolve(self._resources(), **{key: changes[key] for key in resources}),
                security_context=attrs.evolve(self._security(), **{key: changes[key] for key in security}),
            ),
        )
        return attrs.evolve(config, **{**{key: changes[key] for key in own}, "mounts": (*mounts, *changes.get("mounts", ()))})

    def _resources(self) -> Resources:
        """On cgroup v2 the kubelet requests that an OOM kill ends a whole container, unless singleProcessOOMKill is set."""
        unified = {"memory.oom.group": "1"} if self.world.candidate.node.cgroup_v2 else {}
        return attrs.evolve(_RESOURCES, unified=FrozenDict(unified))

    def _security(self) -> LinuxContainerSecurityContext:
        network = NamespaceMode.NODE if self.world.candidate.host_network else NamespaceMode.POD
        return LinuxContainerSecurityContext(
            namespace_options=NamespaceOption(
                network=network, pid=NamespaceMode.CONTAINER, userns_options=UserNamespace(mode=NamespaceMode.NODE)
            ),
            run_as_user=0,
            masked_paths=tuple(sorted(path for path in USUAL_PATHS if path.startswith("/proc/k"))),
            seccomp=SecurityProfile(ProfileType.UNCONFINED),
        )


_RESOURCES = Resources(
    cpu_period=100000,
    cpu_shares=2,
    oom_score_adj=1000,
    hugepage_limits=(HugepageLimit("2MB"), HugepageLimit("1GB")),
)
