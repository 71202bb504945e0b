"""Root file systems of a static busybox, for tests of backends that need no image."""

import shutil
import tarfile
from pathlib import Path
from typing import Final

from crishim.errors import FailedPrecondition, NotFound
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
        for name in ("bin", "etc", "proc", "sys", "dev", "tmp"):
            (root / name).mkdir(parents=True, exist_ok=True)
        shutil.copy2(_busybox(), root / "bin" / "busybox")
        for applet in APPLETS:
            if not (root / "bin" / applet).exists():
                (root / "bin" / applet).hardlink_to(root / "bin" / "busybox")
        (root / "etc" / "passwd").write_text("root:x:0:0:root:/:/bin/sh\nwww:x:33:44::/:/bin/sh\n")
        (root / "etc" / "group").write_text("root:x:0:\nwww:x:44:\nextra:x:50000:www\n")
        if userns:
            mapped = root.with_name(f"{container_id}.mapped")
            mapped.mkdir()
            mount_idmapped(root, mapped, userns)
            return Rootfs(path=str(mapped), upper=str(root))
        return Rootfs(path=str(root), upper=str(root))

    async def view(self, container_id: ContainerId, image_id: ImageId, userns: str = "", label: str = "") -> Path:
        raise NotFound("image", image_id)

    async def release(self, container_id: ContainerId) -> None:
        unmount(self._folder / f"{container_id}.mapped")
        for name in (container_id, f"{container_id}.mapped"):
            shutil.rmtree(self._folder / name, ignore_errors=True)


def _busybox() -> str:
    """The node's busybox. Raises `FailedPrecondition` if there is none."""
    program = find_program("busybox")
    if not program:
        raise FailedPrecondition("missing", "installed (apt-get install busybox-static)", "busybox, of which roots are made,")
    return program
