"""Maps runtime handlers to backends, with the features and the reachability of each backend.

Every call of a backend's verb goes through a `BackendHandle`, which gives it a deadline and converts foreign exceptions. A
call has three outcomes: a result; an error such as `NotFound`, which concerns only the object of the call; or a lost backend.
`Unavailable` alone does not distinguish the last two: the backend is then probed, and counts as lost if the probe fails. A
lost backend is probed again with growing pauses. When it answers, recovery compares its inventory with the records before any
new call reaches it.
"""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import attrs

from crishim.config import Deadlines
from crishim.errors import (
    Code,
    CrishimError,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
    Unimplemented,
    Unknown,
)
from crishim.interfaces.backend import Backend, BackendInfo
from crishim.interfaces.capabilities import capabilities
from crishim.interfaces.seats import Clock, NoObserver, Observer
from crishim.interfaces.tracing import Span, outside_rpcs, span
from crishim.lifecycle.records import SandboxRecord
from crishim.model.features import Feature
from crishim.model.runtime import CgroupDriver
from crishim.service.locks import BackgroundTasks, join

__all__ = ["Settings"]

T = TypeVar("T")
C = TypeVar("C")
_log = logging.getLogger(__name__)

_BLOCKING = 0.25
"""Seconds without a suspension after which a verb counts as blocking; a busy machine may stop a process for less."""

MESSAGE_LIMIT = 16 * 1024 * 1024
"""The largest gRPC message that CRI clients accept, in bytes."""


@attrs.frozen(kw_only=True)
class Settings:
    """The settings of the service layer.

    Objects of ours that a backend lists and no record names are removed `remove_unrecorded_after` seconds after recovery has
    found them. `runtime_version` must be a semantic version. With `cgroup_driver` None RuntimeConfig is unimplemented, and the
    kubelet uses its own flag. Sizes are bytes, times seconds.
    """

    runtime_name: str = "crishim"
    runtime_version: str
    boot_id: str = ""
    cgroup_driver: CgroupDriver | None = None
    deadlines: Deadlines = Deadlines()
    exec_sync_limit: int = MESSAGE_LIMIT - 64 * 1024
    event_queue: int = 1000
    remove_unrecorded_after: float = 3600.0
    retry_first: float = 0.2
    retry_most: float = 30.0


