"""The shared parts of commands: the option for the configuration, the exit on errors, and the end by signals."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final, NoReturn

import click

from crishim import app
from crishim.config import parse
from crishim.errors import CrishimError, InvalidArgument
from crishim.model.values import FrozenDict

config_option = click.option(
    "--config", "path", type=click.Path(path_type=Path, dir_okay=False), help=f"The file; {app.CONFIG_FILE} without."
)

TESTED: Final = "tested"
"""The name that a backend under test has in a drop-in of the configuration."""

drop_in_option = click.option(
    "--options", "drop_in", type=click.File(encoding="utf-8"), help=f"Options of the backend: [backends.{TESTED}] (TOML)."
)


def tested_options(drop_in: IO[str] | None) -> FrozenDict[str, Any]:
    """The options of the backend under test in a drop-in. Raises `InvalidArgument`, also for one without any."""
    if drop_in is None:
        return FrozenDict()
    found = parse([(drop_in.name, drop_in.read().encode())]).options_of(TESTED)
    if not found:
        raise InvalidArgument(drop_in.name, f"has no options in [backends.{TESTED}]")
    return found


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
