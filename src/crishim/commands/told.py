"""How a command ends where it cannot do what it was asked to."""

import contextlib
import sys
from collections.abc import Iterator
from typing import NoReturn

import click

from crishim.errors import CrishimError
from crishim.testing.kubelet import CallError


@contextlib.contextmanager
def told(status: int = 1) -> Iterator[None]:
    """Errors that have a message for people end the program with it."""
    try:
        yield
    except CallError as error:
        fail(f"{error.method}: {error.message} ({error.code.name})", status)
    except (CrishimError, OSError) as error:
        fail(str(error), status)


def fail(message: str, status: int) -> NoReturn:
    """End the program with a message."""
    click.echo(f"crishim: {message}", err=True)
    sys.exit(status)
