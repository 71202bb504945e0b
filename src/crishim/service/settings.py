"""The numbers that the service works with; `crishim.toml` sets them."""

import attrs

from crishim.model.runtime import CgroupDriver

MESSAGE_LIMIT = 16 * 1024 * 1024
"""What CRI's clients accept in one message, in bytes."""


@attrs.frozen(kw_only=True)
class Deadlines:
    """How long one call of a backend verb may take, in seconds. Waits have no deadline."""

    probe: float = 10.0
    inventory: float = 60.0
    start_sandbox: float = 110.0
    stop_sandbox: float = 50.0
    remove_sandbox: float = 50.0
    create_container: float = 110.0
    start_container: float = 50.0
    kill_container: float = 20.0
    remove_container: float = 50.0
    exit_after_kill: float = 30.0
    network: float = 50.0
    other: float = 50.0
    closing: float = 10.0
    surrender: float = 2.0
    """How long a cancelled verb may take to let go before it is left behind."""


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
