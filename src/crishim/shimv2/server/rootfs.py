"""Mounts the root file system of a task, as containerd requests it with the options of mount(8), on a bundle's rootfs.

With the options `uidmap` and `gidmap`, lists of CONTAINER:HOST:LENGTH, the ids of a file system are mapped: those of the lower
folders of an overlay, since overlayfs cannot be mapped itself, or those of any other mount.
"""

import asyncio
import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import attrs

from crishim.errors import InvalidArgument
from crishim.linux.mount_options import parse_options
from crishim.linux.mounts import (
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REMOUNT,
    mount,
    mount_idmapped,
    unmount,
    unmount_below,
    unmount_entries,
)
from crishim.model.security import IDMapping, NamespaceMode, UserNamespace
from crishim.pods.namespaces import user_namespace

_OF_BINDS: Final = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
_MOST_DATA: Final = 4095
"""The longest options of mount(2): a page with a final zero byte."""
_LOWER: Final = "lowerdir="
_UIDS: Final = "uidmap="
_GIDS: Final = "gidmap="
_OVERLAY: Final = "overlay"
_LOWERS: Final = "crishim-lower"
"""The folder in a bundle where the lower folders of an overlay are mounted until the overlay itself is."""


@attrs.frozen(kw_only=True)
class RootMount:
    """One mount; `target` is relative to the rootfs, usually empty."""

    kind: str
    source: str
    target: str = ""
    options: tuple[str, ...] = ()


async def mount_with_ids(bundle: Path, mounts: Sequence[RootMount]) -> None:
    """Mount the root file system of a bundle, with ids of a user namespace where its options map some."""
    async with contextlib.AsyncExitStack() as stack:
        userns = mappings(mounts)
        pid = 0 if userns is None else await stack.enter_async_context(user_namespace(userns))
        path = f"/proc/{pid}/ns/user" if pid else ""
        await asyncio.to_thread(mount_rootfs, bundle / "rootfs", mounts, path)


def mappings(mounts: Sequence[RootMount]) -> UserNamespace | None:
    """The mappings of the first mount that has both; None without. containerd maps only one. Raises `InvalidArgument`."""
    for one in mounts:
        found = {option[: len(_UIDS)]: option[len(_UIDS) :] for option in one.options if option.startswith((_UIDS, _GIDS))}
        if _UIDS in found and _GIDS in found:
            uids, gids = (tuple(map(_mapping, found[prefix].split(","))) for prefix in (_UIDS, _GIDS))
            return UserNamespace(NamespaceMode.POD, uids=uids, gids=gids)
    return None


def _mapping(text: str) -> IDMapping:
    try:
        inside, outside, length = map(int, text.split(":"))
    except ValueError as error:
        raise InvalidArgument("rootfs.options", f"{text!r} is not CONTAINER:HOST:LENGTH") from error
    return IDMapping(container_id=inside, host_id=outside, length=length)


def _is_mapped(one: RootMount) -> bool:
    return mappings((one,)) is not None


@contextlib.contextmanager
def shortened(data: Sequence[str]) -> Iterator[str]:
    """A file system's options as one string, valid inside the `with`.

    If many layers make it longer than a page, they are replaced by paths of open folders, which are short.
    """
    whole = ",".join(data)
    layers = [option.removeprefix(_LOWER).split(":") for option in data if option.startswith(_LOWER)]
    if len(whole) <= _MOST_DATA or not layers:
        yield whole
        return
    with contextlib.ExitStack() as opened:
        names = []
        for layer in layers[-1]:
            descriptor = os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, descriptor)
            names.append(f"/proc/self/fd/{descriptor}")
        others = [option for option in data if not option.startswith(_LOWER)]
        yield ",".join([*others, _LOWER + ":".join(names)])


def mount_rootfs(rootfs: Path, mounts: Sequence[RootMount], userns: str = "") -> None:
    """Mount them in order. If one fails, the others are unmounted again. Raises as `mount`, and `OSError`.

    `userns` is the path of a user namespace with the mappings of the mounts that have some.
    """
    rootfs.mkdir(exist_ok=True, mode=0o711)
    try:
        for one in mounts:
            target = rootfs / one.target.lstrip("/")
            if ".." in Path(one.target).parts:
                raise InvalidArgument("rootfs.target", f"{one.target!r} leads out of the root")
            flags, own = parse_options(option for option in one.options if not option.startswith((_UIDS, _GIDS)))
            mapped = bool(userns) and _is_mapped(one)
            with lowered(own, rootfs.with_name(_LOWERS), userns if mapped else "") as lower, shortened(lower) as data:
                mount(one.source, target, one.kind, flags, data)
            if flags & MS_BIND and flags & _OF_BINDS:  # a bind mount ignores other flags until it is remounted
                mount(one.source, target, one.kind, flags | MS_REMOUNT)
            if mapped and one.kind != _OVERLAY:
                mount_idmapped(target, target, userns)
    except BaseException:
        unmount_rootfs(rootfs)
        raise


@contextlib.contextmanager
def lowered(data: Sequence[str], folder: Path, userns: str) -> Iterator[list[str]]:
    """An overlay's options with its lower folders mounted below `folder` by the ids of `userns`, valid inside the `with`; the
    options unchanged without a user namespace, or for another file system.
    """
    layers = [option.removeprefix(_LOWER).split(":") for option in data if option.startswith(_LOWER)]
    if not userns or not layers:
        yield list(data)
        return
    mounted: list[str] = []
    try:
        for number, layer in enumerate(layers[-1]):
            place = folder / str(number)
            place.mkdir(parents=True, exist_ok=True)
            mounted.append(str(place))
            mount_idmapped(Path(layer), place, userns)
            mount("", place, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)  # nothing may write to, or remove, the files of a layer
        yield [*(option for option in data if not option.startswith(_LOWER)), _LOWER + ":".join(mounted)]
    finally:
        for place_name in mounted:
            unmount(place_name)  # the overlay has them open
            Path(place_name).rmdir()
        folder.rmdir()


def unmount_rootfs(rootfs: Path) -> None:
    """Unmount everything from the rootfs, and the lower folders of an overlay that a killed daemon has left in the bundle:
    who removes the bundle would remove the files of the layers.
    """
    unmount_below(rootfs)
    lowers = rootfs.with_name(_LOWERS)
    if lowers.exists():
        unmount_entries(lowers)
        for place in lowers.iterdir():
            place.rmdir()
        lowers.rmdir()
