"""Containers that are one command line each: pods of the kubelet and tasks of containerd, from one class.

Here the command enters the pod's network, IPC and host name, and runs the program in a PID namespace and a root of its own. An
engine that runs bundles itself needs less: `("my-engine", "run", str(bundle))`.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import crishim.shimv2
from crishim import BackendContext, BackendInfo, Feature, InvalidArgument, NetnsSource, Plugin
from crishim.linux.bundle_mounts import mount_bundle
from crishim.linux.roots import program_in_root
from crishim.pods.bundle import load_config
from crishim.pods.host import host
from crishim.pods.program import ProgramRuntime
from crishim.pods.usage import MeasuredPods

SUPPORTED = frozenset({Feature.STDIN, Feature.HOST_NETWORK})  # a pod that sets another one is refused by its name
ENTERED = {"network": "--net", "ipc": "--ipc", "uts": "--uts"}
IGNORES = {
    f"{message}.linux.security_context.namespace_options.pid=POD": "every container has processes of its own"
    for message in ("PodSandboxConfig", "ContainerConfig")
}


class NamespaceRuntime(ProgramRuntime):
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
            sys.executable,
            __file__,
            str(bundle),
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


def enter(bundle: Path) -> None:
    """The process of a container, in its namespaces: mount what its bundle names, and become the program in its root."""
    config = load_config(bundle)
    process, root = config["process"], bundle / config["root"]["path"]
    mount_bundle(root, config["mounts"], kinds=frozenset({"proc", "tmpfs"}))
    os.chroot(root)
    os.chdir(process["cwd"])
    os.execvpe(process["args"][0], process["args"], variables(process))  # which only what is in the root may see


if __name__ == "__main__":
    if len(sys.argv) == 2 and Path(sys.argv[1]).is_dir():
        enter(Path(sys.argv[1]))
    crishim.shimv2.run(NamespaceRuntime, name="io.containerd.namespaces.v1")
