"""`crishim serve`: a node's runtime, until a signal ends it."""

import asyncio
import gc
import logging
import os
from pathlib import Path
from typing import Final

import click

from crishim import app
from crishim.cli.daemon import announced, ended_by_signals, start_logging, take_over_environment
from crishim.cli.options import config_option, exit_on_error
from crishim.config import Config
from crishim.linux.children import watch_by_pidfd

_PROCESS: Final = ("process", "crishim.backends.process:plugin")

_log = logging.getLogger(__name__)


@click.command(name="serve")
@config_option
def command(path: Path | None) -> None:
    """Serve CRI until SIGTERM or SIGINT; containers keep running."""
    with exit_on_error():
        asyncio.run(serve(app.read_config(path)))


async def serve(config: Config) -> None:
    """Run a node's runtime until SIGTERM or SIGINT. Containers keep running."""
    start_logging(config.log.level, config.log.format)
    _warn_of_plain_processes(config)
    watch_by_pidfd()
    manager = take_over_environment()
    with ended_by_signals() as ended:
        async with app.running(config), announced(manager):
            gc.freeze()  # records and modules live long: garbage collections need not scan them
            await ended.wait()
            _log.info("stopping; containers keep running")


def _warn_of_plain_processes(config: Config) -> None:
    for handler, backend in config.handlers.items():
        if config.plugin_of(backend) in _PROCESS and os.geteuid() == 0:
            _log.warning(
                "PODS ARE PLAIN PROCESSES OF ROOT on this machine, with all its files and no isolation: handler %r has the"
                " process backend; `crishim config init` writes a configuration with a container runtime",
                handler or "default",
            )
