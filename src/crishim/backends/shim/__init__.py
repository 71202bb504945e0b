"""Pods over an external shim v2 binary: runc's, and others that behave like it.

Options: `shim` (a runtime name or a program; default `io.containerd.runc.v2`), `namespace` (default `crishim`), `runtime` (the
program behind runc's shim; default runc), `config_path` (a configuration for a shim that takes runtimeoptions.v1), `bootstrap`
(whether `start` reads BootstrapParams; detected by default).
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from crishim.backends.runc.command import NEWEST, RuntimeCommand
from crishim.backends.shim.runc import RuncShimBinary, RuncShimRuntime
from crishim.errors import InvalidArgument
from crishim.interfaces.backend import Backend, BackendContext
from crishim.interfaces.plugin import Plugin
from crishim.interfaces.seats import Finding
from crishim.linux.programs import find_program
from crishim.model.runtime import CgroupDriver
from crishim.model.sandbox import SandboxSpec, SandboxStarted
from crishim.oci.facts import Host
from crishim.oci.ignores import ignores
from crishim.pods.host import host
from crishim.pods.usage import MeasuredPods
from crishim.shimv2.client.binary import ShimBinary, binary_name
from crishim.shimv2.client.files import SHIMS
from crishim.shimv2.client.runtime import Options, ShimRuntime, no_options
from crishim.shimv2.wire.messages import runtime_options

__all__ = ["RuncShimRuntime", "plugin", "shim_binary"]

_DEFAULT: Final = "io.containerd.runc.v2"
_TYPES: Final[dict[str, type]] = {
    "shim": str,
    "namespace": str,
    "runtime": str,
    "config_path": str,
    "bootstrap": bool,
}


class ShimPods(MeasuredPods):
    """Pods over shims. One that serves the Sandbox service gets the pod as a pod."""

    def __init__(self, runtime: ShimRuntime, context: BackendContext, host: Host) -> None:
        super().__init__(runtime, context, host, sandbox_container=True)
        self._shims = runtime

    async def start_sandbox(self, spec: SandboxSpec) -> SandboxStarted:
        with self._shims.announced(spec):
            return await super().start_sandbox(spec)


def build(context: BackendContext) -> Backend:
    """The backend. Raises `InvalidArgument` naming an option that is unknown or of a wrong type."""
    options = checked(context.options, _TYPES)
    systemd = context.cgroup_driver is CgroupDriver.SYSTEMD
    machine = host(systemd_cgroup=systemd)
    binary = shim_binary(context, _DEFAULT)
    keeper = context.keeper
    if "runc" in binary.program and "config_path" not in options:
        program = str(options.get("runtime", "runc"))
        command = RuntimeCommand(program, context.runtime_state / "runtime", systemd_cgroup=systemd)
        runtime: ShimRuntime = RuncShimRuntime(binary, context.runtime_state, context.clock, machine, command, keeper=keeper)
    else:
        config_path = str(options.get("config_path", ""))
        runtime = ShimRuntime(binary, context.runtime_state / SHIMS, context.clock, configured(config_path), keeper=keeper)
    return ShimPods(runtime, context, machine)


def check(options: Mapping[str, Any]) -> Iterable[Finding]:
    """The shim, the program behind runc's own shim, and the pause program."""
    shim = binary_name(str(options.get("shim", _DEFAULT)))
    runtime = str(options.get("runtime", "runc"))
    behind = ((runtime, runtime),) if "runc" in shim and "config_path" not in options else ()
    for program, package in ((shim, "containerd"), *behind, ("catatonit", "catatonit")):
        path = find_program(program)
        yield Finding(
            what=program,
            ok=bool(path),
            found=path,
            without="no pod can be started",
            remedy=f"apt-get install {package}",
        )


def checked(options: Any, types: dict[str, type]) -> dict[str, Any]:
    """The options, after a check of their names and types. Raises `InvalidArgument`."""
    for name, value in options.items():
        if name not in types:
            raise InvalidArgument(f"options.{name}", f"is not known; known: {', '.join(sorted(types))}")
        if not isinstance(value, types[name]):
            raise InvalidArgument(f"options.{name}", f"must be of type {types[name].__name__}")
    return dict(options)


def shim_binary(context: BackendContext, default: str) -> ShimBinary:
    """The shim binary that the options name."""
    events = str(context.runtime_state / "news")
    fits = len(events.encode()) <= 107
    program = binary_name(str(context.options.get("shim", default)))
    kind = RuncShimBinary if "runc" in program else ShimBinary
    return kind(
        program=program,
        namespace=str(context.options.get("namespace", "crishim")),
        address=str(context.runtime_state / "containerd"),
        events=events if fits else "",
        bootstrap=context.options.get("bootstrap"),
    )


def configured(path: str) -> Options:
    """The shim's options for a configuration file, if a path is given."""
    return (lambda _: runtime_options(path)) if path else no_options


plugin = Plugin(build=build, check=check, ignores=ignores, supported=NEWEST.supported, needs_node=True)
"""The plug-in `shim`."""
