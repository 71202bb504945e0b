"""The numbers that the service works with; `crishim.toml` sets them."""

import attrs

from crishim.config import Deadlines
from crishim.model.runtime import CgroupDriver

MESSAGE_LIMIT = 16 * 1024 * 1024
"""What CRI's clients accept in one message, in bytes."""


@attrs.frozen(kw_only=True)
class Settings:
    """The service's settings. `runtime_version` must be a semantic version; `cgroup_driver` None leaves RuntimeConfig
    unimplemented, so that the kubelet uses its own flag. Sizes are bytes, times seconds.
    """

    runtime_name: str = "crishim"
    runtime_version: str
    boot_id: str = ""
    cgroup_driver: CgroupDriver | None = None
    deadlines: Deadlines = Deadlines()
    exec_sync_limit: int = MESSAGE_LIMIT - 64 * 1024
    event_queue: int = 1000
    retry_first: float = 0.2
    retry_most: float = 30.0
