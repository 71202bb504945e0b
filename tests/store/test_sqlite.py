# ruff: noqa: ASYNC220, ASYNC240 - nothing else runs on these loops, so a short blocking read delays nothing
import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import attrs
import pytest

from crishim.errors import CrishimError, DataLoss, FailedPrecondition, Internal, ResourceExhausted, Unavailable
from crishim.interfaces.seats import Records
from crishim.lifecycle.records import VERSION, ContainerRecord, Phase, SandboxRecord, dump_record, load_record
from crishim.model.values import ContainerId
from crishim.store.sqlite import SCHEMA_VERSION, SqliteStore

RECORDS = Path(__file__).parent.parent / "golden" / "records"


def golden(name: str) -> bytes:
    return (RECORDS / f"{name}.json").read_bytes()


def a_sandbox() -> SandboxRecord:
    record = load_record(golden("sandbox.v2"))[0]
    assert isinstance(record, SandboxRecord)
    return record


def a_container() -> ContainerRecord:
    record = load_record(golden("container.v2"))[0]
    assert isinstance(record, ContainerRecord)
    return record


def containers(count: int) -> list[ContainerRecord]:
    return [attrs.evolve(a_container(), id=ContainerId(f"{number:064x}")) for number in range(count)]


@contextlib.asynccontextmanager
async def opened(path: Path) -> AsyncIterator[tuple[SqliteStore, Records]]:
    store = SqliteStore(path)
    try:
        yield store, await store.load()
    finally:
        await store.close()


def rewrite(path: Path, *statements: tuple[str, tuple[object, ...]]) -> None:
    """Change a closed store behind its back."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        for statement, values in statements:
            connection.execute(statement, values)


async def set_aside(path: Path) -> str:
    """Load a store one row of which must be set aside, the others being read; why."""
    async with opened(path) as (_, records):
        (reason,) = records.unreadable.values()
        assert 1 >= len(records.sandboxes + records.containers)
    async with opened(path) as (_, again):
        assert again.unreadable == records.unreadable
    return reason


async def refused(path: Path, kind: type[CrishimError]) -> str:
    """Load a store that must be refused with `kind`, name its file, and be left byte for byte as it was."""
    before = path.read_bytes()
    with pytest.raises(kind) as caught:
        async with opened(path):
            pass
    assert before == path.read_bytes()
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "records.db"


async def filled(path: Path) -> None:
    async with opened(path) as (store, _):
        await store.put(a_sandbox())
        await store.put(a_container())


async def test_a_new_store_is_empty_and_private(path: Path) -> None:
    """A missing file becomes an empty store that only its owner can read, also while it is in use."""
    async with opened(path) as (store, records):
        assert records == Records()
        await store.put(a_sandbox())
        assert {0o600} == {file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
        assert {"records.db", "records.db-wal"} == {file.name for file in path.parent.iterdir()}


async def test_what_was_put_is_there_after_a_restart(path: Path) -> None:
    """A store that is opened again holds the last record of each id that was put and not deleted."""
    ready = attrs.evolve(a_sandbox(), phase=Phase.STOPPED)
    gone, *_ = containers(1)
    async with opened(path) as (store, _):
        await store.put(a_sandbox())
        await store.put(ready)
        await store.put(a_container())
        await store.put(gone)
        await store.delete(gone.id)
        await store.delete("never put")
    async with opened(path) as (_, records):
        assert Records(sandboxes=(ready,), containers=(a_container(),)) == records


@pytest.mark.parametrize("version", range(1, VERSION + 1))
@pytest.mark.parametrize("kind", ["sandbox", "container"])
async def test_records_of_every_version_load(path: Path, kind: str, version: int) -> None:
    """The golden records of every version there ever was load from a store, and are put back as the newest."""
    raw = golden(f"{kind}.v{version}")
    assert version == json.loads(raw)["version"]
    record = load_record(raw)[0]
    async with opened(path):
        pass
    rewrite(path, ("INSERT INTO records VALUES (?, ?, ?)", (record.id, raw, zlib.crc32(raw, zlib.crc32(record.id.encode())))))
    async with opened(path) as (store, records):
        assert (record,) == records.sandboxes + records.containers
        await store.put(record)
    async with opened(path) as (_, records):
        assert (record,) == records.sandboxes + records.containers
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert (dump_record(record),) == connection.execute("SELECT record FROM records").fetchone()


def test_version_1_records_become_today_s() -> None:
    """A container of version 1 takes its limits from its configuration; a sandbox of version 1 has an unknown boot."""
    assert a_container() == load_record(golden("container.v1"))[0]
    assert attrs.evolve(a_sandbox(), boot_id="") == load_record(golden("sandbox.v1"))[0]


async def test_a_newer_record_is_set_aside(path: Path) -> None:
    """A record of a version that is not known yet stays in the file, is named with its version, and the others are read."""
    await filled(path)
    newer = json.dumps({**json.loads(golden("sandbox.v2")), "version": VERSION + 1}).encode()
    crc = zlib.crc32(newer, zlib.crc32(a_sandbox().id.encode()))
    rewrite(path, ("UPDATE records SET record = ?, crc32 = ? WHERE id = ?", (newer, crc, a_sandbox().id)))
    assert f"of version {VERSION + 1}" in await set_aside(path)


async def test_fields_of_a_later_version_are_preserved(path: Path) -> None:
    """Fields that this version does not know, in any depth, are written back with the record's next change."""
    await filled(path)
    data = json.loads(golden("sandbox.v2"))
    data["later"] = {"a": [1]}
    data["config"]["later"] = "b"
    raw = json.dumps(data).encode()
    crc = zlib.crc32(raw, zlib.crc32(a_sandbox().id.encode()))
    rewrite(path, ("UPDATE records SET record = ?, crc32 = ? WHERE id = ?", (raw, crc, a_sandbox().id)))
    async with opened(path) as (store, records):
        assert (a_sandbox(),) == records.sandboxes
        await store.put(attrs.evolve(a_sandbox(), phase=Phase.STOPPED))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        query = "SELECT record FROM records WHERE id = ?"
        written = json.loads(connection.execute(query, (a_sandbox().id,)).fetchone()[0])
    assert ({"a": [1]}, "b", "stopped") == (written["later"], written["config"]["later"], written["phase"])


