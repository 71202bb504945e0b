"""The table of sandboxes and containers: records in memory, written through to the store, with the state that the backends
have reported.

Entries change only through the methods here, and their states only by `apply`, which uses the tables of `lifecycle.states`.
Every change gives the entry's list item a new version, so that encoded items can be cached; a whole list is one tuple until
something in it changes. Lists, statuses and filters read this table and call no backend.
"""

import asyncio
import functools
import logging
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

import attrs

from crishim.errors import AlreadyExists, CrishimError, Internal, InvalidArgument, NotFound
from crishim.interfaces.seats import RecordStore
from crishim.lifecycle.names import ContainerName, NameIndex, SandboxName
from crishim.lifecycle.records import ContainerRecord, ExitRecord, SandboxRecord
from crishim.lifecycle.states import ContainerAct, SandboxAct
from crishim.model.container import Container, ContainerState
from crishim.model.sandbox import PodSandbox
from crishim.model.values import ContainerId, SandboxId, Versioned
from crishim.service.entries import ContainerEntry, SandboxEntry

_log = logging.getLogger(__name__)

K = TypeVar("K", bound=str)
E = TypeVar("E")

ID_LENGTH: Final = 64
"""Characters of an id, as all runtimes have them (interfaces, IdSource)."""

_CANDIDATES: Final = 5
"""How many ids the error for an ambiguous prefix names."""


