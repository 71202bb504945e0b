"""Checkpoints: the runtime has CRIU write a container's processes to files, and restores them from these.

runc supports this since 1.0, crun if it was built with CRIU (`+CRIU` in its version). Established TCP connections are neither
dumped nor blocked, and a restored process finds them closed (criu(8), --tcp-close): the pod of the restore may have another
address, and a dump that is killed in the middle leaves no packet filter. Those that wait to be accepted are left out
(--skip-in-flight), where CRIU would refuse the dump.

CRIU has no time limit once it seizes processes, and waits forever for a stopped one (SIGSTOP) in a frozen cgroup of v1. So a
dump that writes nothing for STALL seconds is killed; its tracees go on as before.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from crishim.backends.runc.command import RuntimeCommand
from crishim.backends.runc.runtime import CONMON, RuncRuntime
from crishim.errors import CrishimError, DeadlineExceeded, Unimplemented, Unknown
from crishim.interfaces.keeper import Keeper
from crishim.interfaces.oci_runtime import Stdio
from crishim.linux.cgroup_mount import CgroupMount
from crishim.linux.cgroups import folder_of
from crishim.linux.programs import find_program
from crishim.model.container import ContainerSpec
from crishim.oci.facts import Host
from crishim.pods.bundle import write_atomically
from crishim.pods.usage import MeasuredPods

CRIU: Final = "criu"
REMEDY: Final = "apt-get install criu, 4.1 or later; 4.2 for sockets on Linux 6.16 and later"
STALL = 30.0
"""Seconds without a byte of images or log after which a dump is killed."""

_CONFIG: Final = "criu.conf"
_MESSAGE_LIMIT: Final = 2000
_HARMLESS: Final = "RLIMIT_NOFILE"
"""A message of every dump of a CRIU that may not raise its own limit."""


class CriuRuntime(RuncRuntime):
    """A `RuncRuntime` with `SupportsCheckpointRestore`."""

    def __init__(
        self, command: RuntimeCommand, sockets: Path, host: Host, keeper: Keeper | None = None, *, monitor: str = CONMON
    ) -> None:
        super().__init__(command, sockets, host, keeper, monitor=monitor)
        self._cgroup_mount = CgroupMount()

    async def require_checkpoints(self) -> None:
        """As `SupportsCheckpointRestore.require_checkpoints`."""
        if not find_program(CRIU):
            raise Unimplemented("SupportsCheckpoint", f"checkpoints need {CRIU}, which is not installed: {REMEDY}")
        if self._command.name == "crun" and b"+CRIU" not in await self._command.run("", "--version"):
            raise Unimplemented("SupportsCheckpoint", f"{self._command.program} was built without CRIU: use runc")

    async def dump_images(self, container_id: str, images: Path, work: Path) -> None:
        """As `SupportsCheckpointRestore.dump_images`."""
        places = (f"--image-path={images}", f"--work-path={work}")
        try:
            options = ("--leave-running", "--file-locks", *places)
            async with self._cgroup_mount.kept():
                dump = self._command.run(container_id, "checkpoint", *options, container_id, group=True)
                await _while_it_grows(asyncio.ensure_future(dump), (images, work))
        except DeadlineExceeded:
            raise
        except CrishimError as error:
            raise await asyncio.to_thread(_explained, error, work / "dump.log") from error

    async def restore_images(self, container_id: str, bundle: Path, stdio: Stdio, images: Path) -> int:
        """As `SupportsCheckpointRestore.restore_images`. The monitor runs the runtime's restore instead of its create."""
        request = self._request(container_id, bundle, stdio)
        async with self._cgroup_mount.kept():
            await self._begin(attrs.evolve(request, images=images, restore_args=("--file-locks",)))
            try:
                return await self._finish(container_id, bundle)
            except CrishimError as error:
                raise await asyncio.to_thread(_explained, error, bundle / "restore.log") from error


class CheckpointedPods(MeasuredPods):
    """Pods whose config.json configures CRIU: the runtime reads these options only there."""

    def _finish_config(self, spec: ContainerSpec, config: dict[str, Any]) -> None:
        super()._finish_config(spec, config)
        bundle = self._bundles / spec.id
        if not bundle.exists():  # of a pod's pause, which is never dumped
            return
        options = ["tcp-close", "skip-in-flight"]
        if self._host.cgroup_v2:  # runc does this on v1 only; without it CRIU creates the cgroup of the dumped container
            options.append(f"cgroup-root {folder_of(config['linux']['cgroupsPath'])}")
        write_atomically(bundle / _CONFIG, "".join(f"{option}\n" for option in options))
        config["annotations"]["org.criu.config"] = str(bundle / _CONFIG)


async def _while_it_grows(dump: "asyncio.Future[bytes]", folders: Sequence[Path]) -> None:
    """Wait for a dump. Raises `DeadlineExceeded` if the folders do not grow; the dump is killed."""
    loop = asyncio.get_running_loop()
    size, grown = -1, loop.time()
    try:
        while not (await asyncio.wait([dump], timeout=STALL / 10))[0]:
            now = await asyncio.to_thread(_size, folders)
            if now != size:
                size, grown = now, loop.time()
            elif loop.time() - grown >= STALL:
                raise DeadlineExceeded(f"CRIU has stood still for {STALL:.0f} s, and was killed; is a process stopped?")
    finally:
        if not dump.done():
            dump.cancel()
            await asyncio.wait([dump])
    dump.result()


def _size(folders: Sequence[Path]) -> int:
    size = 0
    for folder in folders:
        for file in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # CRIU has files for a moment
                size += file.stat().st_size
    return size


def _explained(error: CrishimError, log: Path) -> CrishimError:
    """The error with CRIU's first logged error: the runtime's message only names the log, which will be deleted."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return error
    found = next((line.partition("Error ")[2] for line in lines if "Error (" in line and _HARMLESS not in line), "")
    message = error.message.partition("\nlog file:")[0].strip()
    return Unknown(f"{message}: {found[:_MESSAGE_LIMIT]}") if found else error
