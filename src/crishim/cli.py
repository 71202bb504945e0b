"""The command line: `crishim serve` and `config`; the other commands are in `commands`."""

import asyncio
from importlib import import_module
from pathlib import Path
from typing import Final

import click

from crishim import __version__, app
from crishim.commands.told import config_option, told
from crishim.config import default_text

_ELSEWHERE: Final = ("check", "completion", "coverage", "play", "pull")


class Commands(click.Group):
    """Commands with a file of their own are imported when somebody asks for them: a server needs none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, sorted."""
        return sorted([*super().list_commands(ctx), *_ELSEWHERE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command, by its name."""
        if cmd_name not in _ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        made = import_module(f"crishim.commands.{cmd_name}").command
        assert isinstance(made, click.Command)
        return made


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="crishim", message="%(prog)s %(version)s")
def main() -> None:
    """CRI requests mapped onto a ten-verb backend."""


@main.command()
@config_option
def serve(path: Path | None) -> None:
    """Serve CRI until SIGTERM or SIGINT; containers go on."""
    with told():
        asyncio.run(app.serve(app.read_config(path)))


@main.group(name="config")
def config_group() -> None:
    """The configuration file."""


@config_group.command(name="default")
def config_default() -> None:
    """Print a commented file with every key at its default."""
    click.echo(default_text(), nl=False)


@config_group.command(name="check")
@config_option
def config_check(path: Path | None) -> None:
    """Read the file and its drop-ins, and load the backends that they name."""
    with told():
        config = app.read_config(path)
        app.plugins_of(config)
        for handler, backend in config.handlers.items():
            click.echo(f"handler {handler or 'default'}: backend {backend}")
        click.echo(f"serves {config.listen}")
