"""`crishim completion`: what a shell must read to complete crishim's commands."""

import click
from click.shell_completion import get_completion_class

_SHELLS = ("bash", "zsh", "fish")


@click.command(name="completion")
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the completion script for SHELL.

    For bash: `crishim completion bash > /etc/bash_completion.d/crishim`.
    """
    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(context.find_root().command, {}, "crishim", "_CRISHIM_COMPLETE").source())
