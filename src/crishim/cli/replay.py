"""`crishim replay`: plays recorded CRI calls against a runtime or a backend, and prints what differs."""

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import IO

import click

from crishim.cli.options import exit_on_error
from crishim.cri import Dispatcher
from crishim.interfaces.backend import BackendContext
from crishim.play.client import Caller, connect, direct
from crishim.plugins import build, load
from crishim.recording.lines import parse_line
from crishim.recording.replay import replay
from crishim.service.services import Services
from crishim.system import SystemClock
from crishim.testing import FakeImages


@click.command(name="replay")
@click.argument("recording", type=click.File(encoding="utf-8"))
@click.option("--endpoint", help="A running CRI runtime, as unix:///path/to.sock.")
@click.option("--backend", help="A plug-in to play against in this process, with every image of the recording present.")
def command(recording: IO[str], endpoint: str | None, backend: str | None) -> None:
    """Play the calls of RECORDING, and print a line for each that differs. Exits with 1 if any does.

    Codes are compared, and of statuses what does not depend on the machine or the time.
    """
    if (endpoint is None) == (backend is None):
        raise click.UsageError("give either --endpoint or --backend")
    lines = recording.read().splitlines()
    with exit_on_error(2, ValueError):
        count = asyncio.run(_replay(lines, endpoint, backend))
    click.echo(f"{len(lines)} calls, {count} differences", err=True)
    sys.exit(1 if count else 0)


async def _replay(lines: Sequence[str], endpoint: str | None, backend: str | None) -> int:
    count = 0
    async with _runtime(lines, endpoint) if endpoint is not None else _in_process(lines, str(backend)) as call:
        async for difference in replay(lines, call):
            click.echo(str(difference))
            count += 1
    return count


@contextlib.asynccontextmanager
async def _runtime(_: Sequence[str], endpoint: str) -> AsyncIterator[Caller]:
    async with connect(endpoint if ":" in endpoint else f"unix://{endpoint}") as client:
        yield client.call


@contextlib.asynccontextmanager
async def _in_process(lines: Sequence[str], name: str) -> AsyncIterator[Caller]:
    plugin = load(name)
    images = FakeImages()
    for line in lines:
        with contextlib.suppress(ValueError):  # which the replay reports, with the line's number
            config = (parse_line(line) or {"request": {}})["request"].get("config") or {}
            if image := (config.get("image") or {}).get("image"):
                images.add(image)
    with tempfile.TemporaryDirectory(prefix="crishim-replay-") as folder:
        context = BackendContext(state=Path(folder), runtime_state=Path(folder), clock=SystemClock())
        async with Services(backends={"": build(plugin.build, context, name)}, images=images) as services:
            yield direct(Dispatcher(services))
