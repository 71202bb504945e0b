"""Checks of a backend behind the service: refusals, hung verbs, the kubelet's plainest pod, the whole lifecycle of a pod."""

import asyncio

import attrs

from crishim.config import Deadlines
from crishim.errors import DeadlineExceeded, InvalidArgument
from crishim.lifecycle.features import USUAL_PATHS
from crishim.model.container import (
    ContainerConfig,
    ContainerFilter,
    ContainerMetadata,
    ContainerState,
    LinuxContainerConfig,
    Mount,
)
from crishim.model.features import Feature
from crishim.model.image import ImageSpec
from crishim.model.resources import HugepageLimit, Resources
from crishim.model.sandbox import PodSandboxConfig, PodSandboxFilter
from crishim.model.security import (
    LinuxContainerSecurityContext,
    NamespaceMode,
    NamespaceOption,
    ProfileType,
    SecurityProfile,
    UserNamespace,
)
from crishim.model.values import ContainerId, FrozenDict
from crishim.service.backends import Settings
from crishim.service.services import Services
from crishim.testing.conformance.candidate import World, patiently
from crishim.testing.faults import hanging


async def check_plainest_pod_is_taken(world: World) -> None:
    """The requests of the kubelet for every plain pod are never refused; the pod runs, and nothing is left after
    its removal.
    """
    async with _services(world) as services:
        sandbox_id = await services.sandboxes.run(_sandbox(world), "")
        config = _plain(world, world.programs.fails(0))
        container_id = await services.containers.create(sandbox_id, config, None)
        await services.containers.start(container_id)
        await patiently(_ended(services, container_id))
        seen = (await services.containers.status(container_id, verbose=False)).status
        assert (0, "Completed") == (seen.exit_code, seen.reason)
        await services.sandboxes.stop(sandbox_id)
        await services.sandboxes.remove(sandbox_id)
        assert [] == list(await services.sandboxes.list(PodSandboxFilter()))
        assert [] == list(await services.containers.list(ContainerFilter()))


async def check_unsupported_features_are_refused(world: World) -> None:
    """A request that sets a field outside `supported` is refused with InvalidArgument naming the field, and leaves nothing."""
    async with _services(world) as services:
        sandbox_id = await services.sandboxes.run(_sandbox(world), "")
        for feature, security in _UNSUPPORTED:
            if feature in world.info.supported:
                continue
            plain = _plain(world, world.programs.sleeps())
            assert plain.linux is not None
            config = attrs.evolve(plain, linux=attrs.evolve(plain.linux, security_context=security))
            refused = ""
            try:
                await services.containers.create(sandbox_id, config, None)
            except InvalidArgument as error:
                refused = error.field
            assert refused == f"config.{feature.value}"
        await services.sandboxes.remove(sandbox_id)


async def check_stop_has_its_grace(world: World) -> None:
    """StopContainer: the stop signal, the grace period, then SIGKILL; a container that the signal ends has 128 + its number."""
    async with _services(world) as services:
        sandbox_id = await services.sandboxes.run(_sandbox(world), "")
        config = _plain(world, world.programs.stubborn())
        container_id = await services.containers.create(sandbox_id, config, None)
        await services.containers.start(container_id)
        await world.ready(world.candidate.scratch / "logs" / "plain" / "0.log")
        await services.containers.stop(container_id, 1)
        seen = (await services.containers.status(container_id, verbose=False)).status
        assert (ContainerState.EXITED, 137) == (seen.state, seen.exit_code)
        await services.sandboxes.remove(sandbox_id)


