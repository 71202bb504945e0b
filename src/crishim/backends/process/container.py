"""Containers that can execute more processes, and those whose process and streams are this crishim's own."""

import contextlib
from abc import ABC, abstractmethod

import attrs

from crishim.backends.process.adopted import ContainerProcess, gone
from crishim.backends.process.session import Program, Session
from crishim.backends.process.state import StateFolder
from crishim.errors import CrishimError, FailedPrecondition
from crishim.interfaces.capabilities import ProcessIO
from crishim.interfaces.seats import Clock
from crishim.linux.processes import Identity, kill_family, lives
from crishim.logs.execution import ExecStreams
from crishim.logs.stdio import ContainerStdio
from crishim.model.container import ContainerSpec
from crishim.model.process import ExecSpec, Exit
from crishim.model.values import ContainerId, SandboxId


class ExecutingContainer(ContainerProcess, ABC):
    """A container whose program is known. Execs are children of this process, whoever runs the container."""

    def __init__(
        self, container_id: ContainerId, sandbox_id: SandboxId, program: Program, clock: Clock, keeping: StateFolder
    ) -> None:
        super().__init__(container_id, sandbox_id, clock, keeping)
        self._program = program
        self._execs: dict[Identity, Session] = {}
        self._left: set[Identity] = set()

    @property
    def leaders(self) -> tuple[Identity, ...]:
        """The first process, and that of every exec that runs or has left processes behind."""
        return (*super().leaders, *self._execs)

    @abstractmethod
    async def start(self) -> None:
        """As `Backend.start_container`."""

    @abstractmethod
    async def attach(self, io: ProcessIO) -> None:
        """As `SupportsAttach.attach`."""

    @abstractmethod
    async def reopen_log(self) -> None:
        """As `SupportsLogReopen.reopen_log`."""

    async def exec(self, spec: ExecSpec, io: ProcessIO) -> Exit:
        """As `SupportsExec.exec`. Background processes of an exec keep running until the container ends."""
        self._must_run()
        streams = ExecStreams(io, tty=spec.tty)
        try:
            env = {**self._program.env, "TERM": "xterm"} if spec.tty else self._program.env
            session = Session.spawn(attrs.evolve(self._program, argv=spec.argv, env=env, tty=spec.tty), streams.open())
            self._execs[session.identity] = session
            try:
                self._keep()
                await streams.copy(session.ended)
                return Exit.from_returncode(session.returncode() or 0)
            except BaseException:
                await kill_family((session.identity,))
                await gone((session.identity,))
                raise
            finally:
                await self._collect(session)
        finally:
            streams.close()

    def _must_run(self) -> None:
        if not self.runs:
            raise FailedPrecondition("created" if self._session is None else "exited", "running", f"container {self.id}")

    async def _collect(self, session: Session) -> None:
        """Forget an exec, unless it has left processes behind: then its pid is reserved until they end."""
        self._left.add(session.identity)  # before the look, which may be cancelled
        if await lives((session.identity,)):
            return
        self._left.discard(session.identity)
        if self._execs.pop(session.identity, None) is None:  # the end of the exec and that of the container both collect it
            return
        session.reap()
        with contextlib.suppress(CrishimError):
            self._keep()

    async def _finish(self) -> None:
        await gone(tuple(self._left))
        for identity in tuple(self._left):
            if identity in self._execs:
                await self._collect(self._execs[identity])


class ProcessContainer(ExecutingContainer):
    """A container from its creation, when its log is opened and its streams are created, to its removal.

    The constructor raises as `ContainerStdio.open` does.
    """

    def __init__(self, spec: ContainerSpec, clock: Clock, keeping: StateFolder) -> None:
        program = Program(argv=spec.argv, env=spec.env, cwd=spec.cwd, tty=spec.tty)
        super().__init__(spec.id, spec.sandbox.id, program, clock, keeping)
        self._stdio = ContainerStdio(spec, clock)
        self._ends = self._stdio.open()

    async def start(self) -> None:
        """As `Backend.start_container`. If it raises, nothing runs; a process that cannot be recorded in `runtime_state` is
        killed.
        """
        if self._session is not None:
            raise FailedPrecondition("started", "created", f"container {self.id}")
        session = Session.spawn(self._program, self._ends)
        self._stdio.started()
        self._watch(session, self._clock.now())
        try:
            self._keep()
        except CrishimError:
            await kill_family(self.leaders)
            raise

    async def attach(self, io: ProcessIO) -> None:
        """As `SupportsAttach.attach`."""
        self._must_run()
        await self._stdio.attach(io)

    async def reopen_log(self) -> None:
        """As `SupportsLogReopen.reopen_log`."""
        self._must_run()
        self._stdio.reopen()

    async def end(self) -> None:
        """Kill all processes, and return when they have ended and the streams are closed."""
        await super().end()
        await self._stdio.close()

    async def _finish(self) -> None:
        await self._stdio.drained()
        await super()._finish()
        await self._stdio.close()
