"""What kata's shim keeps on the node for a sandbox, and how it is freed once the shim has ended.

There are folders below /run/vc and /run/kata-containers, with bind mounts of root file systems; the hypervisor and virtiofsd,
which have these folders or the sandbox in their command lines; and the cgroup of the machine's overhead. Kata's `delete` may
succeed and leave some of it, so all of it is checked after the end of every sandbox.
"""

import asyncio
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from crishim.linux import processes
from crishim.linux.cgroups import Cgroups
from crishim.linux.children import children
from crishim.linux.mounts import mounts_below, unmount_below
from crishim.pods.host import cgroup_v2
from crishim.shimv2.client.binary import ShimBinary, one_line
from crishim.shimv2.client.cleanup import end_process

PROGRAMS: Final = ("/opt/kata/bin",)
"""The folder of kata's own packages for programs, which is not on PATH."""

_FOLDERS: Final = ("run/vc/sbs", "run/vc/vm", "run/kata-containers/shared/sandboxes")
_OVERHEAD: Final = "/kata_overhead"


@attrs.frozen(kw_only=True)
class KataBinary(ShimBinary):
    """A ShimBinary for kata's shim: where it is installed, and what it leaves. `root` is the root of the node's files."""

    folders: tuple[str, ...] = PROGRAMS

    root: Path = Path("/")
    cgroups: Cgroups = attrs.field(factory=lambda: Cgroups(v2=cgroup_v2()))

    async def version(self, folder: Path) -> str:
        """Kata's own version: `-v` would print that of containerd's library. `--version` works only as the single argument."""
        return one_line(await self._run_bare(folder, b"", "--version"))

    async def kill_helpers(self, sandbox_id: str) -> None:
        """As `ShimBinary.kill_helpers`: a machine without its shim can only be killed, and `delete` may wait for its end."""
        for process in await asyncio.to_thread(lambda: list(helpers(sandbox_id, self.root))):
            children.collect_at_end(process.pid)
            await asyncio.to_thread(end_process, process.pid, process.start)

    async def remove_leftovers(self, sandbox_id: str) -> list[str]:
        """As `ShimBinary.remove_leftovers`. Processes are searched only if there are folders or a cgroup."""
        overhead = f"{_OVERHEAD}/{sandbox_id}"
        if not left_of(sandbox_id, self.root) and not self.cgroups.exists(overhead):
            return []
        await self.kill_helpers(sandbox_id)
        await asyncio.to_thread(self._remove, sandbox_id, overhead)
        left = [str(path) for path in left_of(sandbox_id, self.root)]
        if self.cgroups.exists(overhead):
            left.append(f"the cgroup {overhead}")
        alive = await asyncio.to_thread(lambda: list(helpers(sandbox_id, self.root)))
        return [*left, *(f"process {process.pid}" for process in alive)]

    def _remove(self, sandbox_id: str, overhead: str) -> None:
        for path in left_of(sandbox_id, self.root):
            unmount_below(path)
            if not mounts_below(path):  # a mount has a container's files, which must not be deleted
                shutil.rmtree(path, ignore_errors=True)
        self.cgroups.remove(overhead)


def left_of(sandbox_id: str, root: Path = Path("/")) -> list[Path]:
    """The existing folders of a sandbox."""
    return [path for folder in _FOLDERS if (path := root / folder / sandbox_id).exists()]


def helpers(sandbox_id: str, root: Path = Path("/")) -> Iterator[processes.Identity]:
    """The helper processes of a sandbox's machine. Scans all processes of the node."""
    marks = [os.fsencode(f"sandbox-{sandbox_id}"), *(os.fsencode(root / folder / sandbox_id) for folder in _FOLDERS[1:])]
    for pid, process in processes.all_processes().items():
        if pid == os.getpid() or process.ended:
            continue
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if any(mark in command for mark in marks):
            yield process.identity
