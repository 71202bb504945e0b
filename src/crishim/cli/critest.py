"""`crishim critest`: the official conformance suite against a backend."""

import contextlib
import sys
from typing import IO

import click

from crishim.cli.options import TESTED, drop_in_option, exit_on_error, fail, sigterm_as_sigint
from crishim.plugins import load
from crishim.testing.suite.node import missing, run_suite
from crishim.testing.suite.report import EVERYWHERE, KnownSpecs, read_known, report


@click.command(name="critest", context_settings={"ignore_unknown_options": True})
@click.argument("plugin")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option("--known", "known_file", type=click.File(encoding="utf-8"), help="What may fail or be left out, and why (TOML).")
@drop_in_option
def command(plugin: str, arguments: tuple[str, ...], known_file: IO[str] | None, drop_in: IO[str] | None) -> None:
    """Run critest against the backend of PLUGIN: an installed one, or package.module:attribute.

    Needs root, critest, and Debian's packages for the suite's images; what is missing is named. Starts a registry on the
    loopback with the images, and a server with the backend, in a temporary folder. ARGUMENTS go to critest (after --, where an
    option of this command has the name, too).

    The file of --known has two tables, of reasons by texts: `failures` by parts of the names of specs, `skips` by what the
    message of a skipped spec begins with, or a part of its name. The file of --options is a drop-in of crishim's
    configuration, in which the backend is `[backends.tested]`.

    Several runs may go on beside each other; specs of pods on the node's network take the same ports in all of them.

    The exit status is 0 if nothing failed or was left out that is not known, 1 if something did, 2 if the suite could not be
    run.
    """
    with exit_on_error(2):
        load(plugin)
        known = EVERYWHERE | (read_known(known_file.read()) if known_file else KnownSpecs())
        if lacking := missing():
            fail("the suite needs:\n  " + "\n  ".join(lacking), 2)
        backend = f'[handlers]\n"" = "{TESTED}"\n[backends.{TESTED}]\nplugin = "{plugin}"\n'
        more = drop_in.read() if drop_in else ""
        with sigterm_as_sigint():
            xml, file = run_suite("plugin", lambda *_: contextlib.nullcontext(backend), arguments, more)
    text, bad = report(xml, plugin, known)
    click.echo(text)
    click.echo(f"the whole output, the report and crishim's log: {file.with_suffix('')}.*", err=True)
    sys.exit(1 if bad else 0)
