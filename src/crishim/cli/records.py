"""`crishim records`: the records of pods and containers, for use while no server runs."""

import asyncio
import base64
import contextlib
import json
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any

import click

from crishim import app
from crishim.cli.options import config_option, exit_on_error
from crishim.errors import NotFound
from crishim.interfaces.seats import Records
from crishim.lifecycle.records import ContainerRecord, Record, unstructure
from crishim.store.sqlite import SqliteStore


@click.group(name="records")
def command() -> None:
    """Show the records of pods and containers, and drop some. Fails while a server has the file open."""


@command.command(name="list")
@config_option
def list_records(path: Path | None) -> None:
    """Print a line for each record: kind, id, phase, name; for an unreadable one the reason."""
    _run(_list(path))


@command.command(name="show")
@click.argument("id")
@config_option
def show(path: Path | None, id: str) -> None:  # noqa: A002 - the word on the command line
    """Print the record of ID as it is in the file."""
    _run(_show(path, id))


@command.command(name="drop")
@click.argument("id")
@config_option
def drop(path: Path | None, id: str) -> None:  # noqa: A002 - the word on the command line
    """Delete the record of ID, and of leftovers of its dead shim. What still runs of it is reported by the next server, and
    removed after a delay.
    """
    _run(_drop(path, id))


@command.command(name="export")
@config_option
def export(path: Path | None) -> None:
    """Print all records as JSON, one a line; unreadable ones with the reason and their bytes in base64."""
    _run(_export(path))


def _run(work: Coroutine[Any, Any, None]) -> None:
    with exit_on_error():
        asyncio.run(work)


@contextlib.asynccontextmanager
async def _opened(path: Path | None) -> AsyncIterator[tuple[SqliteStore, Records]]:
    file = app.records_file(app.read_config(path))
    if not file.exists():
        raise NotFound("file of records", str(file))
    store = SqliteStore(file)
    try:
        yield store, await store.load()
    finally:
        await store.close()


async def _list(path: Path | None) -> None:
    async with _opened(path) as (_, records):
        for record in _readable(records):
            click.echo(f"{_kind(record):9} {record.id} {record.phase:8} {_name(record)}")
        for subject, reason in records.unreadable.items():
            click.echo(f"{'unreadable':9} {subject} {reason}")


async def _show(path: Path | None, subject: str) -> None:
    async with _opened(path) as (store, _):
        raw = await store.raw(subject)
        if raw is None:
            raise NotFound("record", subject)
        try:
            click.echo(json.dumps(json.loads(raw), indent=2))
        except ValueError:
            click.echo(raw)


async def _drop(path: Path | None, subject: str) -> None:
    async with _opened(path) as (store, _):
        if await store.raw(subject) is None:
            raise NotFound("record", subject)
        await store.delete(subject)
    app.forget_leftovers(app.read_config(path), subject)


async def _export(path: Path | None) -> None:
    async with _opened(path) as (store, records):
        for record in _readable(records):
            click.echo(json.dumps({"id": record.id, "kind": _kind(record), "record": unstructure(record)}))
        for subject, reason in records.unreadable.items():
            raw = base64.b64encode(await store.raw(subject) or b"").decode("ascii")
            click.echo(json.dumps({"id": subject, "unreadable": reason, "raw": raw}))


def _readable(records: Records) -> Iterator[Record]:
    yield from records.sandboxes
    yield from records.containers


def _kind(record: Record) -> str:
    return "container" if isinstance(record, ContainerRecord) else "sandbox"


def _name(record: Record) -> str:
    if isinstance(record, ContainerRecord):
        return f"{record.config.metadata.name} in {record.sandbox_id}"
    return f"{record.config.metadata.namespace}/{record.config.metadata.name}"
