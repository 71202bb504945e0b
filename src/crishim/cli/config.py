"""`crishim config`: the configuration file."""

from pathlib import Path

import click

from crishim import app
from crishim.cli.options import config_option, exit_on_error
from crishim.config import default_text


@click.group(name="config")
def command() -> None:
    """The configuration file."""


@command.command(name="default")
def config_default() -> None:
    """Print a commented file with every key at its default."""
    click.echo(default_text(), nl=False)


@command.command(name="check")
@config_option
def config_check(path: Path | None) -> None:
    """Read the file and its drop-ins, and load the backends that they name."""
    with exit_on_error():
        config = app.read_config(path)
        app.plugins_of(config)
        for handler, backend in config.handlers.items():
            click.echo(f"handler {handler or 'default'}: backend {backend}")
        click.echo(f"serves {config.listen}")
