"""WebAssembly modules as containers, by wasmtime: one class for pods of the kubelet and for tasks of containerd.

An image has a module for WASI (preview 1) in a layer; its path is the first word of the command. A container is one process,
`wasm_run.py`, and sees what WASI gives it: arguments, environment, standard streams, the image's files and the pod's volumes.
There is no exec, no terminal and no socket. `crishim coverage wasm` prints what becomes of each field of a request.
"""

import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import wasmtime

import crishim.shimv2
from crishim import BackendContext, BackendInfo, Feature, InvalidArgument, NetnsSource, Plugin
from crishim.linux.roots import path_in_root
from crishim.pods.host import host
from crishim.pods.program import ProgramRuntime
from crishim.pods.usage import MeasuredPods

RUNNER = Path(__file__).with_name("wasm_run.py")
SUPPORTED = frozenset(
    {
        Feature.USER,
        Feature.SUPPLEMENTAL_GROUPS,
        Feature.NO_NEW_PRIVS,
        Feature.READONLY_ROOTFS,
        Feature.MOUNTS,
        Feature.READONLY_MOUNTS,
        Feature.MEMORY_LIMIT,
        Feature.HOST_NETWORK,
        Feature.STDIN,
    }
)
_WASI = "WASI has no such thing"
IGNORES = {
    "PodSandboxConfig.hostname": _WASI,
    "PodSandboxConfig.dns_config": "WASI has no sockets",
    "ContainerConfig.working_dir": "a module begins in /",
    "ContainerConfig.linux.resources.cpu_shares": "no cgroup is made",
    "ContainerConfig.linux.resources.oom_score_adj": "no cgroup is made",
    "ContainerConfig.linux.security_context.masked_paths": "a module has no /proc",
    "ContainerConfig.linux.security_context.readonly_paths": "a module has no /proc",
}


class WasmRuntime(ProgramRuntime):
    """Runs the module that is the first word of a bundle's command."""

    async def probe(self) -> BackendInfo:
        return BackendInfo(name="wasmtime", version=version("wasmtime"), netns=NetnsSource.LIBRARY, supported=SUPPORTED)

    def command(self, bundle: Path, config: Mapping[str, Any]) -> Sequence[str]:
        return ("unshare", "--mount", sys.executable, "-P", str(RUNNER), str(bundle))

    async def check(self, bundle: Path, config: Mapping[str, Any]) -> None:
        name = config["process"]["args"][0]
        try:
            module = path_in_root(bundle / config["root"]["path"], name)
            wasmtime.Module.validate(wasmtime.Engine(), module.read_bytes())
        except (OSError, wasmtime.WasmtimeError) as error:
            raise InvalidArgument("config.command", f"{name} is no WebAssembly module: {error}") from error


def build(context: BackendContext) -> MeasuredPods:
    return MeasuredPods(WasmRuntime(context.runtime_state, context.keeper), context, host())


plugin = Plugin(build=build, ignores=IGNORES, supported=SUPPORTED, needs_node=True)


def shim() -> None:
    """`containerd-shim-wasm-v1`, the same behind containerd."""
    crishim.shimv2.run(WasmRuntime, name="io.containerd.wasm.v1")


if __name__ == "__main__":
    shim()