class Table:
    """All entries and the index of their names. The `save` methods return when the store has the record."""

    def __init__(self, store: RecordStore | None) -> None:
        self._store = store
        self._owed: set[str] = set()
        self._version = 0
        self._listed_sandboxes: tuple[Versioned[PodSandbox], ...] | None = None
        self._listed_containers: tuple[Versioned[Container], ...] | None = None
        self.sandboxes: dict[SandboxId, SandboxEntry] = {}
        self.containers: dict[ContainerId, ContainerEntry] = {}
        self.set_aside: dict[str, str] = {}
        self.unrecorded: set[str] = set()
        """The ids of pods that exist in a backend and have no record."""
        self.sandbox_names: NameIndex[SandboxName, SandboxId] = NameIndex("sandbox name")
        self.container_names: NameIndex[ContainerName, ContainerId] = NameIndex("container name")

    async def load(self) -> None:
        """Fill the empty table from the store.

        A record that cannot be used is set aside with the reason, and stays in the store: an unreadable one, the older of two
        sandboxes with one name, and a container whose sandbox has no usable record. The backends' objects with these ids are
        not touched.
        """
        if self._store is None:
            return
        records = await self._store.load()
        self.set_aside.update(records.unreadable)
        for sandbox in sorted(records.sandboxes, key=lambda record: record.created_at, reverse=True):
            self._add_or_set_aside(sandbox.id, functools.partial(self.add_sandbox, sandbox))
        for container in sorted(records.containers, key=lambda record: record.created_at, reverse=True):
            if container.sandbox_id in self.sandboxes:
                self._add_or_set_aside(container.id, functools.partial(self.add_container, container))
            else:
                self.set_aside[container.id] = f"its sandbox {container.sandbox_id} has no usable record"
        for subject, reason in self.set_aside.items():
            _log.error("the record of %s is set aside, and nothing with this id is touched: %s", subject, reason)

    def _add_or_set_aside(self, subject: str, add: Callable[[], object]) -> None:
        try:
            add()
        except AlreadyExists as error:
            self.set_aside[subject] = error.message

    def sandbox(self, sandbox_id: SandboxId) -> SandboxEntry:
        """The entry of a sandbox, by its id or a prefix. Raises `NotFound`, and `InvalidArgument` for an ambiguous prefix."""
        entry = self.find_sandbox(sandbox_id)
        if entry is None:
            raise NotFound("sandbox", sandbox_id)
        return entry

    def container(self, container_id: ContainerId) -> ContainerEntry:
        """The entry of a container, by its id or a prefix. Raises as `sandbox`."""
        entry = self.find_container(container_id)
        if entry is None:
            raise NotFound("container", container_id)
        return entry

    def find_sandbox(self, sandbox_id: SandboxId) -> SandboxEntry | None:
        """As `sandbox`; None instead of `NotFound`."""
        return self.sandboxes.get(sandbox_id) or _by_prefix(self.sandboxes, sandbox_id, "pod_sandbox_id")

    def find_container(self, container_id: ContainerId) -> ContainerEntry | None:
        """As `container`; None instead of `NotFound`."""
        return self.containers.get(container_id) or _by_prefix(self.containers, container_id, "container_id")

    def add_sandbox(self, record: SandboxRecord) -> SandboxEntry:
        """Add an entry and reserve its name; it is not shown yet. Raises `AlreadyExists`."""
        self.sandbox_names.reserve(SandboxName.of(record.config.metadata), record.id)
        entry = self.sandboxes[record.id] = SandboxEntry(record)
        return entry

    def add_container(self, record: ContainerRecord) -> ContainerEntry:
        """Add an entry and reserve its name; it is not shown yet. Its sandbox must be in the table. Raises `AlreadyExists`."""
        self.container_names.reserve(ContainerName.of(record.sandbox_id, record.config.metadata), record.id)
        sandbox = self.sandbox(record.sandbox_id)
        entry = self.containers[record.id] = sandbox.containers[record.id] = ContainerEntry(record, sandbox)
        return entry

    async def save_sandbox(self, entry: SandboxEntry, record: SandboxRecord | None = None, *, must: bool = True) -> None:
        """Write the entry's record, or replace it by `record` and write that.

        If the store fails: with `must` the old record is restored and the error raised; without it the record is written
        later, with the next success.
        """
        before, entry.record = entry.record, record or entry.record
        self._touch_sandbox(entry)
        try:
            await self._write(entry.id, must=must)
        except CrishimError:
            if entry.record is record:
                entry.record = before
                self._touch_sandbox(entry)
            raise

    async def save_container(self, entry: ContainerEntry, record: ContainerRecord | None = None, *, must: bool = True) -> None:
        """As `save_sandbox`, for a container."""
        before, entry.record = entry.record, record or entry.record
        self._touch_container(entry)
        try:
            await self._write(entry.id, must=must)
        except CrishimError:
            if entry.record is record:
                entry.record = before
                self._touch_container(entry)
            raise

    def apply(self, entry: SandboxEntry | ContainerEntry, act: SandboxAct | ContainerAct) -> None:
        """Move the sandbox or container to the state after `act`. Raises `FailedPrecondition`."""
        if isinstance(entry, SandboxEntry) and isinstance(act, SandboxAct):
            entry.apply(act)
            self._touch_sandbox(entry)
        elif isinstance(entry, ContainerEntry) and isinstance(act, ContainerAct):
            entry.apply(act)
            if entry.state is ContainerState.EXITED:
                entry.ended.set()
            self._touch_container(entry)
        else:
            raise Internal(f"{act} does not apply to {entry.id}")

    def show_exit(self, entry: ContainerEntry, end: ExitRecord) -> None:
        """Show the container as exited, with `end`. `write` stores it."""
        entry.record = attrs.evolve(entry.record, exit=end)
        self.apply(entry, ContainerAct.EXIT)

    async def write(self, entry: ContainerEntry) -> None:
        """Write the current record, now or with a later write."""
        await self._write(entry.id, must=False)

    async def drop_sandbox(self, entry: SandboxEntry) -> None:
        """Delete the sandbox's record and entry, and release its name."""
        self.sandboxes.pop(entry.id, None)
        self._listed_sandboxes = None
        self.sandbox_names.release(SandboxName.of(entry.record.config.metadata))
        await self._write(entry.id, must=False)

    async def drop_container(self, entry: ContainerEntry) -> None:
        """Delete the container's record and entry, and release its name."""
        self.containers.pop(entry.id, None)
        self._listed_containers = None
        entry.sandbox.containers.pop(entry.id, None)
        self.container_names.release(ContainerName.of(entry.record.sandbox_id, entry.record.config.metadata))
        entry.ended.set()
        await self._write(entry.id, must=False)

    def listed_sandboxes(self) -> tuple[Versioned[PodSandbox], ...]:
        """Every shown sandbox; the same tuple until something changes."""
        if self._listed_sandboxes is None:
            entries = self.sandboxes.values()
            self._listed_sandboxes = tuple(entry.listed for entry in entries if entry.listed is not None)
        return self._listed_sandboxes

    def listed_containers(self) -> tuple[Versioned[Container], ...]:
        """Every shown container; the same tuple until something changes."""
        if self._listed_containers is None:
            entries = self.containers.values()
            self._listed_containers = tuple(entry.listed for entry in entries if entry.listed is not None)
        return self._listed_containers

    async def _write(self, subject: str, *, must: bool) -> None:
        """Write the table's record of an id to the store, or delete it there if the table has none. A refused write is
        repeated with the next success.

        A store that refuses writes (a full disk) must not prevent a pod from ending: ending pods is how the node frees space.
        """
        if self._store is None:
            return
        try:
            await self._write_one(self._store, subject)
        except asyncio.CancelledError:
            self._owed.add(subject)  # whether it was written is unknown
            raise
        except CrishimError as error:
            if must:
                raise
            self._owed.add(subject)
            _log.warning("the record of %s could not be written, and is written later: %s", subject, error)
            return
        while self._owed:
            late = self._owed.pop()
            try:
                await self._write_one(self._store, late)
            except CrishimError:
                self._owed.add(late)
                return
            except asyncio.CancelledError:
                self._owed.add(late)
                raise

    async def _write_one(self, store: RecordStore, subject: str) -> None:
        entry = self.sandboxes.get(SandboxId(subject)) or self.containers.get(ContainerId(subject))
        record = None if entry is None else entry.record
        if record is None:
            await store.delete(subject)
        else:
            await store.put(record)

    def _touch_sandbox(self, entry: SandboxEntry) -> None:
        if entry.state is not None:
            entry.listed = Versioned(version=self._next_version(), item=entry.item())
            self._listed_sandboxes = None

    def _touch_container(self, entry: ContainerEntry) -> None:
        if entry.state is not None:
            entry.listed = Versioned(version=self._next_version(), item=entry.item())
            self._listed_containers = None

    def _next_version(self) -> int:
        self._version += 1
        return self._version


def _by_prefix(entries: Mapping[K, E], prefix: str, field: str) -> E | None:
    """The entry whose id begins with `prefix`, as tools shorten ids. A full id is looked up directly."""
    if not prefix or len(prefix) >= ID_LENGTH:
        return None
    matches = [name for name in entries if name.startswith(prefix)]
    if len(matches) > 1:
        raise InvalidArgument(field, f"{prefix!r} is ambiguous: {', '.join(sorted(matches)[:_CANDIDATES])}")
    return entries[matches[0]] if matches else None
