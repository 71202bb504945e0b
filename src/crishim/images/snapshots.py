"""Root file systems: for each container a folder of its own over the layers of an image, by the kernel's overlayfs.

A container's folder has `upper`, `work`, `rootfs` (the mount point), `views` for image volumes, `volumes` for the folders of
the image's own `VOLUME`s, and `snapshot.json`, which names the layers, so that the mount can be repeated after a reboot even
if the image was removed. Layers that `in_use` names must not be deleted.

All methods but `in_use`, `containers`, `has_root` and `hold` block, and are for threads; calls for one container are never
concurrent.
"""

import contextlib
import functools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import attrs

from crishim.errors import InvalidArgument, NotFound, ResourceExhausted
from crishim.images.layers import found_below, is_opaque, renamed
from crishim.images.tree import set_xattrs
from crishim.interfaces.seats import Rootfs
from crishim.linux.mounts import MS_NODEV, MS_NOSUID, MS_RDONLY, is_mount_root, mount, mount_idmapped, unmount, unmount_below
from crishim.model.values import ContainerId, ImageId

_PAGE: Final = 4096
"""mount(2) reads one page of options and ignores the rest without an error."""
_VOLATILE: Final = (5, 10)
"""The kernel since which an overlay can be `volatile`: nothing of it is synced to the disk, not even at its unmount. After a
crash of the machine its upper folder is undefined, but no container uses it any more.
"""
_RECORD: Final = "snapshot.json"


@attrs.frozen
class SnapshotUse:
    """The layers that a container uses: those of its root, bottom first, and those of each image volume.

    Without a root of its own the layers are None.
    """

    layers: tuple[str, ...] | None = None
    views: tuple[tuple[ImageId, tuple[str, ...]], ...] = ()


