"""Checks of volumes that are more than a folder: mounts that propagate, mounts below them, and owners in a user namespace."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from crishim.errors import PermissionDenied
from crishim.linux.mounts import MS_SHARED, mount, mounts_below, unmount_below
from crishim.model.container import Mount, MountPropagation
from crishim.model.features import Feature
from crishim.testing.conformance.candidate import World, equal, until
from crishim.testing.conformance.examine import Check
from crishim.testing.conformance.features import output_of_privileged
from crishim.testing.conformance.isolation import MAPPING, mapped_namespaces
from crishim.testing.conformance.kubelet import Kubelet
from crishim.testing.conformance.logs import read_lines
from crishim.testing.conformance.programs import LeftOut, needed

_CONTENT: Final = "content"


async def check_private_mounts_are_apart(world: World) -> None:
    """mounts.propagation PRIVATE: no mount propagation ("rprivate" in Linux), neither from the host nor to it."""
    with _volume(world) as volume:
        async with Kubelet.over(world) as kubelet:
            await _reaches_the_container(kubelet, volume, MountPropagation.PRIVATE, expected=False)
            if Feature.PRIVILEGED in world.info.supported:
                await _reaches_the_host(kubelet, volume, MountPropagation.PRIVATE, expected=False)


async def check_mounts_of_the_host_reach_the_container(world: World) -> None:
    """mounts.propagation HOST_TO_CONTAINER: mounts get propagated from the host to the container ("rslave" in Linux), and not
    back.
    """
    with _volume(world) as volume:
        async with Kubelet.over(world) as kubelet:
            await _reaches_the_container(kubelet, volume, MountPropagation.HOST_TO_CONTAINER, expected=True)
            if Feature.PRIVILEGED in world.info.supported:
                await _reaches_the_host(kubelet, volume, MountPropagation.HOST_TO_CONTAINER, expected=False)


async def check_mounts_of_the_container_reach_the_host(world: World) -> None:
    """mounts.propagation BIDIRECTIONAL: mounts get propagated from the host to the container and from the container to the host
    ("rshared" in Linux).
    """
    if Feature.PRIVILEGED not in world.info.supported:
        raise LeftOut("no container can mount, since the backend does not support privileged ones")
    with _volume(world) as volume:
        async with Kubelet.over(world) as kubelet:
            await _reaches_the_host(kubelet, volume, MountPropagation.BIDIRECTIONAL, expected=True)
            await _reaches_the_container(kubelet, volume, MountPropagation.BIDIRECTIONAL, expected=True)


async def check_mounts_below_are_read_only(world: World) -> None:
    """mounts.recursive_read_only: the mount is made recursive read-only; without it and `readonly`, it can be written."""
    reading = needed(world.programs.reads("/data/below/given"), "read a file")
    with _volume(world) as volume:
        below = _mounted(volume / "below")
        async with Kubelet.over(world) as kubelet:
            sandbox_id = await kubelet.pod()

            async def written(path: str, *, readonly: bool) -> bool:
                argv = needed(world.programs.writes(path), "write a file")
                own = Mount(container_path="/data", host_path=str(volume), readonly=readonly, recursive_read_only=readonly)
                config = kubelet.container(argv, mounts=(own,))
                return (await kubelet.ended(await kubelet.run(sandbox_id, config))).exit_code == 0

            whole = Mount(container_path="/data", host_path=str(volume), readonly=True, recursive_read_only=True)
            equal(_CONTENT, await kubelet.output(sandbox_id, kubelet.container(reading, mounts=(whole,))))
            assert not await written("/data/new", readonly=True), "the volume can be written"
            assert not await written("/data/below/new", readonly=True), "a mount below the volume can be written"
            equal([], [*volume.glob("new"), *below.glob("new")])
            assert await written("/data/below/new", readonly=False), "a mount below a writable volume cannot be written"


async def check_volumes_have_the_ids_of_the_pod(world: World) -> None:
    """mounts.uidMappings and gidMappings: the runtime mappings of the mount. A file of the host's root is the pod's root's
    inside, and what that root writes is the host's root's.
    """
    owner = needed(world.programs.owner("/data/given"), "show the owner of a file")
    writing = needed(world.programs.writes("/data/new"), "write a file")
    if os.geteuid() != 0:
        raise LeftOut("files of the host's root need root")
    volume = world.candidate.scratch / "volume"
    volume.mkdir()
    (volume / "given").touch()
    own = Mount(container_path="/data", host_path=str(volume), uid_mappings=MAPPING, gid_mappings=MAPPING)
    async with Kubelet.over(world) as kubelet:
        options = mapped_namespaces(kubelet)
        sandbox_id = await kubelet.pod(namespace_options=options)
        seen = await kubelet.output(sandbox_id, kubelet.container(owner, namespace_options=options, mounts=(own,)))
        equal(["0", "0"], seen.split())
        await kubelet.output(sandbox_id, kubelet.container(writing, namespace_options=options, mounts=(own,)))
        for name in ("given", "new"):
            found = (volume / name).stat()
            assert (found.st_uid, found.st_gid) == (0, 0), f"{name} belongs to {found.st_uid}:{found.st_gid} on the host"


VOLUME_FEATURES: Final[Mapping[Check, Feature]] = {
    check_private_mounts_are_apart: Feature.MOUNTS,
    check_mounts_of_the_host_reach_the_container: Feature.MOUNT_PROPAGATION,
    check_mounts_of_the_container_reach_the_host: Feature.BIDIRECTIONAL_MOUNTS,
    check_mounts_below_are_read_only: Feature.RECURSIVE_READONLY_MOUNTS,
    check_volumes_have_the_ids_of_the_pod: Feature.IDMAP_MOUNTS,
}
"""The feature of each check."""


@contextlib.contextmanager
def _volume(world: World) -> Iterator[Path]:
    """A folder for mounts: a file system of its own, which is shared as those of a node are. All of it is unmounted at the end.

    Raises `LeftOut` where nothing can be mounted.
    """
    try:
        volume = _mounted(world.candidate.scratch / "volume")
    except PermissionDenied as error:
        raise LeftOut(f"mounts on the host need root: {error}") from error
    try:
        mount("", volume, flags=MS_SHARED)
        yield volume
    finally:
        unmount_below(volume)


def _mounted(folder: Path) -> Path:
    """The folder, which is made, with a file system of its own and a file in it."""
    folder.mkdir()
    mount("exam", folder, "tmpfs")
    (folder / "given").write_text(f"{_CONTENT}\n")
    return folder


async def _reaches_the_container(kubelet: Kubelet, volume: Path, propagation: MountPropagation, *, expected: bool) -> None:
    """Assert that a running container sees, or does not see, what is mounted below its volume on the host."""
    argv = needed(kubelet.world.programs.reads_after("/data/now", "/data/later/given"), "wait for a file")
    privileged = propagation is MountPropagation.BIDIRECTIONAL  # the kubelet allows it to no other container
    own = Mount(container_path="/data", host_path=str(volume), propagation=propagation)
    config = kubelet.container(argv, privileged=privileged, mounts=(own,))
    container_id = await kubelet.run(await kubelet.pod(privileged=privileged), config)
    log = kubelet.log_of(config)
    await until(lambda: log.exists() and bool(read_lines(log)))
    _mounted(volume / "later")
    (volume / "now").touch()
    await kubelet.ended(container_id)
    seen = ("stdout", _CONTENT) in read_lines(log)
    assert expected == seen, f"the container {'sees' if seen else 'does not see'} what is mounted on the host"


async def _reaches_the_host(kubelet: Kubelet, volume: Path, propagation: MountPropagation, *, expected: bool) -> None:
    """Assert that the host sees, or does not see, what a container mounts below its volume."""
    argv = needed(kubelet.world.programs.mounts("/data/made"), "mount a file system")
    (volume / "made").mkdir()
    own = Mount(container_path="/data", host_path=str(volume), propagation=propagation)
    await output_of_privileged(kubelet, argv, mounts=(own,))
    seen = bool(mounts_below(volume / "made"))
    assert expected == seen, f"the host {'sees' if seen else 'does not see'} what the container mounts"
