"""`crishim pull`: pulls an image into the node's store, or by a running runtime, with progress."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from crishim import app
from crishim.cli.options import config_option, exit_on_error
from crishim.config import Config
from crishim.errors import FailedPrecondition
from crishim.images.skopeo_process import PullProgress
from crishim.model.image import ImageSpec
from crishim.play import CallError, connect
from crishim.testing.harness import sandbox_config

_MIB: Final = 1 << 20


@click.command(name="pull")
@click.argument("reference")
@click.option("--endpoint", help="A running CRI runtime, as unix:///path/to.sock; by default the node's store.")
@config_option
def command(reference: str, endpoint: str | None, path: Path | None) -> None:
    """Pull the image REFERENCE and print its id.

    It goes to the store that the configuration names, or to the runtime that serves it, if one runs; with --endpoint to that
    runtime. Registries, mirrors, the signature policy and credentials are those of the configuration's [images].
    """
    console = Console(highlight=False, soft_wrap=True, stderr=True)
    with exit_on_error(1, CallError):
        click.echo(asyncio.run(_pull(console, reference, endpoint, Config() if endpoint else app.read_config(path))))


async def _pull(console: Console, reference: str, endpoint: str | None, config: Config) -> str:
    if endpoint is None:
        with shown(console) as progress:
            try:
                store = app.store(config, progress)
            except FailedPrecondition:  # a running server has the store locked, and can pull
                endpoint = config.listen
            else:
                try:
                    return await store.pull(ImageSpec(image=reference), None, None)
                finally:
                    await store.close()
    with console.status(f"pulling {reference}"):
        async with connect(endpoint if ":" in endpoint else f"unix://{endpoint}") as client:
            return await client.pull_image(ImageSpec(image=reference), sandbox_config())


@contextlib.contextmanager
def shown(console: Console) -> "Iterator[app.Progressed]":
    """Shows the progress of pulls: bars on a terminal, elsewhere a line for each complete pull."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    bars = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    seen: dict[str, TaskID] = {}
    waits: dict[str, str] = {}
    complete: set[str] = set()

    def progress(pull: PullProgress) -> None:
        name = pull.reference
        if name not in seen:
            seen[name] = bars.add_task(f"pulling {name}", total=pull.total)
        if pull.waiting and waits.get(name) != pull.waiting:
            console.print(f"pulling {name}: {pull.waiting}")
        waits[name] = pull.waiting
        bars.update(seen[name], completed=pull.done, total=pull.total)
        if pull.done >= pull.total > 0 and name not in complete:
            complete.add(name)
            bars.stop_task(seen[name])
            console.print(f"pulled {name}, {pull.total / _MIB:.1f} MiB")
            bars.update(seen[name], visible=False)

    with bars:
        yield progress
