"""A container that the node's keeper runs: its output, its exit and its input survive the end of this crishim."""

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

import attrs

from crishim.backends.process.adopted import gone
from crishim.backends.process.container import ExecutingContainer
from crishim.backends.process.session import Program, Session, cannot_run, working_folder
from crishim.backends.process.state import StateFolder, StoredContainer, StoredRequest
from crishim.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, ResourceExhausted, Unavailable
from crishim.interfaces.capabilities import ProcessIO
from crishim.interfaces.keeper import Keeper, KeepRequest
from crishim.interfaces.seats import Clock
from crishim.linux.processes import Identity, Process, kill_family, read
from crishim.logs.writer import LogFile
from crishim.model.container import ContainerSpec
from crishim.model.process import Exit
from crishim.model.values import ContainerId, SandboxId


class Gone(Session):
    """The session of a process that had exited before it could be watched; others of its session may run."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    @property
    def identity(self) -> Identity:
        """As `Session.identity`; the start time may be unknown, and is 0 then."""
        return self._identity

    def send(self, number: int) -> None:
        """Does nothing."""

    async def ended(self) -> None:
        """Return at once."""

    def reap(self) -> None:
        """Does nothing: the keeper has reaped it."""


def session_of(pid: int, process: Process | None) -> Session:
    """The session that a process of the keeper leads, which the keeper reaps when it exits; `process` is what the pid names."""
    if process is None or process.session != pid:
        return Gone(Identity(pid, 0))
    return Session.adopt(process.identity) or Gone(process.identity)


class KeptContainer(ExecutingContainer):
    """A container in the keeper, from its creation or from when a later crishim finds it, to its removal."""

    def __init__(
        self,
        container_id: ContainerId,
        sandbox_id: SandboxId,
        request: StoredRequest,
        clock: Clock,
        keeping: StateFolder,
        keeper: Keeper,
    ) -> None:
        program = Program(argv=request.argv, env=request.env, cwd=request.cwd, tty=request.tty)
        super().__init__(container_id, sandbox_id, program, clock, keeping)
        self._keeper = keeper
        self._request = request
        self._earlier: Sequence[Identity] = ()

    @classmethod
    def created(cls, spec: ContainerSpec, clock: Clock, keeping: StateFolder, keeper: Keeper) -> "KeptContainer":
        """A new container, which is recorded. Raises as `LogFile` for a log that cannot be opened."""
        if spec.log_path:
            LogFile(Path(spec.log_path)).close()
        request = StoredRequest(
            argv=list(spec.argv),
            env=dict(spec.env),
            cwd=spec.cwd,
            tty=spec.tty,
            log_path=spec.log_path,
            stdin=spec.stdin,
            stdin_once=spec.stdin_once,
        )
        container = cls(spec.id, spec.sandbox.id, request, clock, keeping, keeper)
        container._keep()
        return container

    @classmethod
    async def found(
        cls, stored: StoredContainer, request: StoredRequest, clock: Clock, keeping: StateFolder, keeper: Keeper
    ) -> "KeptContainer":
        """A container of an earlier crishim. If it was started and the keeper does not have it, its exit is unknown.

        Raises `Unavailable` if the keeper does not answer, and the process was not recorded.
        """
        container = cls(stored.id, stored.sandbox_id, request, clock, keeping, keeper)
        container._started_at = stored.started_at
        container._earlier = stored.leaders
        container._exit = stored.exit
        if stored.exit is not None:
            container._over.set()
        elif stored.started_at:
            await container._resume()
        return container

    async def _resume(self) -> None:
        first = self._earlier[0] if self._earlier else None
        try:
            pid = (await self._keeper.containers())[self.id]
            session = await self._unrecorded(pid) if first is None else Session.adopt(first) or Gone(first)
        except KeyError:
            await kill_family(self.leaders)
            self._record_exit(Exit.unknown())
            return
        except Unavailable:  # the keeper may have it, and answer later: `_live` asks for the exit
            if first is None:
                raise
            session = Session.adopt(first) or Gone(first)
        self._watch(session, self._started_at)

    async def _unrecorded(self, pid: int) -> Session:
        """The session of a process whose start was not recorded, by its pid. The keeper is asked after the pid is read: if it
        has no exit then, it had not reaped the process, and the pid was no other's.
        """
        process = read(pid)
        over = (await self._keeper.exits())[self.id] is not None
        return session_of(pid, None if over else process)

    @property
    def leaders(self) -> tuple[Identity, ...]:
        """As `ExecutingContainer.leaders`, with those of an earlier crishim."""
        return tuple(dict.fromkeys((*super().leaders, *self._earlier)))

    async def start(self) -> None:
        """As `Backend.start_container`. The start is recorded before the keeper has it, so that no crash loses it."""
        if self._session is not None or self._exit is not None:
            raise FailedPrecondition("started", "created", f"container {self.id}")
        request = KeepRequest(
            name=self.id,
            argv=tuple(self._request.argv),
            env=self._request.env,
            cwd=working_folder(self._request.cwd),
            log_path=self._request.log_path,
            terminal=self._request.tty,
            stdin=self._request.stdin,
            stdin_once=self._request.stdin_once,
        )
        self._started_at = self._clock.now()
        self._keep()
        try:
            pid = await self._keeper.keep(request)
        except BaseException as error:
            self._started_at = 0
            with contextlib.suppress(ResourceExhausted):
                self._keep()
            if isinstance(error, NotFound | PermissionDenied | InvalidArgument):
                raise cannot_run(request.argv[0], error.message) from error
            raise
        self._watch(session_of(pid, read(pid)), self._started_at)
        self._keep()

    async def attach(self, io: ProcessIO) -> None:
        """As `SupportsAttach.attach`."""
        self._must_run()
        await self._keeper.attach(self.id, io)

    async def reopen_log(self) -> None:
        """As `SupportsLogReopen.reopen_log`."""
        self._must_run()
        await self._keeper.reopen_log(self.id)

    async def leave(self) -> None:
        """This crishim ends: the container goes on, its execs end."""
        if self._life is not None and not self._over.is_set():
            self._life.cancel()
            await asyncio.wait({self._life})
        await self._end_execs()
        if self._session is not None:
            self._session.reap()

    async def remove(self) -> None:
        """As `Backend.remove_container`."""
        await super().remove()
        with contextlib.suppress(NotFound, Unavailable):  # it was never started, or its keeper has died
            await self._keeper.forget(self.id)

    async def _live(self, session: Session) -> None:
        await session.ended()
        await kill_family(self.leaders)
        try:
            end = await self._keeper.wait(self.id)
        except (NotFound, Unavailable):
            end = Exit.unknown()
        await self._finish()
        session.reap()
        self._record_exit(attrs.evolve(end, started_at=self._started_at))

    async def _end_execs(self) -> None:
        execs = tuple(self._execs)
        await kill_family(execs)
        await gone(execs)

    def _stored(self) -> StoredContainer:
        return attrs.evolve(super()._stored(), request=self._request)
