"""Pods in bubblewrap: rootless sandboxes whose images are directories.

A container is one `bwrap` with namespaces of its own for users, processes, IPC, host name and mounts, no capabilities, and the
machine's network. Its root is the image's directory, read-only, with a /tmp of its own. It ends with crishim. Any other field
of a pod is refused by its name (`SUPPORTED` lists the optional ones that are not), or listed in `IGNORES`; `crishim coverage
bubblewrap` prints all of them.
"""

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bubblewrap_images import DirectoryImages

import crishim
from crishim import ContainerId, ContainerSpec, ContainerState, ContainerStdio, Exit, Feature, NotFound
from crishim.linux.roots import program_in_root

SUPPORTED = (
    Feature.MOUNTS,
    Feature.READONLY_MOUNTS,
    Feature.READONLY_ROOTFS,
    Feature.NO_NEW_PRIVS,
    Feature.HOST_NETWORK,
    Feature.STDIN,
)
_RIGHTS = tuple(f"{message}.linux.security_context" for message in ("PodSandboxConfig", "ContainerConfig"))
IGNORES = {
    "PodSandboxConfig.dns_config": "the machine's resolver is used",
    "PodSandboxConfig.linux.cgroup_parent": "there are no cgroups",
    "ContainerConfig.linux.resources": "there are no cgroups",
    "PullImageRequest.auth": "images are directories",
    **{f"{rights}.namespace_options.network=POD": "the machine's network is used" for rights in _RIGHTS},
    **{f"{rights}.namespace_options.pid=POD": "every container has processes of its own" for rights in _RIGHTS},
    **{f"{rights}.namespace_options.ipc=POD": "every container has an IPC namespace of its own" for rights in _RIGHTS},
    "PodSandboxConfig.linux.security_context.seccomp.profile_type=RuntimeDefault": "there is no pause container",
    "PodSandboxConfig.linux.security_context.apparmor.profile_type=RuntimeDefault": "there is no pause container",
}
_FIXED = [
    *(
        "--unshare-all",
        "--share-net",
        "--unshare-user",
        "--cap-drop",
        "ALL",
        "--die-with-parent",
        "--as-pid-1",
        "--new-session",
    ),
    *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--clearenv"),
]
_PRIVATE = ("unshare", *(() if os.geteuid() == 0 else ("--user", "--map-current-user")), "--mount", "--propagation", "private")
"""bwrap's mounts are slaves of those where it is started: without this, later mounts of the machine would be in containers."""
_OWN = {"proc", "dev", "tmp", "sys"}  # created by bwrap, or absent


def command(spec: ContainerSpec, root: Path, info: int) -> list[str]:
    """The command line of a container over the image in `root`; bwrap writes its process's pid to the descriptor `info`."""
    words = [*_PRIVATE, "bwrap", "--info-fd", str(info)]
    for entry in sorted(root.iterdir()):
        if entry.is_symlink():
            words += ["--symlink", str(entry.readlink()), f"/{entry.name}"]
        elif entry.name not in _OWN:
            words += ["--ro-bind", str(entry), f"/{entry.name}"]
    words += _FIXED
    if hostname := spec.sandbox.config.hostname:
        words += ["--hostname", hostname]
    for mount in spec.mounts:
        if reachable(root, mount.container_path):
            words += ["--ro-bind" if mount.readonly else "--bind", mount.host_path, mount.container_path]
        elif mount.container_path != "/etc/hosts":
            raise crishim.InvalidArgument("config.mounts.container_path", f"{mount.container_path} must exist in the image")
    for key, value in spec.env.items():
        words += ["--setenv", key, value]
    return [*words, "--remount-ro", "/", "--chdir", spec.cwd, "--", *spec.argv]


def reachable(root: Path, path: str) -> bool:
    """Whether a mount point exists there, or can be created: at the top, or below a path that is not the image's."""
    top = Path(path).parts[1]
    return top in {"dev", "tmp"} or not (root / top).exists() or (root / path.lstrip("/")).exists()


def find(root: Path, spec: ContainerSpec) -> None:
    """Raise `crishim.InvalidArgument` for a program that the image does not have: bwrap itself would fail too late."""
    program = spec.argv[0]
    try:
        program_in_root(root, program, spec.env.get("PATH", ""), cwd=spec.cwd)
    except OSError as error:
        raise crishim.InvalidArgument("config.command", f"{program}: not found in the image") from error


