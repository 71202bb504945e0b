"""Counts the files and folders that this process opens, and the programs that it starts, by Python's audit events (PEP 578)."""

import contextlib
import sys
from collections.abc import Iterator

import attrs


@attrs.define
class Work:
    """What was opened and started, in order."""

    files: list[str] = attrs.field(factory=list)
    programs: list[str] = attrs.field(factory=list)


_running: list[Work] = []


def _note(event: str, arguments: tuple[object, ...]) -> None:
    for work in _running:
        if event in {"open", "os.listdir", "os.scandir"} and not isinstance(arguments[0], int):
            work.files.append(str(arguments[0]))
        elif event in {"subprocess.Popen", "os.posix_spawn"}:
            work.programs.append(str(arguments[0]))


sys.addaudithook(_note)  # for the life of the process: there is no way to remove one


@contextlib.contextmanager
def counted() -> Iterator[Work]:
    """The work of the block, in all threads."""
    work = Work()
    _running.append(work)
    try:
        yield work
    finally:
        _running.remove(work)
