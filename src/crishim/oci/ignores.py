"""Fields that pods over an OCI runtime accept and ignore, by the names of `crishim coverage`; a plug-in passes this on."""

from collections.abc import Mapping
from typing import Final

__all__ = ["ignores"]

_PAUSE: Final = "applies to a pause container, and pods have none that runs code of theirs"
_POD: Final = "the sandbox's option applies to all of its containers"
_SANDBOX: Final = "PodSandboxConfig.linux.security_context"
_CONTAINER: Final = "ContainerConfig.linux.security_context"

ignores: Final[Mapping[str, str]] = {
    f"{_SANDBOX}.run_as_user": _PAUSE,
    f"{_SANDBOX}.run_as_group": _PAUSE,
    f"{_SANDBOX}.supplemental_groups": _PAUSE,
    f"{_SANDBOX}.supplemental_groups_policy": _PAUSE,
    f"{_SANDBOX}.readonly_rootfs": _PAUSE,
    f"{_SANDBOX}.seccomp": _PAUSE,
    f"{_SANDBOX}.seccomp_profile_path": _PAUSE,
    f"{_SANDBOX}.apparmor": _PAUSE,
    f"{_CONTAINER}.namespace_options.network": _POD,
    f"{_CONTAINER}.namespace_options.ipc": _POD,
}
"""The fields of CRI that pods over an OCI runtime ignore, with the reasons, for `Plugin.ignores`."""
