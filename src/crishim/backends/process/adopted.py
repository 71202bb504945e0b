"""What containers of this crishim and of an earlier one have in common: a first process whose end is waited for."""

import asyncio
import contextlib
import logging
import signal
from typing import Final

from crishim.backends.process.session import Session
from crishim.backends.process.state import StateFolder, StoredContainer
from crishim.errors import CrishimError, FailedPrecondition, NotFound
from crishim.interfaces.seats import Clock
from crishim.linux.processes import Identity, kill_family, lives
from crishim.model.container import ContainerState, ObservedContainer
from crishim.model.process import Exit
from crishim.model.values import ContainerId, SandboxId

_log = logging.getLogger(__name__)

TIMEOUT: Final = 2.0
"""Seconds for which killed processes are awaited; only one that the kernel cannot interrupt needs them."""

_PAUSE: Final = 0.005
"""Seconds between two looks at killed processes: others than our children have no event to wait for."""


class ContainerProcess:
    """A container: what it is, whether it runs, how it ended."""

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
        """The processes whose families are the container, the first one its own. Empty before the start."""
        return () if self._session is None else (self._session.identity,)

    @property
    def runs(self) -> bool:
        """Whether its first process was started and has not ended."""
        return self._life is not None and not self._over.is_set()

    def observed(self) -> ObservedContainer:
        """As the inventory shows it."""
        if self._exit is not None:
            state = ContainerState.EXITED
        else:
            state = ContainerState.RUNNING if self.runs else ContainerState.CREATED
        return ObservedContainer(
            id=self.id, sandbox_id=self.sandbox_id, state=state, started_at=self._started_at or None, exit=self._exit
        )

    async def kill(self, number: int) -> None:
        """As `Backend.kill_container`. Raises `NotFound` for the dead and `FailedPrecondition` for what was never started."""
        if self._session is None and self._exit is None:
            raise FailedPrecondition("created", "running", f"container {self.id}")
        if self._session is None or not self.runs:
            raise NotFound("process of container", self.id)
        if number == signal.SIGKILL:
            await kill_family(self.leaders)
        else:
            self._session.send(number)

    async def wait(self) -> Exit:
        """As `Backend.wait_container`. Raises `NotFound` when the container was removed meanwhile."""
        await self._over.wait()
        if self._exit is None:
            raise NotFound("container", self.id)
        return self._exit

    async def end(self) -> None:
        """Kill whatever runs, and return when it has ended."""
        if self._life is not None:
            if self.runs:
                await kill_family(self.leaders)
            await asyncio.wait({self._life})

    async def remove(self) -> None:
        """As `Backend.remove_container`; what still runs is killed. Who waits for what never ran gets `NotFound`."""
        await self.end()
        self._removed = True
        self._over.set()
        self._keeping.forget_container(self.id)

    def _watch(self, session: Session, started_at: int) -> None:
        self._session = session
        self._started_at = started_at
        self._life = asyncio.create_task(self._live(session), name=f"container {self.id}")

    async def _live(self, session: Session) -> None:
        await session.ended()
        await kill_family(self.leaders)
        code = session.returncode()
        session.reap()
        at = self._clock.now()
        await self._finish()
        if code is None:
            self._told(Exit.unknown())
        else:
            end = Exit.from_returncode(code)
            self._told(Exit(code=end.code, at=at, started_at=self._started_at))

    async def _finish(self) -> None:
        """What is to be done between the end of the process and the news of it."""

    def _told(self, end: Exit) -> None:
        self._exit = end
        self._over.set()
        try:
            self._keep()
        except CrishimError as error:
            _log.warning("the exit of container %s is not kept: %s", self.id, error)

    def _keep(self) -> None:
        if not self._removed:
            self._keeping.put(
                StoredContainer(
                    id=self.id,
                    sandbox_id=self.sandbox_id,
                    started_at=self._started_at,
                    leaders=self.leaders,
                    exit=self._exit,
                )
            )


class AdoptedContainer(ContainerProcess):
    """A container that an earlier crishim started.

    It can be watched and killed. Its streams ended with that crishim, and since it is not our child nobody can tell how it
    ends: its exit is unknown, unless it was kept.
    """

    def __init__(self, kept: StoredContainer, clock: Clock, keeping: StateFolder) -> None:
        super().__init__(kept.id, kept.sandbox_id, clock, keeping)
        self._started_at = kept.started_at
        self._leaders = kept.leaders
        self._exit = kept.exit

    async def find(self) -> None:
        """Watch its process if it runs, and end what it has left if not. To be called once, before all others."""
        session = Session.adopt(self._leaders[0]) if self._exit is None else None
        if session is not None:
            self._watch(session, self._started_at)
        else:
            await kill_family(self._leaders)
            self._told(self._exit or Exit.unknown())

    @property
    def leaders(self) -> tuple[Identity, ...]:
        """The processes whose families are the container."""
        return self._leaders


async def gone(leaders: tuple[Identity, ...]) -> bool:
    """Wait until nobody of these families runs; false if some still do after `TIMEOUT`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(TIMEOUT):
            while leaders and await lives(leaders):  # noqa: ASYNC110 - see _PAUSE
                await asyncio.sleep(_PAUSE)
            return True
    return False
