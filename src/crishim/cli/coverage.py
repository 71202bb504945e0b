"""`crishim coverage`: the treatment of each field of CRI by a backend."""

import asyncio
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final

import click
from rich.console import Console
from rich.text import Text

from crishim.cli.options import drop_in_option, exit_on_error, tested_options
from crishim.coverage.verdicts import FieldVerdict, Subject, Verdict, coverage
from crishim.errors import CrishimError
from crishim.interfaces.backend import Backend, BackendContext
from crishim.interfaces.capabilities import capabilities
from crishim.model.features import Feature
from crishim.model.values import FrozenDict
from crishim.plugins import build, load
from crishim.system import SystemClock

_HEAD: Final = """\
# Coverage of CRI

What becomes of each field of each request, backend by backend. This page is printed by `crishim coverage --markdown`; for a
backend of your own, `crishim coverage package.module:plugin` prints the same.

Where versions differ, the table is for the newest: runc from 1.2, crun from 1.9, docker from 25, on Linux from 5.19 with
cgroup v2 and AppArmor; Kata has its default configuration. `crishim coverage BACKEND` asks what is on this machine.

- **supported**: the backend, or crishim itself, does what the field asks for.
- **refused**: a request that sets it to this ends with INVALID_ARGUMENT naming the field, or with UNIMPLEMENTED naming the
  capability that the backend lacks. What protects a pod is refused, never passed over.
- **ignored**: it is taken, and changes nothing, for the reason given.
- **not stated**: it is taken; no feature is behind it, and the backend's plug-in does not say what it ignores.

A backend says what it supports (`BackendInfo.supported`), what it is able to (its capabilities), and what it takes and does not
use (`Plugin.ignores`). The rest follows from the code that requests go through.
"""

_STYLES: Final = {Verdict.SUPPORTED: "green", Verdict.REFUSED: "red", Verdict.IGNORED: "yellow", Verdict.NOT_STATED: "yellow"}


@click.command(name="coverage")
@click.argument("backends", nargs=-1, required=True, metavar="BACKEND...")
@drop_in_option
@click.option(
    "--only", type=click.Choice([verdict.value for verdict in Verdict]), help="Show the fields with this verdict alone."
)
@click.option(
    "--markdown", is_flag=True, help="One table for all the backends with their newest engines, as in the documentation."
)
def command(backends: tuple[str, ...], drop_in: IO[str] | None, only: str | None, *, markdown: bool) -> None:
    """Show the treatment of each field of CRI: supported, refused, ignored with the reason, or not stated.

    BACKEND is an installed plug-in, or package.module:attribute. It is built and probed; nothing is run on it. The file of
    --options is a drop-in of crishim's configuration, as that of `crishim critest`, for one BACKEND. If its engine does not
    answer, what its plug-in says of the newest one counts. A refused field ends the call with INVALID_ARGUMENT or
    UNIMPLEMENTED, an ignored one has no effect.
    """
    if drop_in is not None and len(backends) > 1:
        raise click.UsageError("--options needs a single BACKEND")
    with exit_on_error():
        options = tested_options(drop_in)
        tables = [coverage(_subject(name, options, ask=not markdown)) for name in backends]
        if markdown:
            click.echo("\n".join(_markdown(backends, tables)), nl=False)
            return
        for name, lines in zip(backends, tables, strict=True):
            _print(name, lines, only)


def _subject(name: str, options: FrozenDict[str, Any], *, ask: bool) -> Subject:
    """The backend as it is on this machine, or as its plug-in says. Raises what its construction and its probe raise."""
    plugin = load(name)
    with tempfile.TemporaryDirectory(prefix="crishim-coverage-") as folder:
        place = Path(folder)
        context = BackendContext(state=place, runtime_state=place, options=options, clock=SystemClock())
        backend = build(plugin.build, context, name)
        supported = plugin.supported
        if ask or supported is None:
            supported = _asked(name, backend, supported)
    return Subject(
        name=name,
        supported=supported,
        capabilities=capabilities(backend),
        dials=plugin.needs_node,
        node_images=plugin.needs_node and plugin.images is None,
        ignores=plugin.ignores,
    )


def _asked(name: str, backend: Backend, otherwise: frozenset[Feature] | None) -> frozenset[Feature]:
    """What the backend says that it supports; `otherwise`, and why on stderr, where it does not answer."""
    try:
        return asyncio.run(backend.probe()).supported
    except CrishimError as error:
        if otherwise is None:
            raise
        click.echo(f"{name}: {error}; this is what the newest one supports", err=True)
        return otherwise


def _print(name: str, lines: Sequence[FieldVerdict], only: str | None) -> None:
    console = Console(highlight=False, soft_wrap=True)
    shown = [line for line in lines if only in {None, line.verdict}]
    width = max((len(line.field) for line in shown), default=0)
    counts = ", ".join(f"{sum(line.verdict is verdict for line in lines)} {verdict}" for verdict in Verdict)
    console.print(Text.assemble((name, "bold"), f": {counts}"))
    for message, rows in itertools.groupby(shown, lambda line: line.message):
        console.print(Text.assemble("\n", (message, "bold")))
        for line in rows:
            verdict = (line.verdict.value.ljust(10), _STYLES[line.verdict])
            text = Text.assemble("  ", verdict, "  ", line.field.ljust(width), "  ", (line.reason, "dim"))
            text.rstrip()
            console.print(text)
    console.print()


def _markdown(names: Sequence[str], tables: Sequence[Sequence[FieldVerdict]]) -> Iterator[str]:
    yield _HEAD
    for message, rows in itertools.groupby(zip(*tables, strict=True), lambda row: row[0].message):
        yield f"## {message}\n"
        yield f"| field | {' | '.join(names)} |"
        yield "|---|" + "---|" * len(names)
        for row in rows:
            yield f"| `{row[0].field}` | {' | '.join(_cell(line) for line in row)} |"
        yield ""


def _cell(line: FieldVerdict) -> str:
    word = line.verdict.value if line.verdict is Verdict.SUPPORTED else f"**{line.verdict}**"
    reason = line.reason.replace("|", "\\|").replace("InvalidArgument names ", "names ")
    return f"{word}: {reason}" if reason else word
