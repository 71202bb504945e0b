"""Containers that are one command line each: pods of the kubelet and tasks of containerd, from one class.

Here the command enters the pod's network, IPC and host name, and runs the program in a PID namespace and a root of its own. An
engine that runs bundles itself needs less: `("my-engine", "run", str(bundle))`.
"""

import asyncio
import json
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import crishim.shimv2
from crishim import BackendContext, BackendInfo, Feature, InvalidArgument, NetnsSource, NotFound, Plugin
from crishim.linux.bundle_mounts import hide_paths, mount_bundle
from crishim.linux.roots import program_in_root
from crishim.pods.bundle import load_config
from crishim.pods.host import host
from crishim.pods.privileges import limit_capabilities
from crishim.pods.program import ExecProgramRuntime
from crishim.pods.usage import MeasuredPods

SUPPORTED = frozenset({Feature.STDIN, Feature.HOST_NETWORK})  # a pod that sets another one is refused by its name
PYTHON = os.path.realpath(sys.executable)
READ_ONLY = 'mount -o bind,ro "$0" "$0" && exec "$@"'  # a container could write to it by /proc/self/exe
UNSAFE = {"CAP_SYS_CHROOT", "CAP_MKNOD"}  # by which a root that is only a chroot, without a device cgroup, can be left
ENTERED = {"network": "--net", "ipc": "--ipc", "uts": "--uts"}
IGNORES = {
    f"{message}.linux.security_context.namespace_options.pid=POD": "every container has processes of its own"
    for message in ("PodSandboxConfig", "ContainerConfig")
}


class NamespaceRuntime(ExecProgramRuntime):
    async def probe(self) -> BackendInfo:
        return BackendInfo(name="namespaces", version="1.0.0", netns=NetnsSource.LIBRARY, supported=SUPPORTED)

    def command(self, bundle: Path, config: Mapping[str, Any]) -> Sequence[str]:
        spaces = {space["type"]: space.get("path", "") for space in config["linux"]["namespaces"]}
        entered = [f"{option}={spaces[kind]}" for kind, option in ENTERED.items() if spaces.get(kind)]
        pids = () if spaces.get("pid") or "pid" not in spaces else ("--pid",)
        return (
            "nsenter",
            *entered,
            "unshare",
            *pids,
            "--mount",
            "--fork",
            "--kill-child",
            *("sh", "-c", READ_ONLY, PYTHON, sys.executable),
            __file__,
            str(bundle),
        )

    async def exec_command(self, bundle: Path, process: Mapping[str, Any], pid: int) -> Sequence[str]:
        while not (first := inside(pid)):
            await asyncio.sleep(0.005)
        with tempfile.NamedTemporaryFile("w", dir=bundle, delete=False) as request:  # arguments could be read by anybody
            json.dump(process, request)
        return (
            "nsenter",
            f"--target={first}",
            *("--mount", "--pid", "--net", "--ipc", "--uts"),
            sys.executable,
            __file__,
            str(bundle),
            request.name,
        )

    async def check(self, bundle: Path, config: Mapping[str, Any]) -> None:
        process = config["process"]
        name = process["args"][0]
        try:
            program_in_root(bundle / config["root"]["path"], name, variables(process).get("PATH", ""), cwd=process["cwd"])
        except OSError as error:
            raise InvalidArgument("config.command", f"{name}: {error.strerror}") from error


def build(context: BackendContext) -> MeasuredPods:
    return MeasuredPods(NamespaceRuntime(context.runtime_state, context.keeper), context, host())


plugin = Plugin(build=build, ignores=IGNORES, supported=SUPPORTED, needs_node=True)


def variables(process: Mapping[str, Any]) -> dict[str, str]:
    return dict(variable.split("=", 1) for variable in process.get("env", ()))


def inside(pid: int) -> int:
    """The first process of a container, once it has its root; `unshare`, with this pid, stays outside. 0 before."""
    try:
        child = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return int(child) if child and str(Path(f"/proc/{int(child)}/root").readlink()) != "/" else 0
    except OSError as error:
        raise NotFound("process", str(pid)) from error


def enter(bundle: Path, request: str = "") -> None:
    """In the namespaces of a container: mount what its bundle names, unless it is an exec, and become the program."""
    config = load_config(bundle)
    root, linux = bundle / config["root"]["path"], config["linux"]
    process = json.loads(Path(request).read_text()) if request else config["process"]
    if request:
        Path(request).unlink()
    else:
        mount_bundle(root, config["mounts"], kinds=frozenset({"proc", "tmpfs"}))
        hide_paths(root, linux.get("maskedPaths") or (), linux.get("readonlyPaths") or ())
    if "oomScoreAdj" in process:
        Path("/proc/self/oom_score_adj").write_text(str(process["oomScoreAdj"]))
    os.chroot(root)
    os.chdir(process["cwd"])
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and so would the program
    limit_capabilities({*process.get("capabilities", {}).get("bounding", ())} - UNSAFE)
    try:
        os.execvpe(process["args"][0], process["args"], variables(process))  # which only what is in the root may see
    except OSError as error:
        print(f"{process['args'][0]}: {error.strerror}", file=sys.stderr)
        sys.exit(127)


if __name__ == "__main__":
    if len(sys.argv) > 1 and Path(sys.argv[1]).is_dir():
        enter(Path(sys.argv[1]), *sys.argv[2:])
    crishim.shimv2.run(NamespaceRuntime, name="io.containerd.namespaces.v1")
