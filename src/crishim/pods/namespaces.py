"""Pinned namespaces: a pod without a pause process.

One unshare(2) in a thread creates a pod's network, IPC and UTS namespaces; each is bound to a file `<folder>/<sandbox
id>/<kind>`, and hostname and sysctls are set inside; sysctls of interfaces are set after the network's setup. A namespace
exists as long as its file is mounted. This does not work for a PID namespace: it ends with its first process.

For a pod with a user namespace that one is created first, and the others inside it, since the owner of a namespace has the
capabilities in it. Nothing can be mounted outside from within it, so two processes run for a moment, and their namespaces are
bound from here.
"""

import asyncio
import contextlib
import os
import shutil
import socket
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from pathlib import Path
from typing import Final

from crishim.errors import CrishimError, FailedPrecondition, InvalidArgument, Unknown, from_os_error
from crishim.linux import processes
from crishim.linux.children import children
from crishim.linux.mounts import MS_BIND, MS_PRIVATE, is_mount_root, mount, mounts_below, unmount, unmount_below
from crishim.linux.namespaces import inside, unshared
from crishim.linux.pins import pin
from crishim.model.sandbox import SandboxSpec
from crishim.model.security import NamespaceMode, UserNamespace
from crishim.model.values import SandboxId

KINDS: Final = ("net", "ipc", "uts", "user")

_FIELD: Final = "config.linux.security_context.namespace_options"
_STAY: Final = ("sh", "-c", "echo; read done; :")
"""A process that prints a line when it runs, and exits when its input ends."""

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
    """Refuse sysctls that do not belong to one of the pod's own namespaces: writing them would change the node.

    The lists are runc's (libcontainer/configs/validate, sysctl). Raises `InvalidArgument` naming the sysctl.
    """
    for name in names:
        if not all(part.replace("_", "").replace("-", "").isalnum() for part in name.replace("/", ".").split(".")):
            raise InvalidArgument(f"config.linux.sysctls[{name}]", "is not a name of a sysctl")
        dotted = name.replace("/", ".")
        if dotted in _IPC_SYSCTLS or dotted.startswith("fs.mqueue."):
            kind = "ipc"
        elif dotted.startswith("net."):
            kind = "net"
        else:
            kind = "uts" if dotted == "kernel.domainname" else ""
        if kind not in kinds:
            raise InvalidArgument(f"config.linux.sysctls[{name}]", "does not belong to a namespace of the pod")


def sysctl_parts(name: str) -> list[str]:
    """The name of a sysctl as folders below /proc/sys, by the rules of sysctl.d(5).

    The first dot or slash decides which of them separates; the other is part of a name: `net/ipv4/conf/eth0.1/forwarding`
    equals `net.ipv4.conf.eth0/1.forwarding`.
    """
    if "/" in name.split(".", 1)[0]:
        return name.split("/")
    return [part.replace("/", ".") for part in name.split(".")]


def of_interface(name: str) -> bool:
    """Whether a sysctl belongs to an interface, which a new network namespace does not have yet."""
    match sysctl_parts(name):
        case ["net", _, "conf" | "neigh", interface, _]:
            return interface not in {"all", "default", "lo"}
    return False


class NoNamespaces:
    """For a node without backends that need namespaces: a pod must not use the node's network instead of its own."""

    async def create(self, spec: SandboxSpec) -> str:
        """Raise `FailedPrecondition` for a pod that needs a network of its own."""
        if not spec.host_network:
            subject = "the plug-in, whose backend leaves network namespaces to the library (NetnsSource.LIBRARY),"
            raise FailedPrecondition("declared without them", "declared with `needs_node`", subject)
        return ""

    async def connected(self, spec: SandboxSpec) -> None:
        """Do nothing: no pod has namespaces."""

    def path(self, sandbox_id: SandboxId, kind: str) -> str:  # noqa: ARG002 - no pod has namespaces
        """Always empty."""
        return ""

    async def remove(self, sandbox_id: SandboxId) -> None:
        """Do nothing: no pod has namespaces."""


