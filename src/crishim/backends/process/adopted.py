"""The common part of containers of this crishim and of an earlier one: a first process that is watched for its exit."""

import asyncio
import contextlib
import logging
import signal
from typing import Final

from crishim.backends.process.session import Session
from crishim.backends.process.state import StateFolder, StoredContainer
from crishim.errors import CrishimError, FailedPrecondition, NotFound
from crishim.interfaces.seats import Clock
from crishim.interfaces.tracing import outside_rpcs
from crishim.linux.processes import Identity, kill_family, lives
from crishim.model.container import ContainerState, ObservedContainer
from crishim.model.process import Exit
from crishim.model.values import ContainerId, SandboxId

_log = logging.getLogger(__name__)

TIMEOUT: Final = 2.0
"""Seconds to wait for killed processes; only one in an uninterruptible wait needs them."""

_PAUSE: Final = 0.005
"""Seconds between two checks of killed processes: there is no event for the end of processes that are not our children."""


class ContainerProcess:
    """A container: its identity, its processes, its exit status."""

    def __init__(self, container_id: ContainerId, sandbox_id: SandboxId, clock: Clock, keeping: StateFolder) -> None:
        self.id = container_id
        self.sandbox_id = sandbox_id
        self._clock = clock
        self._keeping = keeping
        self._session: Session | None = None
        self._life: asyncio.Task[None] | None = None
        self._started_at = 0
        self._exit: Exit | None = None
        self._over = asyncio.Event()
        self._removed = False

    @property
    def leaders(self) -> tuple[Identity, ...]:
        """The processes whose families make up the container, the first one its own. Empty before the start."""
        return () if self._session is None else (self._session.identity,)

    @property
    def runs(self) -> bool:
        """Whether its first process was started and has not exited."""
        return self._life is not None and not self._over.is_set()

    def observed(self) -> ObservedContainer:
        """The container as the inventory shows it."""
        if self._exit is not None:
            state = ContainerState.EXITED
        else:
            state = ContainerState.RUNNING if self.runs else ContainerState.CREATED
        return ObservedContainer(
            id=self.id, sandbox_id=self.sandbox_id, state=state, started_at=self._started_at or None, exit=self._exit
        )

    async def kill(self, number: int) -> None:
        """As `Backend.kill_container`. Raises `NotFound` after the exit and `FailedPrecondition` before the start."""
        if self._session is None and self._exit is None:
            raise FailedPrecondition("created", "running", f"container {self.id}")
        if self._session is None or not self.runs:
            raise NotFound("process of container", self.id)
        if number == signal.SIGKILL:
            await kill_family(self.leaders)
        else:
            self._session.send(number)

    async def wait(self) -> Exit:
        """As `Backend.wait_container`. Raises `NotFound` if the container is removed meanwhile."""
        await self._over.wait()
        if self._exit is None:
            raise NotFound("container", self.id)
        return self._exit

    async def end(self) -> None:
        """Kill all processes, and return when they have ended."""
        if self._life is not None:
            if self.runs:
                await kill_family(self.leaders)
            await asyncio.wait({self._life})

    async def leave(self) -> None:
        """This crishim ends, and the container with it."""
        await self.end()

    async def remove(self) -> None:
        """As `Backend.remove_container`; running processes are killed. Waits for a container that never ran raise
        `NotFound`.
        """
        await self.end()
        self._removed = True
        self._over.set()
        self._keeping.forget_container(self.id)

    def _watch(self, session: Session, started_at: int) -> None:
        self._session = session
        self._started_at = started_at
        self._life = asyncio.create_task(self._live(session), name=f"container {self.id}", context=outside_rpcs())

    async def _live(self, session: Session) -> None:
        await session.ended()
        await kill_family(self.leaders)
        code = session.returncode()
        session.reap()
        at = self._clock.now()
        await self._finish()
        if code is None:
            self._record_exit(Exit.unknown())
        else:
            end = Exit.from_returncode(code)
            self._record_exit(Exit(code=end.code, at=at, started_at=self._started_at))

    async def _finish(self) -> None:
        """Called between the exit of the process and the publication of its exit status."""

    def _record_exit(self, end: Exit) -> None:
        self._exit = end
        self._over.set()
        try:
            self._keep()
        except CrishimError as error:
            _log.warning("the exit of container %s is not stored: %s", self.id, error)

    def _keep(self) -> None:
        if not self._removed:
            self._keeping.put(self._stored())

    def _stored(self) -> StoredContainer:
        return StoredContainer(
            id=self.id, sandbox_id=self.sandbox_id, started_at=self._started_at, leaders=self.leaders, exit=self._exit
        )


class AdoptedContainer(ContainerProcess):
    """A container that an earlier crishim started.

    It can be watched and killed. Its streams ended with that crishim, and since it is not our child its exit status is
    unknown, unless it was stored.
    """

    def __init__(self, stored: StoredContainer, clock: Clock, state: StateFolder) -> None:
        super().__init__(stored.id, stored.sandbox_id, clock, state)
        self._started_at = stored.started_at
        self._leaders = stored.leaders
        self._exit = stored.exit

    async def find(self) -> None:
        """Watch its process if it runs, or else kill its remaining processes. To be called once, before all other methods."""
        session = Session.adopt(self._leaders[0]) if self._exit is None and self._leaders else None
        if session is not None:
            self._watch(session, self._started_at)
        else:
            await kill_family(self._leaders)
            self._record_exit(self._exit or Exit.unknown())

    @property
    def leaders(self) -> tuple[Identity, ...]:
        """The processes whose families make up the container."""
        return self._leaders


async def gone(leaders: tuple[Identity, ...]) -> bool:
    """Wait until no process of these families runs; false if some still do after `TIMEOUT`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(TIMEOUT):
            while leaders and await lives(leaders):  # noqa: ASYNC110 - see _PAUSE
                await asyncio.sleep(_PAUSE)
            return True
    return False
