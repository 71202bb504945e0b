"""What a lifted OCI runtime takes and does not use, by the names of `crishim coverage`. A plug-in hands it on as its own."""

from collections.abc import Mapping
from typing import Final

_PAUSE: Final = "would be the pause container's, and a pod has none that runs anything of its own"
_POD: Final = "the sandbox's counts, for all of its containers"
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