class Snapshots:
    """The containers' folders below `folder`. `layer` returns the folder of a chain id; `trash` receives what is to be
    deleted.
    """

    def __init__(self, folder: Path, trash: Path, layer: Callable[[str], Path]) -> None:
        self._folder = folder
        self._trash = trash
        self._layer = layer
        self._uses: dict[ContainerId, SnapshotUse] = {}  # changed by threads; without the GIL only a copy can be iterated
        for place in sorted(folder.iterdir()):
            try:
                self._uses[ContainerId(place.name)] = _read(place / _RECORD)
            except (OSError, ValueError, KeyError, TypeError):
                unmount_below(place)
                shutil.rmtree(place)

    @property
    def in_use(self) -> set[str]:
        """The chain ids that containers use."""
        return {
            layer
            for in_use in list(self._uses.values())
            for layers in (in_use.layers or (), *(view for _, view in in_use.views))
            for layer in layers
        }

    @property
    def containers(self) -> tuple[ContainerId, ...]:
        """The containers with a folder here."""
        return tuple(self._uses.copy())

    def has_root(self, container_id: ContainerId) -> bool:
        """Whether layers are reserved for a container's root."""
        return self._uses.get(container_id, SnapshotUse()).layers is not None

    def hold(self, container_id: ContainerId, layers: tuple[str, ...]) -> None:
        """Reserve layers for a container that is about to be prepared."""
        self._uses[container_id] = attrs.evolve(self._uses.get(container_id, SnapshotUse()), layers=layers)

    def prepare(self, container_id: ContainerId, userns: str = "", label: str = "") -> Rootfs:
        """The writable root of a container whose layers are reserved. Raises `ResourceExhausted` and the errors of mounting."""
        place = self._folder / container_id
        root, upper, work, empty = (place / name for name in ("rootfs", "upper", "work", "empty"))
        with (
            renamed(f"preparing {container_id[:12]}"),
            self._mapped(place, self._uses[container_id].layers or (), userns) as lowers,
        ):
            if not (place / _RECORD).exists() or not root.exists():
                for folder in (upper, work, empty, root):
                    folder.mkdir(parents=True, exist_ok=True)
                # nosuid: its setuid programs must not work for users of the machine. In a user namespace their ids are not the
                # node's, and the namespace's root must be able to use them.
                place.chmod(0o711 if userns else 0o700)
                _copy_root(upper, lowers)
                self._write(container_id)
            if not is_mount_root(root):
                shutil.rmtree(work, ignore_errors=True)  # a volatile overlay cannot be mounted again with the same work folder
                work.mkdir(exist_ok=True)
                _overlay(root, [*lowers, *([] if lowers else [empty])], upper, work, label)
        return Rootfs(path=str(root), upper=str(upper), volumes=str(place / "volumes"))

    def fresh(self, container_id: ContainerId) -> Path:
        """A path in a container's folder, not created yet, for a layer that its root begins with."""
        return self._folder / container_id / "applied"

    def begin_with(self, container_id: ContainerId, layer: Path) -> None:
        """Make an unpacked and settled layer the upper folder of a root that was not prepared yet."""
        upper = self._folder / container_id / "upper"
        with renamed(f"preparing {container_id[:12]}"):
            layer.rename(upper)
            shutil.rmtree(layer.parent)

    def view(
        self, container_id: ContainerId, image_id: ImageId, layers: tuple[str, ...], userns: str = "", label: str = ""
    ) -> Path:
        """A read-only mount of an image, for as long as the container's folder exists. A repeated call returns the same."""
        place = self._folder / container_id
        target, empty, void = place / "views" / image_id.partition(":")[2], place / "empty", place / "void"
        in_use = self._uses.get(container_id, SnapshotUse())
        self._uses[container_id] = attrs.evolve(in_use, views=tuple({**dict(in_use.views), image_id: layers}.items()))
        with renamed(f"mounting {image_id}"):
            for folder in (target, empty, void):
                folder.mkdir(parents=True, exist_ok=True)
            self._write(container_id)
        if not is_mount_root(target):
            with self._mapped(place, layers, userns) as lowers:
                # overlayfs needs two lower folders if there is no upper one
                _overlay(target, [*lowers, empty, *([] if layers else [void])], None, None, label)
        return target

    def unview(self, container_id: ContainerId, image_id: ImageId) -> None:
        """Unmount a view. One that does not exist is no error."""
        in_use = self._uses.get(container_id)
        if in_use is None:
            return
        unmount(self._folder / container_id / "views" / image_id.partition(":")[2])
        self._uses[container_id] = attrs.evolve(in_use, views=tuple(view for view in in_use.views if view[0] != image_id))
        with renamed(f"unmounting {image_id}"):
            self._write(container_id)

    def release(self, container_id: ContainerId) -> None:
        """Unmount and delete everything of a container."""
        place = self._folder / container_id
        in_use = self._uses.get(container_id)
        if in_use is not None:
            for image_id, _ in in_use.views:
                unmount(place / "views" / image_id.partition(":")[2])
        unmount(place / "rootfs")
        if (place / "mapped").exists():
            unmount_below(place / "mapped")
        gone = self._trash / f"snapshot-{container_id}"
        with renamed(f"releasing {container_id[:12]}"):
            if place.exists():
                place.rename(gone)
            self._uses.pop(container_id, None)
            if gone.exists():
                shutil.rmtree(gone)

    def usage(self, container_id: ContainerId) -> tuple[int, int]:
        """The disk usage in bytes and the inodes of what a container wrote. Walks its whole upper folder and its volumes."""
        upper = self._folder / container_id / "upper"
        seen: set[int] = set()
        used, todo = 0, [str(upper), str(upper.with_name("volumes"))]
        try:
            used = upper.stat().st_blocks * 512
        except FileNotFoundError:
            raise NotFound("snapshot", container_id) from None
        while todo:
            try:
                entries = list(os.scandir(todo.pop()))
            except OSError:
                continue
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                if status.st_ino not in seen:
                    seen.add(status.st_ino)
                    used += status.st_blocks * 512
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
        return used, len(seen) + 1

    @contextlib.contextmanager
    def _mapped(self, place: Path, layers: Iterable[str], userns: str) -> Iterator[list[Path]]:
        """The layers, top first, with the ids of a user namespace. An overlay mounted inside the `with` keeps them."""
        lowers = _shown_layers([self._layer(layer) for layer in reversed(tuple(layers))])
        if not userns:
            yield lowers
            return
        mapped: list[Path] = []
        try:
            for number, lower in enumerate(lowers):
                mapped.append(place / "mapped" / str(number))
                mapped[-1].mkdir(parents=True, exist_ok=True)
                mount_idmapped(lower, mapped[-1], userns)
            yield mapped
        finally:
            for folder in mapped:
                unmount(folder)

    def _write(self, container_id: ContainerId) -> None:
        in_use = self._uses[container_id]
        text = json.dumps({"layers": in_use.layers, "views": dict(in_use.views)})
        record = self._folder / container_id / _RECORD
        fresh = record.with_suffix(".new")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(record)