async def test_a_newer_layout_is_refused(path: Path) -> None:
    """A file whose layout is not known yet raises FailedPrecondition naming it."""
    await filled(path)
    rewrite(path, (f"PRAGMA user_version = {SCHEMA_VERSION + 1}", ()))
    assert f"of layout {SCHEMA_VERSION + 1}" in await refused(path, FailedPrecondition)


async def test_a_strangers_database_is_refused(path: Path) -> None:
    """A SQLite file of another program raises DataLoss and is not changed."""
    path.parent.mkdir()
    rewrite(path, ("CREATE TABLE songs (title TEXT)", ()))
    assert "is a database of another application" in await refused(path, DataLoss)


async def test_what_is_no_database_is_refused(path: Path) -> None:
    """A file of anything else raises DataLoss."""
    path.parent.mkdir()
    path.write_bytes(b"not a database, but long enough to be taken for one\n" * 100)
    await refused(path, DataLoss)


async def test_a_cut_file_is_refused(path: Path) -> None:
    """A file that has lost its end raises DataLoss."""
    await filled(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 4096)
    await refused(path, DataLoss)


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("UPDATE records SET record = replace(record, 'STOPPED', 'x') || ' '", "checksum"),
        ("UPDATE records SET crc32 = 0", "checksum"),
        ("UPDATE records SET record = 7", "checksum"),
        ("UPDATE records SET id = 'somebody else'", "checksum"),
    ],
)
async def test_a_changed_row_is_set_aside(path: Path, statement: str, why: str) -> None:
    """A row that is not as it was written is named, and stays in the file."""
    async with opened(path) as (store, _):
        await store.put(a_sandbox())
    rewrite(path, (statement, ()))
    assert why in await set_aside(path)


async def test_a_record_under_a_wrong_id_is_set_aside(path: Path) -> None:
    """A row whose record is that of another id is named, and the others are read."""
    await filled(path)
    raw = dump_record(a_sandbox())
    rewrite(path, ("INSERT INTO records VALUES ('other', ?, ?)", (raw, zlib.crc32(raw, zlib.crc32(b"other")))))
    async with opened(path) as (_, records):
        assert ["other"] == list(records.unreadable)
        assert ((a_sandbox(),), (a_container(),)) == (records.sandboxes, records.containers)


async def test_any_flipped_byte_is_found_or_harmless(path: Path) -> None:
    """A byte that changed on the disk makes the store refuse to load or sets rows aside, or changes no record."""
    await filled(path)
    whole = path.read_bytes()
    expected = {a_sandbox(), a_container()}
    for place in range(0, len(whole), 101):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x21]) + whole[place + 1 :])
        try:
            async with opened(path) as (_, records):
                found = {*records.sandboxes, *records.containers}
        except (DataLoss, FailedPrecondition, Internal):
            continue
        assert found <= expected, place
        assert records.unreadable or found == expected, place


async def test_one_process_at_a_time(path: Path) -> None:
    """A file that is in use cannot be loaded a second time, and can when it is closed."""
    async with opened(path) as (store, _):
        await store.put(a_sandbox())
        with pytest.raises(Unavailable, match=str(path)):
            async with opened(path):
                pass
    async with opened(path) as (_, records):
        assert (a_sandbox(),) == records.sandboxes


