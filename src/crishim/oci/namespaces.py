"""Pinned namespaces: a pod without a pause process.

One `unshare` makes a pod's network, IPC and UTS namespaces and binds each to a file `<folder>/<sandbox id>/<kind>`; hostname
and sysctls are set inside. A namespace lives as long as its file is mounted. A process namespace cannot be kept so: it dies
with its first process.
"""

import asyncio
import contextlib
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

from crishim.errors import CrishimError, FailedPrecondition, InvalidArgument, Unknown
from crishim.model.ids import SandboxId
from crishim.model.sandbox import SandboxSpec
from crishim.model.security import NamespaceMode
from crishim.mounting import MS_BIND, MS_PRIVATE, mount, unmount, unmount_below

KINDS: Final = ("net", "ipc", "uts")

_SCRIPT: Final = """
[ -z "$1" ] || echo "$1" > /proc/sys/kernel/hostname || exit 1
shift
for pair; do
    echo "${pair#*=}" > "/proc/sys/${pair%%=*}" || { echo "sysctl $pair" >&2; exit 1; }
done
"""


_IPC_SYSCTLS: Final = frozenset(
    {
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    }
)


def check_sysctls(names: Iterable[str], kinds: Collection[str]) -> None:
    """Refuse every sysctl that is not of one of the pod's own namespaces: written from there it would be the node's.

    The lists are runc's (libcontainer's validation of sysctls). Raises `InvalidArgument` naming the sysctl.
    """
    for name in names:
        if not all(part.replace("_", "").replace("-", "").isalnum() for part in name.replace("/", ".").split(".")):
            raise InvalidArgument(f"config.linux.sysctls[{name}]", "is not the name of a sysctl")
        dotted = name.replace("/", ".")
        if dotted in _IPC_SYSCTLS or dotted.startswith("fs.mqueue."):
            kind = "ipc"
        elif dotted.startswith("net."):
            kind = "net"
        else:
            kind = "uts" if dotted == "kernel.domainname" else ""
        if kind not in kinds:
            raise InvalidArgument(f"config.linux.sysctls[{name}]", "is not of a namespace of the pod's own")


class PinnedNamespaces:
    """Makes, finds and lets go of pods' namespaces below `folder`, which is made a private mount of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._private = False

    def path(self, sandbox_id: SandboxId, kind: str) -> str:
        """The file of a namespace, `net`, `ipc` or `uts`; empty where the pod uses the host's."""
        file = self._folder / sandbox_id / kind
        return str(file) if file.exists() else ""

    async def create(self, spec: SandboxSpec) -> str:
        """As `SandboxNamespaces.create`."""
        options = spec.namespaces
        kinds = ["net", "uts"] if options.network is not NamespaceMode.NODE else []
        if options.ipc is not NamespaceMode.NODE:
            kinds.append("ipc")
        check_sysctls(spec.config.linux.sysctls, kinds)
        if not kinds:
            return ""
        self._make_private()
        pins = self._folder / spec.id
        pins.mkdir(mode=0o700)
        for kind in kinds:
            (pins / kind).touch()
        hostname = spec.config.hostname if "uts" in kinds else ""
        await self._unshare(spec, [f"--{kind}={pins / kind}" for kind in kinds], hostname)
        return self.path(spec.id, "net")

    async def remove(self, sandbox_id: SandboxId) -> None:
        """As `SandboxNamespaces.remove`."""
        pins = self._folder / sandbox_id
        for kind in KINDS:
            unmount(pins / kind)
        shutil.rmtree(pins, ignore_errors=True)

    def close(self) -> None:
        """Let go of the folder's own mount, and of what is still pinned in it. Namespaces in use live on."""
        unmount_below(self._folder)
        self._private = False

    async def _unshare(self, spec: SandboxSpec, pins: list[str], hostname: str) -> None:
        sysctls = []
        for name, value in spec.config.linux.sysctls.items():
            sysctls.append(f"{name.replace('.', '/')}={value}")
        try:
            process = await asyncio.create_subprocess_exec(
                "unshare",
                *pins,
                "sh",
                "-c",
                _SCRIPT,
                "sh",
                hostname,
                *sysctls,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
        except FileNotFoundError as error:
            raise FailedPrecondition("missing", "installed", "unshare (util-linux)") from error
        _, told = await process.communicate()
        if process.returncode:
            text = told.decode("utf-8", "replace").strip()
            with contextlib.suppress(CrishimError):
                await self.remove(spec.id)
            if "sysctl " in text:
                raise InvalidArgument("config.linux.sysctls", text)
            raise Unknown(f"unshare: {text}")

    def _make_private(self) -> None:
        """Pins must not travel to other mount namespaces, or nobody could let go of them all."""
        if self._private:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self._folder.is_mount():
            mount(str(self._folder), self._folder, flags=MS_BIND)
            mount("", self._folder, flags=MS_PRIVATE)
        self._private = True
