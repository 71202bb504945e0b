"""The command line. Each command is `command` in a file of its own, imported when it is used, since most have many imports."""

from importlib import import_module
from typing import Final

import click

from crishim import __version__

_COMMANDS: Final = (
    "check",
    "completion",
    "config",
    "coverage",
    "critest",
    "exam",
    "load",
    "new",
    "play",
    "pull",
    "record",
    "records",
    "replay",
    "serve",
)


class Commands(click.Group):
    """Commands by the names of their files."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """All names, sorted."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """A command, by its name."""
        if cmd_name not in _COMMANDS:
            return None
        command = import_module(f"crishim.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="crishim", message="%(prog)s %(version)s")
def main() -> None:
    """CRI requests mapped onto a ten-verb backend."""