def refuse_marks(folder: Path) -> None:
    """Raise `InvalidArgument` for a folder that overlayfs' options cannot name."""
    if set(str(folder)) & set(":,\\"):
        raise InvalidArgument(
            "images.folder", f"{folder} contains a ':', ',' or '\\', which the options of overlayfs do not allow"
        )


def _read(record: Path) -> SnapshotUse:
    value: Any = json.loads(record.read_bytes())
    views = tuple((ImageId(image), tuple(layers)) for image, layers in value["views"].items())
    return SnapshotUse(None if value["layers"] is None else tuple(value["layers"]), views)


def _copy_root(upper: Path, lowers: list[Path]) -> None:
    """Copy the attributes of the image's root folder, since those of the upper folder are shown."""
    below = found_below(lowers, "")
    if below is None:
        upper.chmod(0o755)
        return
    status = below.stat()
    os.chown(upper, status.st_uid, status.st_gid)
    upper.chmod(status.st_mode & 0o7777)
    set_xattrs(str(upper), {name: os.getxattr(below, name) for name in os.listxattr(below)})


def _shown_layers(lowers: list[Path]) -> list[Path]:
    """The layers, top first, down to one whose root is opaque: overlayfs ignores that mark on a root."""
    return next((lowers[: number + 1] for number, lower in enumerate(lowers) if is_opaque(lower)), lowers)


def _overlay(target: Path, lowers: list[Path], upper: Path | None, work: Path | None, label: str) -> None:
    """Mount an overlay, with an SELinux label for all of it if that is given.

    If its options are longer than a page, the layers are named by short paths of open folders.
    """
    paths = [*lowers, *([upper] if upper else []), *([work] if work else [])]
    flags = 0 if upper else MS_RDONLY | MS_NOSUID | MS_NODEV
    data = overlay_options([str(path) for path in paths], label, writable=upper is not None)
    if len(data) < _PAGE:
        mount("overlay", target, "overlay", flags, data)
        return
    descriptors = []
    try:
        with renamed(f"mounting {target}"):
            for path in paths:
                descriptors.append(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))  # noqa: PERF401 - some may be open when one fails
        data = overlay_options([f"/proc/self/fd/{descriptor}" for descriptor in descriptors], label, writable=upper is not None)
        if len(data) >= _PAGE:
            raise ResourceExhausted(f"{len(lowers)} layers are too many for one mount")
        mount("overlay", target, "overlay", flags, data)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def overlay_options(paths: list[str], label: str, *, writable: bool) -> str:
    """The options of an overlay: the lower folders, then, if it is `writable`, the upper one and the work folder."""
    index = "index=off," if Path("/sys/module/overlay/parameters/index").exists() else ""
    context = f',context="{label}"' if label else ""  # in quotes, as there are commas in a level
    if not writable:
        return f"{index}lowerdir={':'.join(paths)}{context}"
    *lowers, upper, work = paths
    volatile = "volatile," if _kernel() >= _VOLATILE else ""
    return f"{index}{volatile}lowerdir={':'.join(lowers)},upperdir={upper},workdir={work}{context}"


@functools.cache
def _kernel() -> tuple[int, int]:
    major, minor, *_ = os.uname().release.split(".")
    return int(major), int(minor.partition("-")[0])
