"""Root file systems of a static busybox, for tests of backends that need no image."""

import shutil
import tarfile
from pathlib import Path
from typing import Final

from crishim.errors import FailedPrecondition
from crishim.interfaces.seats import Rootfs, RootfsProvider, SupportsRootfsDiff
from crishim.linux.mounts import mount_idmapped, unmount
from crishim.linux.programs import find_program
from crishim.model.values import ContainerId, ImageId

__all__ = ["APPLETS"]

APPLETS: Final = (
    "sh",
    "cat",
    "echo",
    "sleep",
    "id",
    "ls",
    "hostname",
    "mount",
    "touch",
    "test",
    "kill",
    "true",
    "head",
    "dd",
    "stty",
    "nc",
    "readlink",
    "wc",
    "tr",
    "setsid",
)
"""The commands of a root."""


class BusyboxRoots(RootfsProvider, SupportsRootfsDiff):
    """Gives every container a small folder of its own below `folder`, with users and groups, whatever its image is."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._applied: set[ContainerId] = set()

    async def apply(self, container_id: ContainerId, image_id: ImageId, layer: Path) -> None:
        with tarfile.open(layer) as tar:
            tar.extractall(self._folder / container_id, filter="tar")
        self._applied.add(container_id)

    async def prepare(self, container_id: ContainerId, image_id: ImageId, userns: str = "", label: str = "") -> Rootfs:
        root = self._folder / container_id
        if container_id in self._applied:
            return Rootfs(path=str(root), upper=str(root))
        _fill(root)
        return Rootfs(path=str(_mapped(root, userns)), upper=str(root))

    async def view(self, container_id: ContainerId, image_id: ImageId, userns: str = "", label: str = "") -> Path:
        root = self._folder / f"{container_id}.view"
        if not root.exists():  # else another mount of the same container has made it
            _fill(root)
            _mapped(root, userns)
        return _place(root, userns)

    async def release(self, container_id: ContainerId) -> None:
        for name in (container_id, f"{container_id}.view"):
            root = self._folder / name
            unmount(_place(root, "mapped"))
            for folder in (root, _place(root, "mapped")):
                shutil.rmtree(folder, ignore_errors=True)


def _fill(root: Path) -> None:
    """Make a root: a busybox, and some users and groups."""
    for name in ("bin", "etc", "proc", "sys", "dev", "tmp"):
        (root / name).mkdir(parents=True, exist_ok=True)
    shutil.copy2(_busybox(), root / "bin" / "busybox")
    for applet in APPLETS:
        if not (root / "bin" / applet).exists():
            (root / "bin" / applet).hardlink_to(root / "bin" / "busybox")
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/:/bin/sh\nwww:x:33:44::/:/bin/sh\n")
    (root / "etc" / "group").write_text("root:x:0:\nwww:x:44:\nextra:x:50000:www\n")


def _place(root: Path, userns: str) -> Path:
    """Where the root is for a container: in a user namespace at a mount of its own, with mapped ids."""
    return root.with_name(f"{root.name}.mapped") if userns else root


def _mapped(root: Path, userns: str) -> Path:
    """The root as a container in a user namespace needs it; the root itself outside of one."""
    place = _place(root, userns)
    if userns:
        place.mkdir()
        mount_idmapped(root, place, userns)
    return place


def _busybox() -> str:
    """The node's busybox. Raises `FailedPrecondition` if there is none."""
    program = find_program("busybox")
    if not program:
        raise FailedPrecondition("missing", "installed (apt-get install busybox-static)", "busybox, of which roots are made,")
    return program
