"""Root file systems: for each container a folder of its own over the layers of an image, by the kernel's overlayfs.

A container's folder holds `upper`, `work`, `rootfs` (where the whole is mounted), `views` for image volumes, `volumes` for the
folders of the image's own `VOLUME`s, and `snapshot.json`, which names the layers, so that the mount can be made again after a
reboot without asking whether the image still exists. The layers that `held` names must stay.

All methods but `held`, `containers`, `has_root` and `hold` block, and are for threads; those for one container are never called
beside one another.
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
"""mount(2) reads one page of options and drops the rest without a word."""
_VOLATILE: Final = (5, 10)
"""The kernel from which an overlay can be `volatile`: nothing of it is written through to the disk, not even when it is
unmounted. After a crash of the machine its upper folder may be anything, and no container has it any more."""
_RECORD: Final = "snapshot.json"


@attrs.frozen
class SnapshotUse:
    """What a container needs of the store: the layers of its root, bottom first, and those of each image volume.

    Without a root of its own the layers are None.
    """

    layers: tuple[str, ...] | None = None
    views: tuple[tuple[ImageId, tuple[str, ...]], ...] = ()


class Snapshots:
    """The containers' folders below `folder`. `layer` gives the folder of a chain id, `trash` takes what is to be deleted."""

    def __init__(self, folder: Path, trash: Path, layer: Callable[[str], Path]) -> None:
        self._folder = folder
        self._trash = trash
        self._layer = layer
        self._held: dict[ContainerId, SnapshotUse] = {}
        for place in sorted(folder.iterdir()):
            try:
                self._held[ContainerId(place.name)] = _read(place / _RECORD)
            except (OSError, ValueError, KeyError, TypeError):
                unmount_below(place)
                shutil.rmtree(place)

    @property
    def held(self) -> set[str]:
        """The chain ids that containers need."""
        return {
            layer
            for held in list(self._held.values())
            for layers in (held.layers or (), *(view for _, view in held.views))
            for layer in layers
        }

    @property
    def containers(self) -> tuple[ContainerId, ...]:
        """Whoever has a folder here."""
        return tuple(self._held)

    def has_root(self, container_id: ContainerId) -> bool:
        """Whether layers are held for a container's root."""
        return self._held.get(container_id, SnapshotUse()).layers is not None

    def hold(self, container_id: ContainerId, layers: tuple[str, ...]) -> None:
        """Keep layers for a container that is about to be prepared."""
        self._held[container_id] = attrs.evolve(self._held.get(container_id, SnapshotUse()), layers=layers)

    def prepare(self, container_id: ContainerId, userns: str = "", label: str = "") -> Rootfs:
        """The writable root of a container whose layers are held. Raises `ResourceExhausted` and what mounting raises."""
        place = self._folder / container_id
        root, upper, work, empty = (place / name for name in ("rootfs", "upper", "work", "empty"))
        with (
            renamed(f"preparing {container_id[:12]}"),
            self._mapped(place, self._held[container_id].layers or (), userns) as lowers,
        ):
            if not (place / _RECORD).exists() or not root.exists():
                for folder in (upper, work, empty, root):
                    folder.mkdir(parents=True, exist_ok=True)
                # Its setuid programs are for no user of the machine; in a user namespace they are nobody's root, and who is
                # root there must pass.
                place.chmod(0o711 if userns else 0o700)
                _copy_root(upper, lowers)
                self._write(container_id)
            if not is_mount_root(root):
                shutil.rmtree(work)  # a volatile overlay that was mounted before is not mounted over the same again
                work.mkdir()
                _overlay(root, [*lowers, *([] if lowers else [empty])], upper, work, label)
        return Rootfs(path=str(root), upper=str(upper), volumes=str(place / "volumes"))

    def fresh(self, container_id: ContainerId) -> Path:
        """A place in a container's folder, not made yet, for a layer that becomes the beginning of its root."""
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
        """A read-only mount of an image, for as long as the container's folder is here. Repeating it gives the same."""
        place = self._folder / container_id
        target, empty, void = place / "views" / image_id.partition(":")[2], place / "empty", place / "void"
        held = self._held.get(container_id, SnapshotUse())
        self._held[container_id] = attrs.evolve(held, views=tuple({**dict(held.views), image_id: layers}.items()))
        with renamed(f"mounting {image_id}"):
            for folder in (target, empty, void):
                folder.mkdir(parents=True, exist_ok=True)
            self._write(container_id)
        if not is_mount_root(target):
            with self._mapped(place, layers, userns) as lowers:
                # overlayfs wants two lower folders where there is no upper one
                _overlay(target, [*lowers, empty, *([] if layers else [void])], None, None, label)
        return target

    def unview(self, container_id: ContainerId, image_id: ImageId) -> None:
        """Let go of a view. One that is not there is no error."""
        held = self._held.get(container_id)
        if held is None:
            return
        unmount(self._folder / container_id / "views" / image_id.partition(":")[2])
        self._held[container_id] = attrs.evolve(held, views=tuple(view for view in held.views if view[0] != image_id))
        with renamed(f"unmounting {image_id}"):
            self._write(container_id)

    def release(self, container_id: ContainerId) -> None:
        """Unmount and delete all that a container has here."""
        place = self._folder / container_id
        held = self._held.get(container_id)
        if held is not None:
            for image_id, _ in held.views:
                unmount(place / "views" / image_id.partition(":")[2])
        unmount(place / "rootfs")
        if (place / "mapped").exists():
            unmount_below(place / "mapped")
        gone = self._trash / f"snapshot-{container_id}"
        with renamed(f"releasing {container_id[:12]}"):
            if place.exists():
                place.rename(gone)
            self._held.pop(container_id, None)
            if gone.exists():
                shutil.rmtree(gone)

    def usage(self, container_id: ContainerId) -> tuple[int, int]:
        """Bytes on the disk and inodes of what a container wrote. Walks its whole upper folder and its volumes."""
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
        """The layers, top first, with the ids of a user namespace. An overlay that is mounted inside keeps them for itself."""
        lowers = _shown_layers([self._layer(layer) for layer in reversed(tuple(layers))])
        if not userns:
            yield lowers
            return
        made: list[Path] = []
        try:
            for number, lower in enumerate(lowers):
                made.append(place / "mapped" / str(number))
                made[-1].mkdir(parents=True, exist_ok=True)
                mount_idmapped(lower, made[-1], userns)
            yield made
        finally:
            for folder in made:
                unmount(folder)

    def _write(self, container_id: ContainerId) -> None:
        held = self._held[container_id]
        text = json.dumps({"layers": held.layers, "views": dict(held.views)})
        record = self._folder / container_id / _RECORD
        fresh = record.with_suffix(".new")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(record)