class BubblewrapBackend(crishim.Backend, crishim.SupportsAttach, crishim.SupportsLogReopen):
    def __init__(self, context: crishim.BackendContext) -> None:
        self._clock = context.clock
        self._images = DirectoryImages(context)
        self._sandboxes: dict[crishim.SandboxId, bool] = {}
        self._specs: dict[ContainerId, ContainerSpec] = {}
        self._stdio: dict[ContainerId, ContainerStdio] = {}
        self._runs: dict[ContainerId, tuple[asyncio.Task[int], asyncio.Task[Exit]]] = {}
        self._starts: dict[ContainerId, asyncio.Task[None]] = {}

    async def probe(self) -> crishim.BackendInfo:
        if shutil.which("bwrap") is None:
            raise crishim.Unavailable("bwrap is not on PATH: apt-get install bubblewrap")
        return crishim.BackendInfo(
            name="bubblewrap", version="1.0.0", netns=crishim.NetnsSource.NONE, supported=frozenset(SUPPORTED)
        )

    async def inventory(self) -> crishim.Inventory:
        sandboxes = tuple(crishim.ObservedSandbox(id=id, ready=ready) for id, ready in self._sandboxes.items())
        return crishim.Inventory(sandboxes=sandboxes, containers=tuple(self._observed()))

    async def start_sandbox(self, spec: crishim.SandboxSpec) -> crishim.SandboxStarted:
        self._sandboxes[spec.id] = True
        return crishim.SandboxStarted()

    async def stop_sandbox(self, sandbox_id: crishim.SandboxId) -> None:
        self._known(self._sandboxes, sandbox_id)
        self._sandboxes[sandbox_id] = False

    async def remove_sandbox(self, sandbox_id: crishim.SandboxId) -> None:
        self._known(self._sandboxes, sandbox_id)
        del self._sandboxes[sandbox_id]

    async def create_container(self, spec: ContainerSpec) -> None:
        self._images.root(spec.image_id)
        self._specs[spec.id] = spec

    async def start_container(self, container_id: ContainerId) -> None:
        """A cancelled start goes on to its end: of a bwrap that is killed as it begins, the child may survive."""
        self._starts[container_id] = asyncio.create_task(self._start(self._known(self._specs, container_id)))
        await asyncio.shield(self._starts[container_id])

    async def _start(self, spec: ContainerSpec) -> None:
        root = self._images.root(spec.image_id)
        find(root, spec)
        reader, writer = os.pipe()
        stdio = ContainerStdio(spec, self._clock)
        try:
            words, ends = command(spec, root, writer), stdio.open()
            child = await asyncio.create_subprocess_exec(
                *words, stdin=ends.stdin, stdout=ends.stdout, stderr=ends.stderr, pass_fds=(writer,), env={"PATH": os.defpath}
            )
        except BaseException:
            os.close(reader)
            await stdio.close()
            raise
        finally:
            os.close(writer)
        stdio.started()
        self._stdio[spec.id] = stdio
        watch = asyncio.create_task(self._watch(child, stdio))
        self._runs[spec.id] = asyncio.create_task(asyncio.to_thread(first_pid, reader)), watch
        await self._runs[spec.id][0]

    async def kill_container(self, container_id: ContainerId, signal: int) -> None:
        first, watch = self._known(self._runs, container_id)
        if (pid := await first) and not watch.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal)

    async def wait_container(self, container_id: ContainerId) -> Exit:
        return await asyncio.shield(self._known(self._runs, container_id)[1])

    async def remove_container(self, container_id: ContainerId) -> None:
        self._known(self._specs, container_id)
        if container_id in self._starts:
            await asyncio.wait({self._starts[container_id]})
        if container_id in self._runs:  # it has ended, unless its start was cancelled
            await self.kill_container(container_id, 9)
            await self.wait_container(container_id)
        for table in (self._specs, self._starts, self._runs, self._stdio):
            table.pop(container_id, None)

    async def attach(self, container_id: ContainerId, io: Any) -> None:
        await self._known(self._stdio, container_id).attach(io)

    async def reopen_log(self, container_id: ContainerId) -> None:
        self._known(self._stdio, container_id).reopen()

    async def _watch(self, child: asyncio.subprocess.Process, stdio: ContainerStdio) -> Exit:
        returncode = await child.wait()
        await stdio.drained()
        await stdio.close()
        return Exit.from_returncode(returncode)

    def _observed(self) -> Iterator[crishim.ObservedContainer]:
        for id, spec in self._specs.items():
            watch = self._runs[id][1] if id in self._runs else None
            end = watch.result() if watch and watch.done() else None
            state = ContainerState.EXITED if end else ContainerState.RUNNING if watch else ContainerState.CREATED
            yield crishim.ObservedContainer(id=id, sandbox_id=spec.sandbox.id, state=state, exit=end)

    def _known(self, items: Mapping[Any, Any], key: str) -> Any:
        if key not in items:
            raise NotFound("sandbox or container", key)
        return items[key]


def first_pid(reader: int) -> int:
    """The pid of bwrap's child, once bwrap has forked; 0 if it has failed."""
    with os.fdopen(reader, "rb") as file:
        info = file.read()
    return int(json.loads(info)["child-pid"]) if info else 0


plugin = crishim.Plugin(
    build=BubblewrapBackend,
    images=DirectoryImages,
    ignores=IGNORES,
    exam={"survives_restart": False, "writable_root": False},
)