async def check_hung_verb_does_not_hang_a_pod(world: World) -> None:
    """A hung verb must not block a pod: a create that never returns ends with DeadlineExceeded, and the pod can be removed."""
    hung = hanging(world.backend, "create_container")
    deadlines = Deadlines(create_container=0.2, cancel_grace=0.1)
    settings = Settings(runtime_version="0.0.0", deadlines=deadlines)
    namespaces = world.candidate.context.namespaces
    async with Services(backends={"": hung}, namespaces=namespaces, settings=settings) as services:
        sandbox_id = await services.sandboxes.run(_sandbox(world), "")
        try:
            await services.containers.create(sandbox_id, _plain(world, world.programs.sleeps()), None)
        except DeadlineExceeded:
            await services.sandboxes.remove(sandbox_id)
            return
        raise AssertionError("a hung create must end with DeadlineExceeded")


_UNSUPPORTED = (
    (Feature.PRIVILEGED, LinuxContainerSecurityContext(privileged=True)),
    (Feature.READONLY_ROOTFS, LinuxContainerSecurityContext(readonly_rootfs=True)),
    (Feature.NO_NEW_PRIVS, LinuxContainerSecurityContext(no_new_privs=True)),
    (Feature.USER, LinuxContainerSecurityContext(run_as_user=1234)),
    (Feature.SECCOMP, LinuxContainerSecurityContext(seccomp=SecurityProfile(ProfileType.LOCALHOST, "/profile.json"))),
    (Feature.APPARMOR, LinuxContainerSecurityContext(apparmor=SecurityProfile(ProfileType.LOCALHOST, "profile"))),
    (Feature.SECCOMP, LinuxContainerSecurityContext(seccomp=SecurityProfile(ProfileType.RUNTIME_DEFAULT))),
    (Feature.APPARMOR, LinuxContainerSecurityContext(apparmor=SecurityProfile(ProfileType.RUNTIME_DEFAULT))),
    (Feature.HOST_PID, LinuxContainerSecurityContext(namespace_options=NamespaceOption(pid=NamespaceMode.NODE))),
    (Feature.HOST_IPC, LinuxContainerSecurityContext(namespace_options=NamespaceOption(ipc=NamespaceMode.NODE))),
)


def _services(world: World) -> Services:
    settings = Settings(runtime_version="0.0.0")
    return Services(backends={"": world.backend}, namespaces=world.candidate.context.namespaces, settings=settings)


def _sandbox(world: World) -> PodSandboxConfig:
    return world.sandbox_spec().config


def _plain(world: World, argv: tuple[str, ...]) -> ContainerConfig:
    """A container as the kubelet requests it for an author without security settings."""
    image = ImageSpec(image=world.candidate.image_id, user_specified_image=world.candidate.image.image)
    files = {path: world.candidate.scratch / path.replace("/", "-") for path in ("/etc/hosts", "/dev/termination-log")}
    for file in files.values():
        file.touch()
    mounts = tuple(Mount(container_path=path, host_path=str(file)) for path, file in files.items())
    return ContainerConfig(
        metadata=ContainerMetadata("plain"),
        image=image,
        command=argv,
        mounts=mounts,
        labels=FrozenDict({"io.kubernetes.container.name": "plain"}),
        log_path="plain/0.log",
        linux=LinuxContainerConfig(
            resources=Resources(
                cpu_period=100000,
                cpu_shares=2,
                oom_score_adj=1000,
                hugepage_limits=(HugepageLimit("2MB"), HugepageLimit("1GB")),
            ),
            security_context=LinuxContainerSecurityContext(
                namespace_options=NamespaceOption(
                    network=NamespaceMode.NODE if world.candidate.host_network else NamespaceMode.POD,
                    pid=NamespaceMode.CONTAINER,
                    userns_options=UserNamespace(mode=NamespaceMode.NODE),
                ),
                run_as_user=0,
                masked_paths=tuple(sorted(path for path in USUAL_PATHS if path.startswith("/proc/k"))),
                seccomp=SecurityProfile(ProfileType.UNCONFINED),
            ),
        ),
    )


async def _ended(services: Services, container_id: ContainerId) -> None:
    # It may have exited before the events were subscribed to.
    while (await services.containers.status(container_id, verbose=False)).status.state is not ContainerState.EXITED:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
