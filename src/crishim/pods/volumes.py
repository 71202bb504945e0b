"""Volumes of an image (`VOLUME`, image-spec config.md): a writable folder per container, with what the image has there.

As in containerd (WithVolumes), the folder is on the disk beside the container's root, so it is writable with a read-only root,
and is not an overlay; it is removed with the root.
"""

import asyncio
import os
import posixpath
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from crishim.errors import Unknown
from crishim.interfaces.seats import Rootfs
from crishim.linux.children import children, end_program
from crishim.linux.roots import path_in_root
from crishim.model.container import ContainerSpec
from crishim.model.values import FrozenDict
from crishim.oci.facts import NamespacePaths

_KERNEL: Final = ("/dev", "/proc", "/sys")
_COPY: Final = ("cp", "--archive", "--reflink=auto", "--no-target-directory", "--")


async def make_volumes(
    spec: ContainerSpec, rootfs: Rootfs, bundle: Path, files: Iterable[str], namespaces: NamespacePaths
) -> FrozenDict[str, str]:
    """Make a folder for each volume of the image: its path in the container, links resolved, to the folder.

    A volume is left out that would cover `/`, a file system of the kernel, one of `files`, or what is at or below a mount of
    the request; also where the image has a file. Where it has nothing the volume belongs to the container's root user.
    Raises `Unknown` if a copy fails.
    """
    if not spec.image_config.volumes:
        return FrozenDict()
    root = Path(rootfs.path)
    folder = Path(rootfs.volumes) if rootfs.volumes else bundle / "volumes"
    owner = (namespaces.uids[0].host_id, namespaces.gids[0].host_id) if namespaces.user else (0, 0)
    made = {}
    for number, path in enumerate(await asyncio.to_thread(_wanted, spec, root, tuple(files))):
        target = folder / str(number)
        if await asyncio.to_thread(_make, root, path, target, owner):
            await _copy(path_in_root(root, path), target)
        made[path] = str(target)
    return FrozenDict(made)


def _wanted(spec: ContainerSpec, root: Path, files: tuple[str, ...]) -> list[str]:
    covered = [*_KERNEL, *(real_path(root, path) for path in (*files, *(mount.container_path for mount in spec.mounts)))]
    paths = {real_path(root, path) for path in spec.image_config.volumes if "\0" not in path}
    left = (path for path in paths if path != "/" and not any(_at_or_below(path, other) for other in covered))
    return sorted(path for path in left if _kind(root, path) in {0, stat.S_IFDIR})


def real_path(root: Path, path: str) -> str:
    """A path of the container with the links that the image has on its way; what is not there yet stays as it is."""
    path, missing = posixpath.normpath(f"/{path.lstrip('/')}"), ""
    while path != "/":
        try:
            found = os.path.relpath(path_in_root(root, path), path_in_root(root, "/"))
            return posixpath.normpath(posixpath.join("/", found, missing))
        except OSError:
            path, name = posixpath.split(path)
            missing = posixpath.join(name, missing) if missing else name
    return f"/{missing}"


def _at_or_below(path: str, other: str) -> bool:
    return other in {"/", path} or path.startswith(f"{other}/")


def _kind(root: Path, path: str) -> int:
    """What an image has at a path, as stat(2) names kinds of files; 0 for nothing, -1 where no folder can be made."""
    try:
        return stat.S_IFMT(path_in_root(root, path).lstat().st_mode)
    except FileNotFoundError:
        return 0
    except OSError:
        return -1


def _make(root: Path, path: str, target: Path, owner: tuple[int, int]) -> bool:
    """Make a volume's folder; whether the image has a folder there to copy."""
    target.mkdir(parents=True, mode=0o755)
    target.chmod(0o755)
    os.chown(target, *owner)
    return _kind(root, path) == stat.S_IFDIR


async def _copy(source: Path, target: Path) -> None:
    pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    process = await children.start(*_COPY, str(source), str(target), stdin=nothing, stdout=nothing, stderr=pipe)
    try:
        _, complaint = await process.communicate()
    except asyncio.CancelledError:
        await end_program(process)
        raise
    if process.returncode:
        raise Unknown(f"copying the image's {source.name} to a volume: {complaint.decode(errors='replace')[:2000]}")
