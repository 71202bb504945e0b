"""The commands' own help, for the reference and as a man page (pure)."""

from collections.abc import Iterator
from typing import Any, Final

import click

from crishim import __version__
from crishim.cli.main import main

STATUS: Final = (
    "| status | of | when |",
    "|---|---|---|",
    "| 0 | all | it was done; for `play`: every container ended with 0 |",
    "| 1 | all but `play` | it could not be done; for `check`: something is missing that a backend in use needs |",
    "| 2 | all | the command line makes no sense |",
    "| 125 | `play` | a pod could not be played |",
    "| 128 + N | `play` | signal N stopped it |",
    "| another | `play` | that of the first container that failed |",
)
_WIDTH: Final = 100


def commands(command: Any = main, path: tuple[str, ...] = ("crishim",)) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its words, parents first."""
    yield path, command
    if isinstance(command, click.Group):
        context = _context(path, command)
        for name in command.list_commands(context):
            yield from commands(command.get_command(context, name), (*path, name))


def help_of(path: tuple[str, ...], command: Any) -> str:
    """What `--help` prints."""
    return str(command.get_help(_context(path, command)))


def page() -> str:
    """crishim(1), in man's macros."""
    lines = [
        f'.TH CRISHIM 1 "" "crishim {__version__}" "User Commands"',
        ".SH NAME",
        r"crishim \- a Kubernetes container runtime: CRI requests mapped onto a ten\-verb backend",
        ".SH SYNOPSIS",
        r"\fBcrishim\fR [\fIOPTIONS\fR] \fICOMMAND\fR [\fIARGS\fR]...",
        ".SH COMMANDS",
    ]
    for path, command in commands():
        if len(path) > 1 and not isinstance(command, click.Group):
            lines += [".SS " + _escaped(" ".join(path)), *_described(path, command)]
    lines += [
        ".SH EXIT STATUS",
        "0 if all went well, 1 if not, 2 for a command line that makes no sense.",
        r"\fBcrishim play\fR ends with the status of the first container that failed,",
        "with 125 if a pod could not be played, and with 128 and a signal's number if that stopped it.",
        ".SH FILES",
        ".TP",
        "/etc/crishim/crishim.toml",
        "The configuration; drop\\-ins are conf.d/*.toml beside it.",
        ".TP",
        "/run/crishim/crishim.sock",
        "Where CRI is served, unless the configuration names another place.",
        ".SH SEE ALSO",
        "crictl(1), runc(8), conmon(8), containers\\-registries.conf(5)",
    ]
    return "\n".join(lines) + "\n"


def _described(path: tuple[str, ...], command: Any) -> Iterator[str]:
    context = _context(path, command)
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"\\fB{_escaped(' '.join(path))}\\fR {_escaped(usage)}"
    yield ".PP"
    for line in (command.help or "").splitlines():
        yield _escaped(line.strip()) or ".PP"
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record and record[1]:
            yield from (".TP", f"\\fB{_escaped(record[0])}\\fR", _escaped(" ".join(record[1].split())))


def _context(path: tuple[str, ...], command: Any) -> click.Context:
    context: click.Context | None = None
    for word in path[:-1]:
        context = click.Context(main, info_name=word, parent=context)
    return click.Context(
        command,
        info_name=path[-1],
        parent=context,
        max_content_width=_WIDTH,
        terminal_width=_WIDTH,
        help_option_names=["-h", "--help"],
    )


def _escaped(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text.startswith((".", "'")) else text