class BackendHandle:
    """One backend as the service layer sees it: the handlers it serves, its capabilities, and its health."""

    def __init__(
        self,
        backend: Backend,
        handlers: tuple[str, ...],
        settings: Settings,
        clock: Clock,
        tasks: BackgroundTasks,
        observer: Observer,
    ) -> None:
        self.backend = backend
        self.handlers = handlers
        self.capabilities = capabilities(backend)
        self.problem = "not probed yet"
        self._settings = settings
        self._clock = clock
        self._tasks = tasks
        self._observer = observer
        self._info: BackendInfo | None = None
        self._probing: asyncio.Task[None] | None = None
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.when_lost: Callable[[BackendHandle], None] = lambda _: None

    @property
    def info(self) -> BackendInfo:
        """The answer to the last probe. Raises `Unavailable` while the backend is lost."""
        if self._info is None or self.problem:
            raise Unavailable(self.problem)
        return self._info

    @property
    def name(self) -> str:
        """The backend's own name; `unknown` before the first successful probe."""
        return "unknown" if self._info is None else self._info.name

    @property
    def known_info(self) -> BackendInfo | None:
        """The answer to the last successful probe, also while the backend is lost; None before the first."""
        return self._info

    def owns(self, record: SandboxRecord) -> bool:
        """Whether the backend made the sandbox of this record. True also where that is unknown: before the first successful
        probe, and for records written before the `backend` field existed.
        """
        return self._info is None or record.backend in {"", self._info.name}

    def require(self, capability: type[C]) -> C:
        """The backend, typed as one that has `capability`. Raises `Unimplemented` if it does not claim it."""
        if capability not in self.capabilities:
            raise Unimplemented(capability.__name__)
        return self.backend  # type: ignore[return-value]  # membership was checked above

    async def call(self, verb: str, work: Coroutine[Any, Any, T], deadline: float | None = None) -> T:
        """Await a lifecycle verb. Raises only `CrishimError`s; `Unavailable` at once while the backend is lost."""
        if self.problem:
            work.close()
            raise Unavailable(self.problem)
        self._under_way += 1
        self._idle.clear()
        try:
            return await self.ask(verb, work, self._settings.deadlines.other if deadline is None else deadline)
        except Unavailable:
            await self._lose_unless_probed()
            raise
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def wait(self, verb: str, work: Coroutine[Any, Any, T], deadline: float | None = None) -> T:
        """Await a verb without a usual deadline (waits, execs, attachments). Recovery does not wait for these calls to end."""
        try:
            with self._span(verb):
                return await bounded(verb, self._watched(verb, work), deadline, self._settings.deadlines.cancel_grace)
        except Unavailable:
            await self._lose_unless_probed()
            raise

    async def ask(self, verb: str, work: Coroutine[Any, Any, T], deadline: float | None) -> T:
        """Await a verb even while the backend counts as lost; for probes and inventories."""
        begin, code = self._clock.monotonic(), Code.CANCELLED
        try:
            with self._span(verb):
                answer = await bounded(verb, self._watched(verb, work), deadline, self._settings.deadlines.cancel_grace)
            code = Code.OK
        except CrishimError as error:
            code = error.code
            raise
        finally:
            self._observer.verb_ended(self.name, verb, code, self._clock.monotonic() - begin)
        return answer

    async def _watched(self, verb: str, work: Coroutine[Any, Any, T]) -> T:
        """Await a verb, and warn if it blocks the event loop: while it does, nothing else on the node is served."""

        def warn(seconds: float) -> None:
            _log.warning(
                "verb %s of backend %s has blocked the event loop for %.0f ms: what blocks belongs in a thread",
                verb,
                self.name,
                seconds * 1000,
            )

        return await _Steps(work, self._clock, warn)

    async def probe(self) -> None:
        """Call `Backend.probe` and store its answer. Raises `Unavailable`, and whatever else the backend raises."""
        self._info = await self.ask("probe", self.backend.probe(), self._settings.deadlines.probe)

    async def idle(self) -> None:
        """Return when no lifecycle verb is under way."""
        await self._idle.wait()

    def _span(self, verb: str) -> AbstractContextManager[Span | None]:
        return span(f"backend {verb}", {"container.runtime.name": self.name})

    async def _lose_unless_probed(self) -> None:
        """Probe the backend after an `Unavailable`, and mark it lost if the probe fails. Concurrent calls share one probe."""
        if self.problem:
            return
        if self._probing is None or self._probing.done():
            self._probing = self._tasks.spawn(self._probe_or_lose(), f"probe of {self.name}")
        await join(self._probing)

    async def _probe_or_lose(self) -> None:
        try:
            await self.probe()
        except CrishimError as error:
            self.lose(error.message)

    def open(self) -> None:
        """Let calls through again; called by recovery."""
        self.problem = ""

    def lose(self, problem: str) -> None:
        """Mark the backend as lost until a probe succeeds and recovery has opened it."""
        if not self.problem:
            _log.warning("backend %s is lost: %s", type(self.backend).__name__, problem)
            self.problem = problem or "the backend cannot be reached"
            self.when_lost(self)


class _Steps(Awaitable[T]):
    """Awaits work and measures each of its steps, from one suspension to the next. Calls `warn` with the seconds of one that is
    too long.
    """

    def __init__(self, work: Coroutine[Any, Any, T], clock: Clock, warn: Callable[[float], None]) -> None:
        self._work = work
        self._clock = clock
        self._warn = warn

    def __await__(self) -> Generator[Any, Any, T]:
        steps = self._work.__await__()
        step: Callable[[], Any] = functools.partial(next, steps)
        while True:
            begin = self._clock.monotonic()
            try:
                waiting_for = step()
            except StopIteration as end:
                result: T = end.value
                return result
            finally:
                if (seconds := self._clock.monotonic() - begin) > _BLOCKING:
                    self._warn(seconds)
            try:
                value = yield waiting_for
            except BaseException as error:  # noqa: BLE001 - the work receives what is thrown at whoever awaits it
                step = functools.partial(steps.throw, error)
            else:
                step = functools.partial(steps.send, value)


async def bounded(what: str, work: Coroutine[Any, Any, T], deadline: float | None, cancel_grace: float) -> T:
    """Await foreign code for at most `deadline` seconds. Raises only `CrishimError`s, and `CancelledError`.

    Work that returns a result although its deadline has cancelled it counts as successful. Work that ignores the cancellation
    for `cancel_grace` seconds is abandoned, so that no verb can block a pod for ever.
    """
    task = asyncio.ensure_future(work)
    try:
        done, _ = await asyncio.wait({task}, timeout=deadline)
    except asyncio.CancelledError:
        await _abandon(what, task, cancel_grace)
        raise
    if not done:
        await _abandon(what, task, cancel_grace)
        if not task.done() or task.cancelled() or task.exception() is not None:
            raise DeadlineExceeded(f"{what} took longer than {deadline:g} s")
    try:
        return task.result()
    except CrishimError:
        raise
    except TimeoutError as error:
        raise DeadlineExceeded(f"{what}: {error or 'deadline exceeded'}") from error
    except ProcessLookupError as error:
        raise NotFound("process", str(error)) from error
    except PermissionError as error:
        raise PermissionDenied(f"{what}: {error}") from error
    except asyncio.CancelledError:
        raise Unknown(f"{what} cancelled itself") from None
    except Exception as error:
        _log.exception("%s raised an exception that its contract does not allow", what)
        raise Unknown(f"{what}: {type(error).__name__}: {error}") from error


