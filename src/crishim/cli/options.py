"""What commands have in common: the configuration's option, and how they end where they cannot do what they were asked to."""

import contextlib
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
    """Errors that have a message for people, and `others`, end the program with it."""
    kinds: tuple[type[Exception], ...] = (CrishimError, OSError, *others)
    try:
        yield
    except kinds as error:
        fail(str(error), status)


def fail(message: str, status: int) -> NoReturn:
    """End the program with a message."""
    click.echo(f"crishim: {message}", err=True)
    sys.exit(status)
