"""Volumes of an image (`VOLUME`, image-spec config.md): a writable folder per container, with the image's content.

As in containerd (WithVolumes), the folder is on disk beside the container's root: it is writable with a read-only root, and is
not on an overlay. It is removed with the root.
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
    """Create a folder for each volume of the image. Returns the folders by path in the container, with links resolved.

    A volume is skipped if it would cover `/`, a kernel file system, one of `files`, or a path at or below a mount of the
    request, and if the image has a file at its path. If the image has nothing there, the volume is owned by the container's
    root user. Raises `Unknown` if a copy fails.
    """
    if not spec.image_config.volumes:
        return FrozenDict()
    root = Path(rootfs.path)
    folder = Path(rootfs.volumes) if rootfs.volumes else bundle / "volumes"
    owner = (namespaces.uids[0].host_id, namespaces.gids[0].host_id) if namespaces.user else (0, 0)
    folders = {}
    for number, path in enumerate(await asyncio.to_thread(_wanted, spec, root, tuple(files))):
        target = folder / str(number)
        if await asyncio.to_thread(_make, root, path, target, owner):
            await _copy(path_in_root(root, path), target)
        folders[path] = str(target)
    return FrozenDict(folders)


def _wanted(spec: ContainerSpec, root: Path, files: tuple[str, ...]) -> list[str]:
    covered = [*_KERNEL, *(real_path(root, path) for path in (*files, *(mount.container_path for mount in spec.mounts)))]
    paths = {real_path(root, path) for path in spec.image_config.volumes if "\0" not in path}
    left = (path for path in paths if path != "/" and not any(_at_or_below(path, other) for other in covered))
    return sorted(path for path in left if _kind(root, path) in {0, stat.S_IFDIR})


def real_path(root: Path, path: str) -> str:
    """A path in the container with the image's links resolved; components that do not exist stay as they are."""
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
    """The file type at a path of an image, as stat(2) has it; 0 if nothing exists, -1 if no folder can be created there."""
    try:
        return stat.S_IFMT(path_in_root(root, path).lstat().st_mode)
    except FileNotFoundError:
        return 0
    except OSError:
        return -1


def _make(root: Path, path: str, target: Path, owner: tuple[int, int]) -> bool:
    """Create a volume's folder. Returns whether the image has a folder there to copy."""
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
