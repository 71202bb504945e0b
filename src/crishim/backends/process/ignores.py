"""The fields that plain child processes ignore, by the names of `crishim coverage`."""

from collections.abc import Mapping
from typing import Final

_SHARED: Final = "there is no isolation: all processes share the machine"
_LIMITS: Final = "there are no cgroups"
_RIGHTS: Final = tuple(f"{message}.linux.security_context" for message in ("PodSandboxConfig", "ContainerConfig"))

ignores: Final[Mapping[str, str]] = {
    "PullImageRequest.auth": "nothing is pulled",
    "PodSandboxConfig.dns_config": "the machine's resolver is used",
    "PodSandboxConfig.linux.cgroup_parent": _LIMITS,
    "ContainerConfig.linux.resources": _LIMITS,
    **{
        f"{rights}.namespace_options.{value}": _SHARED
        for rights in _RIGHTS
        for value in ("network=POD", "pid=POD", "pid=CONTAINER", "ipc=POD")
    },
    **{
        f"PodSandboxConfig.linux.security_context.{profile}.profile_type=RuntimeDefault": "there is no pause container"
        for profile in ("seccomp", "apparmor")
    },
}
