"""The shared parts of commands: the option for the configuration, the exit on errors, and the end by signals."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import click

from crishim import app
from crishim.errors import CrishimError

config_option = click.option(
    "--config", "path", type=click.Path(path_type=Path, dir_okay=False), help=f"The file; {app.CONFIG_FILE} without."
)


@contextlib.contextmanager
def exit_on_error(status: int = 1, *others: type[Exception]) -> Iterator[None]:
    """End the program with the message of a `CrishimError`, or of one of `others`."""
    kinds: tuple[type[Exception], ...] = (CrishimError, OSError, *others)
    try:
        yield
    except kinds as error:
        fail(str(error), status)


def fail(message: str, status: int) -> NoReturn:
    """End the program with a message."""
    click.echo(f"crishim: {message}", err=True)
    sys.exit(status)


@contextlib.contextmanager
def sigterm_as_sigint() -> Iterator[None]:
    """Have SIGTERM raise `KeyboardInterrupt`, as SIGINT does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
