"""`crishim config`: the configuration file."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from crishim import app
from crishim.cli.check import findings, node_of
from crishim.cli.options import config_option, exit_on_error
from crishim.config import Config, default_text, parse
from crishim.errors import AlreadyExists, PermissionDenied
from crishim.linux.programs import find_program
from crishim.pods.host import cgroup_driver, cgroup_v2

_RUNTIMES: Final = ("runc", "crun", "runsc")
"""In the order of preference as the default handler."""

_PLUGINS: Final = ("/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni")
"""Folders of CNI plug-ins: those of networks' DaemonSets, which may be installed later; Debian's; Fedora's."""


@click.group(name="config")
def command() -> None:
    """The configuration file."""


@command.command(name="default")
def config_default() -> None:
    """Print a commented file with every key and its default."""
    click.echo(default_text(), nl=False)


@command.command(name="init")
@click.option(
    "--config",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"The file to write, {app.CONFIG_FILE} by default; - prints it.",
)
def config_init(path: Path | None) -> None:
    """Write a configuration for this machine to a new file, and list what the machine lacks for it.

    Each runtime that is found gets a handler; runc is the default, else crun.
    """
    with exit_on_error():
        text = machine_text()
        if str(path) == "-":
            click.echo(text, nl=False)
        else:
            _write(path or app.CONFIG_FILE, text)
            click.echo(f"wrote {path or app.CONFIG_FILE}")
        config = parse([("this machine", text.encode())])
        for line in _lacking(config):
            click.echo(line, err=True)


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


def machine_text() -> str:
    """A `crishim.toml` for this machine: the installed runtimes, its cgroup driver, its folders of CNI plug-ins."""
    runtimes = [name for name in _RUNTIMES if find_program(name)] or ["runc"]
    default = Config()
    folders = [folder for folder in _PLUGINS if folder == _PLUGINS[0] or os.path.isdir(folder)]  # noqa: PTH112 - may be hidden
    driver = cgroup_driver().name.lower()
    lines = [
        "# For this machine, by `crishim config init`; `crishim config default` has every key.",
        "",
        f"# cgroup v{2 if cgroup_v2() else 1}; the kubelet's cgroupDriver must be the same.",
        f"cgroup_driver = {json.dumps(driver)}",
        "",
        "# The default, and a handler for each RuntimeClass.",
        "[handlers]",
        f'"" = {json.dumps(runtimes[0])}',
        *(f"{name} = {json.dumps(name)}" for name in runtimes[1:]),
    ]
    for name in runtimes:
        if name != "runc":
            lines += ["", f"[backends.{name}]", 'plugin = "runc"', f"runtime = {json.dumps(name)}"]
    lines += [
        "",
        "[network]",
        f"config = {json.dumps(default.network.config)}",
        f"plugins = {json.dumps(folders)}",
        "",
        "[images]",
        "# Patterns of images that the kubelet must not garbage-collect, for nodes without a registry.",
        "pinned = []",
    ]
    return "\n".join((*lines, ""))


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise AlreadyExists("file", str(path)) from error
    except OSError as error:
        raise PermissionDenied(f"{path}: {error.strerror}") from error


def _lacking(config: Config) -> Iterator[str]:
    """A line for each need of serving that the machine does not meet."""
    for title, found in findings(config, node_of(config)):
        for finding in found:
            if finding.needed and not finding.ok:
                yield f"missing for {title}: {finding.what}: {finding.without}; {finding.remedy}"