class PinnedNamespaces:
    """Creates, finds and removes pods' namespaces below `folder`, which becomes a private mount of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._private = False
        _unstack(folder)

    def path(self, sandbox_id: SandboxId, kind: str) -> str:
        """The file of a namespace, `net`, `ipc`, `uts` or `user`; empty if the pod uses the host's."""
        file = self._folder / sandbox_id / kind
        return str(file) if file.exists() else ""

    async def create(self, spec: SandboxSpec) -> str:
        """As `SandboxNamespaces.create`."""
        options = spec.namespaces
        kinds = ["net", "uts"] if options.network is not NamespaceMode.NODE else []
        if options.ipc is not NamespaceMode.NODE:
            kinds.append("ipc")
        check_sysctls(spec.config.linux.sysctls, kinds)
        userns = options.userns_options
        mapped = userns is not None and userns.mode is NamespaceMode.POD
        if not kinds and not mapped:
            return ""
        self._make_private()
        pins = self._folder / spec.id
        pins.mkdir(mode=0o700)
        for kind in [*kinds, *(["user"] if mapped else [])]:
            (pins / kind).touch()
        try:
            if userns is not None and mapped:
                await self._unshare_mapped(spec, kinds, userns)
            else:
                await asyncio.to_thread(unshared, kinds, lambda: _pin(pins, spec, kinds))
        except BaseException:
            with contextlib.suppress(CrishimError):
                await self.remove(spec.id)
            raise
        return self.path(spec.id, "net")

    async def connected(self, spec: SandboxSpec) -> None:
        """As `SandboxNamespaces.connected`: set the sysctls of the interfaces that CNI plug-ins have created."""
        late = {name: value for name, value in spec.config.linux.sysctls.items() if of_interface(name)}
        if late and (refused := await asyncio.to_thread(inside, self.path(spec.id, "net"), lambda: _set_sysctls(late))):
            raise _refusal(refused[0], late[refused[0]], "Permission denied")

    async def remove(self, sandbox_id: SandboxId) -> None:
        """As `SandboxNamespaces.remove`."""
        pins = self._folder / sandbox_id
        for kind in KINDS:
            unmount(pins / kind)
        shutil.rmtree(pins, ignore_errors=True)

    async def collect(self, sandbox_ids: Collection[SandboxId]) -> None:
        """Remove the namespaces of every sandbox that is not in `sandbox_ids`."""
        for pins in sorted(self._folder.glob("*")):
            if pins.name not in sandbox_ids:
                await self.remove(SandboxId(pins.name))

    def close(self) -> None:
        """Unmount the folder, with all namespaces that are still pinned in it. Namespaces in use continue to exist."""
        unmount_below(self._folder)
        self._private = False

    async def _unshare_mapped(self, spec: SandboxSpec, kinds: list[str], userns: UserNamespace) -> None:
        pins = self._folder / spec.id
        async with user_namespace(userns) as first:
            _pin_from(first, "user", pins)
        if not kinds:
            return
        inner = ("nsenter", f"--user={pins / 'user'}", "--setuid=0", "--setgid=0")
        async with _staying(*inner, "unshare", *(f"--{kind}" for kind in kinds), *_STAY) as second:
            for kind in kinds:
                _pin_from(second, kind, pins)
        # only the node's root may set the hostname through /proc, not the owner of the namespaces
        refused = await asyncio.to_thread(inside, [str(pins / kind) for kind in kinds], lambda: _configure(spec, kinds))
        enter = (*inner, *(f"--{kind}={pins / kind}" for kind in kinds))
        for name in refused:
            await _write_as_owner(enter, name, spec.config.linux.sysctls[name])

    def _make_private(self) -> None:
        """Prevent that pins propagate to other mount namespaces, where they could not be unmounted."""
        if self._private:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        if not is_mount_root(self._folder):
            mount(str(self._folder), self._folder, flags=MS_BIND)
        mount("", self._folder, flags=MS_PRIVATE)
        self._private = True


@contextlib.asynccontextmanager
async def user_namespace(userns: UserNamespace) -> AsyncIterator[int]:
    """Run a process in a user namespace with these mappings inside the `async with`; its pid. Raises `InvalidArgument`."""
    async with _staying("unshare", "--user", *_STAY) as pid:
        for name, lines in (("uid_map", userns.uids), ("gid_map", userns.gids)):
            text = "".join(f"{line.container_id} {line.host_id} {line.length}\n" for line in lines)
            try:
                Path(f"/proc/{pid}/{name}").write_text(text, encoding="ascii")  # noqa: ASYNC240 - procfs does not block
            except OSError as error:
                raise InvalidArgument(f"{_FIELD}.userns_options", f"{text.strip()!r}: {error.strerror}") from error
        yield pid


