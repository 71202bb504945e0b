"""Pods in virtual machines, by kata's shim: one shim and one machine for each pod.

Options: `shim` (a runtime name or a program; default `io.containerd.kata.v2`), `config_path` (the configuration of this
handler; kata's own search without it), `annotations` (patterns of the pods' and containers' annotations that are passed to
kata; default `io.katacontainers.*`), `namespace` (default `crishim`), `guest_seccomp` (whether kata's configuration lets
seccomp profiles into the guest, which it does not by default; without it a pod with a profile is refused).
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from crishim.backends.kata.leftovers import KataBinary
from crishim.backends.kata.needs import RUNTIME, findings
from crishim.backends.kata.pods import WITHOUT_SECCOMP, KataPods, KataRuntime
from crishim.backends.shim import checked, configured, shim_binary
from crishim.errors import InvalidArgument
from crishim.interfaces.backend import Backend, BackendContext
from crishim.interfaces.plugin import Plugin
from crishim.interfaces.seats import Finding
from crishim.oci.ignores import ignores
from crishim.pods.host import host
from crishim.shimv2.client.files import SHIMS

__all__ = ["KataPods", "KataRuntime", "plugin"]

_TYPES: Final[dict[str, type]] = {
    "shim": str,
    "config_path": str,
    "annotations": list,
    "namespace": str,
    "guest_seccomp": bool,
}
_IGNORES: Final = {"ContainerConfig.mounts.selinux_relabel": "the guest has its own labels"}
_ANNOTATIONS: Final = ("io.katacontainers.*",)


def build(context: BackendContext) -> Backend:
    """The backend. Raises `InvalidArgument` naming an option that is unknown or of a wrong type."""
    options = checked(context.options, _TYPES)
    path = options.get("config_path", "")
    if path and not Path(path).is_absolute():
        raise InvalidArgument("options.config_path", "must be an absolute path")
    # The guest has its own devices and labels; those of the node are not passed to it.
    machine = attrs.evolve(host(), devices=(), apparmor=False, selinux=False)
    plain = shim_binary(context, RUNTIME)
    binary = KataBinary(
        program=plain.program,
        namespace=plain.namespace,
        address=plain.address,
        events=plain.events,
        bootstrap=False,
    )
    runtime = KataRuntime(binary, context.runtime_state / SHIMS, context.clock, configured(path), keeper=context.keeper)
    runtime.guest_seccomp = bool(options.get("guest_seccomp", False))
    return KataPods(runtime, context, machine, patterns=tuple(map(str, options.get("annotations", _ANNOTATIONS))))


def check(options: Mapping[str, Any]) -> Iterable[Finding]:
    """The needs of a backend with these options on this machine; without a path, with kata's own search for a configuration."""
    return findings(Path("/"), str(options.get("shim", RUNTIME)), str(options.get("config_path", "")))


plugin = Plugin(build=build, check=check, ignores={**ignores, **_IGNORES}, supported=WITHOUT_SECCOMP, needs_node=True)
"""The plug-in `kata`."""