async def _abandon(what: str, task: asyncio.Future[Any], cancel_grace: float) -> None:
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=cancel_grace)
    if not done:
        _log.error("%s does not end when cancelled; it is abandoned", what)
    elif not task.cancelled() and (error := task.exception()) is not None:
        _log.info("%s ended with %s after it was cancelled", what, error)


class Backends:
    """All backend handles. `recover`, passed to `start` by the recovery module, reconciles and opens a handle whose backend
    has just answered its probe.
    """

    def __init__(
        self,
        backends: Mapping[str, Backend],
        settings: Settings,
        clock: Clock,
        tasks: BackgroundTasks,
        observer: Observer | None = None,
    ) -> None:
        observer = observer or NoObserver()
        handlers: dict[int, list[str]] = {}
        for handler, backend in backends.items():
            handlers.setdefault(id(backend), []).append(handler)
        self._by_handler: dict[str, BackendHandle] = {}
        for names in handlers.values():
            handle = BackendHandle(backends[names[0]], tuple(names), settings, clock, tasks, observer)
            handle.when_lost = self._lost
            self._by_handler.update(dict.fromkeys(names, handle))
        self._settings = settings
        self._clock = clock
        self._tasks = tasks
        self._recover: Callable[[BackendHandle], Awaitable[None]] | None = None

    @property
    def handles(self) -> tuple[BackendHandle, ...]:
        """Each backend's handle once."""
        return tuple(dict.fromkeys(self._by_handler.values()))

    @property
    def handlers(self) -> Mapping[str, BackendHandle]:
        """The handle of each runtime handler, by its name."""
        return self._by_handler

    def get(self, handler: str) -> BackendHandle:
        """The handle of a runtime handler. Raises `InvalidArgument` for an unknown one (CRI,
        RunPodSandboxRequest.runtime_handler).
        """
        handle = self._by_handler.get(handler)
        if handle is None:
            known = ", ".join(sorted(name for name in self._by_handler if name)) or "none but the default"
            raise InvalidArgument("runtime_handler", f"{handler!r} is not known; known: {known}")
        return handle

    def supports(self, handler: str, feature: Feature) -> bool:
        """Whether the backend of a handler supports an optional field; False before its first successful probe."""
        handle = self._by_handler.get(handler)
        return handle is not None and handle.known_info is not None and feature in handle.known_info.supported

    async def start(self, recover: Callable[[BackendHandle], Awaitable[None]]) -> None:
        """Probe and recover every backend; retry in the background those that do not answer.

        Returns after `deadlines.probe` seconds at the latest, so that a slow backend does not delay the others.
        """
        self._recover = recover
        tasks = [self._tasks.spawn(self._start(handle), f"start of backend {handle.handlers!r}") for handle in self.handles]
        await asyncio.wait(tasks, timeout=self._settings.deadlines.probe)

    async def _start(self, handle: BackendHandle) -> None:
        if not await self._try(handle):
            self._lost(handle)

    async def _try(self, handle: BackendHandle) -> bool:
        assert self._recover is not None
        try:
            await handle.probe()
            await self._recover(handle)
        except CrishimError as error:
            if handle.problem != error.message:
                _log.warning("backend for %r is not ready: %s", handle.handlers, error)
            handle.problem = error.message or "the backend cannot be reached"
            return False
        except Exception as error:  # noqa: BLE001 - the backend is retried after any error
            _log.error("backend for %r cannot be recovered", handle.handlers, exc_info=error)
            handle.problem = f"{type(error).__name__}: {error}"
            return False
        return True

    def _lost(self, handle: BackendHandle) -> None:
        self._tasks.spawn(self._until_back(handle), f"return of {handle.handlers!r}", context=outside_rpcs())

    async def _until_back(self, handle: BackendHandle) -> None:
        pause = self._settings.retry_first
        while True:
            await self._clock.sleep(pause)
            if await self._try(handle):
                _log.info("backend for %r is back", handle.handlers)
                return
            pause = min(2 * pause, self._settings.retry_most)