def _unstack(folder: Path) -> None:
    """Unmount further binds of the folder over itself, below which older pins are hidden; the newer pins are moved.

    Earlier versions added one at each start of a server, and pinned new pods on top of it.
    """
    while True:
        mounts = mounts_below(folder)
        here = {mount.id: mount for mount in mounts if mount.path == os.path.realpath(folder)}
        hidden = {mount.parent for mount in here.values()}
        top = next((mount for mount in here.values() if mount.id not in hidden), None)
        below = here.get(top.parent) if top else None
        if top is None or below is None or (top.device, top.root) != (below.device, below.root):
            return
        with contextlib.ExitStack() as stack:
            pins = []
            for pin in mounts:
                if pin.parent == top.id:
                    descriptor = os.open(pin.path, os.O_RDONLY | os.O_CLOEXEC)
                    stack.callback(os.close, descriptor)
                    pins.append((descriptor, pin.path))
            if not unmount(folder):
                raise FailedPrecondition("mounted twice", "mounted once", str(folder))
            for descriptor, path in pins:
                if not is_mount_root(path):
                    mount(f"/proc/self/fd/{descriptor}", path, flags=MS_BIND)


def _pin(pins: Path, spec: SandboxSpec, kinds: Collection[str]) -> None:
    """In new namespaces: set hostname and sysctls, and bind the namespaces to their files."""
    if refused := _configure(spec, kinds):
        raise _refusal(refused[0], spec.config.linux.sysctls[refused[0]], "Permission denied")
    for kind in kinds:
        mount(f"/proc/thread-self/ns/{kind}", pins / kind, flags=MS_BIND)


def _pin_from(pid: int, kind: str, pins: Path) -> None:
    process = processes.read(pid)
    if process is None or not pin(process.identity, kind, pins / kind):
        raise Unknown(f"the process with the pod's new {kind} namespace has ended")


def _configure(spec: SandboxSpec, kinds: Collection[str]) -> list[str]:
    """In a pod's namespaces: set hostname and sysctls. Returns the sysctls that only the owner of the namespaces may write.

    Since Linux 5.19 (`ipc_permissions`, `mq_permissions`) these are those of IPC and of message queues.
    """
    if "uts" in kinds and spec.config.hostname:
        try:
            socket.sethostname(spec.config.hostname)  # SELinux allows servers this, and no write of the sysctl
        except OSError as error:
            raise from_os_error(error, "setting the pod's hostname") from error
    return _set_sysctls({name: value for name, value in spec.config.linux.sysctls.items() if not of_interface(name)})


def _set_sysctls(values: Mapping[str, str]) -> list[str]:
    """Set sysctls. Returns those for which the kernel requires the root user of the user namespace that owns theirs."""
    refused = []
    for name, value in values.items():
        try:
            # with a newline, since an empty write(2) has no effect
            _sysctl(name).write_text(f"{value}\n", encoding="utf-8")
        except PermissionError:
            refused.append(name)
        except OSError as error:
            raise _refusal(name, value, str(error.strerror)) from error
    return refused


def _sysctl(name: str) -> Path:
    return Path("/proc/sys", *sysctl_parts(name))


def _refusal(name: str, value: str, reason: str) -> InvalidArgument:
    return InvalidArgument(f"config.linux.sysctls[{name}]", f"{value!r}: {reason}")


async def _write_as_owner(enter: tuple[str, ...], name: str, value: str) -> None:
    """Set a sysctl as root of a user namespace; `enter` is the nsenter command that enters it."""
    process = await _start(*enter, "tee", str(_sysctl(name)))
    _, complaint = await process.communicate(f"{value}\n".encode())
    if process.returncode:
        raise _refusal(name, value, complaint.decode("utf-8", "replace").strip().rpartition(": ")[2])


async def _start(*command: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    try:
        return await children.start(*command, stdin=pipe, stdout=pipe, stderr=pipe)
    except FileNotFoundError as error:
        raise FailedPrecondition("missing", "installed", f"{command[0]} (util-linux)") from error


async def _finished(process: asyncio.subprocess.Process) -> None:
    """Wait for the end of a process. Raises `Unknown` with its stderr."""
    _, stderr = await process.communicate(b"")
    if process.returncode:
        raise Unknown(f"unshare: {stderr.decode('utf-8', 'replace').strip()}")


@contextlib.asynccontextmanager
async def _staying(*command: str) -> AsyncIterator[int]:
    """Run a command and yield its pid once it has printed a line; it exits with the `async with`. Raises if it fails."""
    process = await _start(*command)
    assert process.stdout is not None
    try:
        if await process.stdout.readline():
            yield process.pid
    finally:
        await _finished(process)
