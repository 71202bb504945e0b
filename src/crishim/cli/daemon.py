"""Log formats, readiness (sd_notify) and termination signals of a daemon. Nothing from outside the standard library but attrs.

The protocol of readiness is systemd's: a datagram of `KEY=value` lines to the socket that NOTIFY_SOCKET names; without that
variable nothing is sent. With WATCHDOG_USEC a keep-alive is sent in half that interval.
"""

import asyncio
import contextlib
import datetime as dt
import json
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator, Mapping, MutableMapping
from typing import Final

from crishim.interfaces.tracing import current_rpc

__all__ = ["RpcFilter"]

_OURS_ALONE: Final = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
_MAX_FIELD: Final = 256
"""Characters of a field of an RPC in a line of text."""

_PRIORITIES: Final = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}


class RpcFilter(logging.Filter):
    """Adds `rpc` to every record: the number of the RPC that is served, its pod and its trace, as far as there are any.

    For handlers: a logger's filters do not see the records of the loggers below it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the fields; no record is dropped."""
        rpc = current_rpc()
        fields = {} if rpc is None else {"rpc": rpc.number, "pod": rpc.pod, "trace_id": rpc.trace_id}
        record.rpc = {name: value for name, value in fields.items() if value}
        return True


class TextFormat(logging.Formatter):
    """`2026-01-01T00:00:00.000Z INFO crishim.rpc: [rpc=17 pod=default/web] message`; no brackets outside of RPCs."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, with a traceback if the record has one."""
        return f"{_time(record)} {record.levelname} {record.name}: {_rpc(record)}{super().format(record)}"


class JournalFormat(logging.Formatter):
    """`<6>crishim.rpc: [rpc=17 pod=default/web] message`: journald reads the priority, and adds the time.

    Each line of a traceback has its own priority.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The lines, each with its priority."""
        priority = f"<{_PRIORITIES.get(record.levelname, 6)}>"
        text = f"{record.name}: {_rpc(record)}{super().format(record)}"
        return "\n".join(priority + line for line in text.splitlines())


class JsonFormat(logging.Formatter):
    """One object a line: `time level logger message`, `rpc pod trace_id` where there are any, and `error` with a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        fields: dict[str, str | int] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= _rpc_fields(record)
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def start_logging(level: str, form: str, environ: Mapping[str, str] = os.environ) -> None:
    """Log to stderr from now on. `form` is text, json, journald, or auto: journald if stderr is the journal's stream."""
    formats = {"text": TextFormat, "json": JsonFormat, "journald": JournalFormat}
    if form == "auto":
        form = "journald" if environ.get("JOURNAL_STREAM") == _stream_of(2) else "text"
    handler = logging.StreamHandler()
    handler.setFormatter(formats[form]())
    handler.addFilter(RpcFilter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def take_over_environment(environ: MutableMapping[str, str] = os.environ) -> Mapping[str, str]:
    """Take the service manager's variables for this process out of its environment, and return them.

    Programs that are started from here would use them otherwise: runc passes NOTIFY_SOCKET on to the container.
    """
    return {name: environ.pop(name) for name in _OURS_ALONE if name in environ}


def notify(state: str, environ: Mapping[str, str]) -> None:
    """Notify the service manager, if there is one: `READY=1`, `STOPPING=1`, `WATCHDOG=1`, `STATUS=...`."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender, contextlib.suppress(OSError):
        sender.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
        sender.send(state.encode())


def watchdog_period(environ: Mapping[str, str]) -> float | None:
    """The interval of watchdog keep-alives, in seconds; None without a watchdog."""
    pid = environ.get("WATCHDOG_PID", "")
    micros = environ.get("WATCHDOG_USEC", "")
    if not micros.isdigit() or not int(micros) or (pid and pid != str(os.getpid())):
        return None
    return int(micros) / 2e6


@contextlib.asynccontextmanager
async def announced(environ: Mapping[str, str]) -> AsyncIterator[None]:
    """Notify readiness inside the `async with`, send watchdog keep-alives, and notify the stop at its end."""
    period = watchdog_period(environ)
    alive = None if period is None else asyncio.create_task(_signs_of_life(period, environ), name="watchdog")
    notify("READY=1", environ)
    try:
        yield
    finally:
        notify("STOPPING=1", environ)
        if alive is not None:
            alive.cancel()


@contextlib.contextmanager
def ended_by_signals() -> Iterator[asyncio.Event]:
    """An event that is set by SIGTERM and SIGINT. For the main thread's running loop."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, ended.set)
    try:
        yield ended
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _signs_of_life(period: float, environ: Mapping[str, str]) -> None:
    while True:
        notify("WATCHDOG=1", environ)
        await asyncio.sleep(period)


def _rpc_fields(record: logging.LogRecord) -> dict[str, str | int]:
    fields: dict[str, str | int] = getattr(record, "rpc", {})
    return fields


def _printable(text: str) -> str:
    """A text of a request on one line: a name there may be anything."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text[:_MAX_FIELD])


def _rpc(record: logging.LogRecord) -> str:
    fields = " ".join(f"{name}={_printable(str(value))}" for name, value in _rpc_fields(record).items())
    return f"[{fields}] " if fields else ""


def _time(record: logging.LogRecord) -> str:
    return dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _stream_of(descriptor: int) -> str:
    """Device and inode, in the form of JOURNAL_STREAM."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return ""
    return f"{status.st_dev}:{status.st_ino}"
