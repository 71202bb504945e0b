"""Records in one SQLite file, which survives a power failure.

The file is in WAL mode with `synchronous=FULL`: a commit is on the disk before it returns, and so is a `put` or `delete` that
has returned. There is one row per id: the record as versioned JSON (`lifecycle.records`), and a CRC-32 of id and JSON, since
SQLite itself checks the structure of its pages and not their content. `user_version` is the version of this layout, and
`application_id` identifies our files.

A file that cannot be read as a whole is not changed: one that is damaged or not ours raises `DataLoss`, one of a newer layout
`FailedPrecondition`, and both name the file. A single row that cannot be read is set aside: it stays in the file, and is named
in `Records.unreadable`. Records of older versions are converted when they are read, and written in the new form with their
next `put`.

All SQLite calls run on one thread of the store's own. Changes that arrive during a transaction go into the next one together,
so a burst of puts costs a few commits, not one each. The file is locked for as long as it is open, and only one process at a
time can use it.
"""

import asyncio
import contextlib
import os
import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import attrs

from crishim.errors import (
    CrishimError,
    DataLoss,
    FailedPrecondition,
    Internal,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from crishim.interfaces.seats import Records, RecordStore
from crishim.lifecycle.records import ContainerRecord, Record, SandboxRecord, dump_record, load_record
from crishim.model.values import FrozenDict

__all__ = ["SqliteStore"]

SCHEMA_VERSION: Final = 1
APPLICATION_ID: Final = int.from_bytes(b"cris")
MODE: Final = 0o600

_SCHEMA: Final = "CREATE TABLE records (id TEXT PRIMARY KEY, record BLOB NOT NULL, crc32 INTEGER NOT NULL)"
_PUT: Final = "INSERT OR REPLACE INTO records VALUES (?, ?, ?)"
_DELETE: Final = "DELETE FROM records WHERE id = ?"

_ERRORS: Final[Mapping[int, type[CrishimError]]] = {
    sqlite3.SQLITE_CORRUPT: DataLoss,
    sqlite3.SQLITE_NOTADB: DataLoss,
    sqlite3.SQLITE_FULL: ResourceExhausted,
    sqlite3.SQLITE_BUSY: Unavailable,
    sqlite3.SQLITE_PERM: PermissionDenied,
    sqlite3.SQLITE_READONLY: PermissionDenied,
    sqlite3.SQLITE_CANTOPEN: PermissionDenied,
}


@attrs.frozen
class _Change:
    """A row to write, or to delete if `data` is None; `done` is for the caller."""

    id: str
    data: bytes | None
    done: asyncio.Future[None]


class SqliteStore(RecordStore):
    """A store in the file `path`, which is created with mode 0600 by the first load. Must be closed.

    For use on one event loop. Errors name the file: `ResourceExhausted` for a full disk, `PermissionDenied`, `Unavailable`
    while another process has the file open, `DataLoss`, and `Internal` for use before `load` or after `close`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="crishim-store")
        self._connection: sqlite3.Connection | None = None
        self._pending: list[_Change] = []
        self._flush: asyncio.Task[None] | None = None
        self._closed = False
        self._unknown: dict[str, dict[str, Any]] = {}

    async def load(self) -> Records:
        """All records of the file; a missing or empty one becomes a new store. To be called once, before the other methods."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._load)

    async def put(self, record: Record) -> None:
        """Write or replace a record; it is on the disk on return. If cancelled, it may have been written or not."""
        await self._change(record.id, dump_record(record, self._unknown.get(record.id, {})))

    async def delete(self, id: str) -> None:  # noqa: A002 - the field's word for it
        """Delete a record, on the disk too. Unknown ids are no error."""
        self._unknown.pop(id, None)
        await self._change(id, None)

    async def raw(self, id: str) -> bytes | None:  # noqa: A002 - the field's word for it
        """The stored bytes of a row, even unreadable ones; None if there is none."""
        if self._connection is None or self._closed:
            raise Internal(f"{self._path}: the store is not open")
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._raw, self._connection, id)

    async def close(self) -> None:
        """Finish pending writes and close the file. May be called twice."""
        while self._flush is not None and not self._flush.done():
            await asyncio.wait({self._flush})
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
            self._thread.shutdown(wait=False)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    async def _change(self, id: str, data: bytes | None) -> None:  # noqa: A002 - the field's word for it
        if self._connection is None or self._closed:
            raise Internal(f"{self._path}: the store is not open")
        loop = asyncio.get_running_loop()
        change = _Change(id, data, loop.create_future())
        self._pending.append(change)
        if self._flush is None or self._flush.done():
            self._flush = loop.create_task(self._write_pending(self._connection), name="record store")
        await change.done

    async def _write_pending(self, connection: sqlite3.Connection) -> None:
        loop = asyncio.get_running_loop()
        while self._pending:
            changes, self._pending = self._pending, []
            failure: CrishimError | None = None
            try:
                await loop.run_in_executor(self._thread, self._commit, connection, changes)
            except CrishimError as error:
                failure = error
            except Exception as error:  # noqa: BLE001 - a waiting write must get any error
                failure = Internal(f"the store of records: {error!r}")
            for change in changes:
                if change.done.done():
                    continue
                if failure is None:
                    change.done.set_result(None)
                else:
                    change.done.set_exception(failure)

    def _commit(self, connection: sqlite3.Connection, changes: list[_Change]) -> None:
        with self._renaming():
            try:
                connection.execute("BEGIN IMMEDIATE")
                for change in changes:
                    if change.data is None:
                        connection.execute(_DELETE, (change.id,))
                    else:
                        connection.execute(_PUT, (change.id, change.data, _crc32(change.id, change.data)))
                connection.execute("COMMIT")
            except sqlite3.Error:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _load(self) -> Records:
        with self._renaming(), contextlib.ExitStack() as undo:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if not self._path.exists():
                os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, MODE))
            self._path.chmod(MODE)
            connection = sqlite3.connect(self._path, timeout=0.0, isolation_level=None)
            undo.callback(connection.close)
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            new = self._is_new(connection)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            if new:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(_SCHEMA)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                connection.execute("COMMIT")
            records = self._read(connection)
            undo.pop_all()
        self._connection = connection
        return records

    def _raw(self, connection: sqlite3.Connection, subject: str) -> bytes | None:
        with self._renaming():
            row = connection.execute("SELECT record FROM records WHERE id = ?", (subject,)).fetchone()
        return None if row is None else row[0] if isinstance(row[0], bytes) else str(row[0]).encode()

    def _is_new(self, connection: sqlite3.Connection) -> bool:
        """Whether the file is empty. Only reads: a file that is not ours must not be changed."""
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if (version, application, tables) == (0, 0, 0):
            return True
        if application != APPLICATION_ID or version < 1:
            raise DataLoss(f"{self._path} is a database of another application")
        if version > SCHEMA_VERSION:
            raise FailedPrecondition(f"of layout {version}", f"of layout {SCHEMA_VERSION} or older", f"the store {self._path}")
        (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise DataLoss(f"{self._path} is broken: {verdict}")
        return False

    def _read(self, connection: sqlite3.Connection) -> Records:
        sandboxes: list[SandboxRecord] = []
        containers: list[ContainerRecord] = []
        unreadable: dict[str, str] = {}
        for id_, data, crc32 in connection.execute("SELECT id, record, crc32 FROM records"):
            try:
                if not isinstance(id_, str) or not isinstance(data, bytes) or _crc32(id_, data) != crc32:
                    raise DataLoss("its checksum is wrong")
                record, unknown = load_record(data)
                if record.id != id_:
                    raise DataLoss(f"it is one of {record.id}")
            except (DataLoss, FailedPrecondition) as error:
                unreadable[str(id_)] = error.message
                continue
            if unknown:
                self._unknown[record.id] = unknown
            if isinstance(record, SandboxRecord):
                sandboxes.append(record)
            else:
                containers.append(record)
        return Records(sandboxes=tuple(sandboxes), containers=tuple(containers), unreadable=FrozenDict(unreadable))

    @contextlib.contextmanager
    def _renaming(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            raise _ERRORS.get(code, Internal)(f"{self._path}: {error}") from error
        except OSError as error:
            raise PermissionDenied(f"{self._path}: {error.strerror}") from error


def _crc32(id_: str, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(id_.encode("utf-8", "surrogatepass")))