def refuse_marks(folder: Path) -> None:
    """Raises `InvalidArgument` for a folder that overlayfs' options cannot name."""
    if set(str(folder)) & set(":,\\"):
        raise InvalidArgument("images.folder", f"{folder} has a ':', ',' or '\\' in it, which overlayfs cannot be told")


def _read(record: Path) -> SnapshotUse:
    value: Any = json.loads(record.read_bytes())
    views = tuple((ImageId(image), tuple(layers)) for image, layers in value["views"].items())
    return SnapshotUse(None if value["layers"] is None else tuple(value["layers"]), views)


def _copy_root(upper: Path, lowers: list[Path]) -> None:
    """The root folder of the whole is the uppermost one's: it gets what the image's has."""
    below = found_below(lowers, "")
    if below is None:
        upper.chmod(0o755)
        return
    status = below.stat()
    os.chown(upper, status.st_uid, status.st_gid)
    upper.chmod(status.st_mode & 0o7777)
    set_xattrs(str(upper), {name: os.getxattr(below, name) for name in os.listxattr(below)})


def _shown_layers(lowers: list[Path]) -> list[Path]:
    """The layers, top first, down to one whose root hides all below: overlayfs does not look at that mark on a root."""
    return next((lowers[: number + 1] for number, lower in enumerate(lowers) if is_opaque(lower)), lowers)


def _overlay(target: Path, lowers: list[Path], upper: Path | None, work: Path | None, label: str) -> None:
    """Mount an overlay, all of it with an SELinux label if that is given.

    Where its options are longer than a page it is made by way of open folders, whose names are short.
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
            raise ResourceExhausted(f"{len(lowers)} layers are more than one mount can name")
        mount("overlay", target, "overlay", flags, data)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def overlay_options(paths: list[str], label: str, *, writable: bool) -> str:
    """The options of an overlay: of its lower folders, then, if it is `writable`, the upper one and the work folder."""
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