async def test_a_burst_needs_few_commits(path: Path) -> None:
    """A hundred puts at once are written in two transactions, and each returns when its own is on the disk."""
    async with opened(path) as (store, _):
        statements: list[str] = []
        connection = store._connection
        assert connection is not None
        await asyncio.wrap_future(store._thread.submit(connection.set_trace_callback, statements.append))
        await asyncio.gather(*(store.put(record) for record in containers(100)))
        assert statements.count("COMMIT") <= 2
    async with opened(path) as (_, records):
        assert {record.id for record in containers(100)} == {record.id for record in records.containers}


async def test_the_last_of_parallel_puts_wins(path: Path) -> None:
    """Puts and deletes of one id take effect in the order of the calls."""
    async with opened(path) as (store, _):
        await asyncio.gather(*(store.put(attrs.evolve(a_sandbox(), created_at=time)) for time in range(50)))
        await asyncio.gather(store.put(a_container()), store.delete(a_container().id))
    async with opened(path) as (_, records):
        assert Records(sandboxes=(attrs.evolve(a_sandbox(), created_at=49),)) == records


async def test_a_cancelled_put_affects_no_other(path: Path) -> None:
    """A caller who stops waiting does not disturb the others of the same transaction."""
    async with opened(path) as (store, _):
        puts = [asyncio.create_task(store.put(record)) for record in containers(10)]
        await asyncio.sleep(0)
        puts[3].cancel()
        await asyncio.gather(*puts, return_exceptions=True)
        assert [3] == [number for number, put in enumerate(puts) if put.cancelled()]


async def test_a_full_disk_is_reported_and_survived(path: Path) -> None:
    """A put on a full disk raises ResourceExhausted naming the file; stored records stay, and later puts work."""
    async with opened(path) as (store, _):
        await store.put(a_sandbox())
        connection = store._connection
        assert connection is not None
        pages = "PRAGMA max_page_count = {}".format
        await asyncio.wrap_future(store._thread.submit(connection.execute, pages(4)))
        with pytest.raises(ResourceExhausted, match=str(path)):
            await asyncio.gather(*(store.put(record) for record in containers(20)))
        await asyncio.wrap_future(store._thread.submit(connection.execute, pages(10000)))
        await store.put(a_container())
    async with opened(path) as (_, records):
        assert (a_sandbox(),) == records.sandboxes
        assert a_container() in records.containers


async def test_a_cancelled_transaction_does_not_keep_it_open(path: Path) -> None:
    """A store whose writing was cancelled, as by the end of its loop, writes on and can be closed."""
    async with opened(path) as (store, _):
        put = asyncio.create_task(store.put(a_sandbox()))
        await asyncio.sleep(0)
        assert store._flush is not None
        store._flush.cancel()
        put.cancel()
        await asyncio.wait({store._flush, put})
        await store.put(a_container())


async def test_closed_and_unopened_stores_refuse(path: Path) -> None:
    """A put before the load or after the close raises Internal; a second close does nothing; puts under way are finished."""
    store = SqliteStore(path)
    with pytest.raises(Internal, match="not open"):
        await store.put(a_sandbox())
    await store.load()
    last = asyncio.create_task(store.put(a_sandbox()))
    await asyncio.sleep(0)
    await store.close()
    await store.close()
    await last
    with pytest.raises(Internal, match="not open"):
        await store.delete(a_sandbox().id)
    async with opened(path) as (_, records):
        assert (a_sandbox(),) == records.sandboxes


_WRITER = """
import asyncio, sys
from pathlib import Path
import attrs
from crishim.lifecycle.records import load_record
from crishim.store.sqlite import SqliteStore

async def main():
    store = SqliteStore(Path(sys.argv[1]))
    await store.load()
    record = load_record(Path(sys.argv[2]).read_bytes())[0]
    number = 0
    while True:
        await store.put(attrs.evolve(record, id=f"{number:064x}"))
        print(number, flush=True)
        number += 1

asyncio.run(main())
"""


@pytest.mark.parametrize("after", [0, 7, 60])
async def test_a_killed_process_loses_nothing_that_returned(path: Path, after: int) -> None:
    """After a SIGKILL at any moment the store holds every record whose put had returned, and loads."""
    command = [sys.executable, "-c", _WRITER, str(path), str(RECORDS / "container.v2.json")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=env) as process:
        assert process.stdout is not None
        returned = [int(process.stdout.readline()) for _ in range(after + 1)]
        process.send_signal(signal.SIGKILL)
        returned += [int(line) for line in process.stdout]
    async with opened(path) as (_, records):
        stored = {int(record.id, 16) for record in records.containers}
    assert set(returned) <= stored
    assert len(stored) <= len(returned) + 1


def test_every_version_has_golden_records() -> None:
    """There is a golden record of each kind for every version from 1 to the newest."""
    expected = {f"{kind}.v{version}.json" for kind in ("sandbox", "container") for version in range(1, VERSION + 1)}
    assert expected == {file.name for file in RECORDS.iterdir()}
