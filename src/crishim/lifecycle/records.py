"""What the library remembers of a sandbox or container: what was asked and decided, never what runs.

A record is immutable but for its phase, and for a few facts that become known later: a sandbox's namespace and addresses, a
container's user, its limits after an update, and its exit. It is written before the act it announces. Whether something runs
is the backend's to say; the exit alone is kept here too, since some runtimes forget it.

Records are stored as JSON with a version; `lifecycle.versions` reads older ones.
"""

import enum
from typing import TypeAlias

import attrs

from crishim.model.container import ContainerConfig
from crishim.model.ids import ContainerId, ImageId, SandboxId
from crishim.model.mounts import Mount
from crishim.model.process import Signal
from crishim.model.resources import Resources
from crishim.model.sandbox import PodSandboxConfig, SandboxSpec
from crishim.model.security import LinuxContainerUser


class Phase(enum.StrEnum):
    """How far a wish has come. CREATING and REMOVING are unfinished, and end in removal after a crash.

    STOPPED belongs to sandboxes: a stop was asked for, and is repeated after a crash, since all its steps are repeatable.
    """

    CREATING = "creating"
    READY = "ready"
    STOPPED = "stopped"
    REMOVING = "removing"


@attrs.frozen(kw_only=True)
class SandboxRecord:
    """A sandbox that was asked for. `netns` and `ips` are empty until the network is up, and after a stop.

    `boot_id` tells in which boot of the machine it was made: in another one nothing of it runs.
    """

    id: SandboxId
    phase: Phase = Phase.CREATING
    config: PodSandboxConfig
    handler: str = ""
    boot_id: str = ""
    created_at: int
    netns: str = ""
    ips: tuple[str, ...] = ()
    overhead: Resources | None = None
    resources: Resources | None = None

    @property
    def spec(self) -> SandboxSpec:
        """What the backend received for it."""
        return SandboxSpec(id=self.id, config=self.config, handler=self.handler, netns=self.netns, ips=self.ips)


@attrs.frozen(kw_only=True)
class ExitRecord:
    """How a container ended, as ContainerStatus tells it. Times are nanoseconds; `started_at` is 0 if it never ran."""

    code: int
    reason: str
    message: str = ""
    started_at: int = 0
    finished_at: int


@attrs.frozen(kw_only=True)
class ContainerRecord:
    """A container that was asked for. `image_ref` is what status shows beside `image_id`.

    `mounts` are the configuration's with the images of image volumes looked up; empty where there is none of these.
    """

    id: ContainerId
    sandbox_id: SandboxId
    phase: Phase = Phase.CREATING
    config: ContainerConfig
    created_at: int
    image: str = ""
    image_id: ImageId
    image_ref: str = ""
    log_path: str = ""
    mounts: tuple[Mount, ...] = ()
    stop_signal: Signal = Signal.SIGTERM
    resources: Resources = Resources()
    user: LinuxContainerUser | None = None
    exit: ExitRecord | None = None


Record: TypeAlias = SandboxRecord | ContainerRecord
