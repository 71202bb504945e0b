"""conmon's command line, files and messages; pure. Versions 2.1.6 and newer.

In a container's bundle: `pidfile` and `conmon-pidfile` (decimal pids), `exit` (the exit code, decimal; written at the end),
`oom` (empty; written when the out-of-memory killer was seen), `ctl` (a fifo for one-line commands). We add `first-process`: the
container's first process as `proc.Identity`, since its pid alone may be reused.
"""

import contextlib
import json
import re
from pathlib import Path

import attrs

from crishim.errors import CreateRefused, Unknown
from crishim.interfaces.oci_runtime import Stdio
from crishim.model.process import TerminalSize

MONITOR_PROCESS = "monitor"
"""The file of a bundle that identifies the monitor, by pid and start time."""

STDOUT, STDERR = 2, 3
"""The first byte of every packet that an attached client reads."""

PACKET = 32 * 1024
"""The maximum of input bytes in one packet."""


@attrs.frozen(kw_only=True)
class MonitorRequest:
    """One container to create or to restore.

    `sockets`: a folder with a short path, since the path of a socket has 107 bytes at most.
    """

    container_id: str
    bundle: Path
    runtime: str
    runtime_args: tuple[str, ...] = ()
    systemd_cgroup: bool = False
    sockets: Path
    stdio: Stdio = Stdio()
    images: Path | None = None
    """What the container is restored from, instead of being created."""
    restore_args: tuple[str, ...] = ()
    """Options for the runtime's restore."""


def socket_name(container_id: str) -> str:
    """The name of a container's folder below `sockets`."""
    return container_id[-32:]


def create_argv(request: MonitorRequest) -> list[str]:
    """Conmon's arguments for creating a container; its sync pipe and its start pipe are named in its environment."""
    bundle, stdio = request.bundle, request.stdio
    argv = [
        "--api-version=1",
        f"--cid={request.container_id}",
        f"--cuuid={socket_name(request.container_id)}",
        f"--name={request.container_id}",
        f"--bundle={bundle}",
        f"--container-pidfile={bundle / 'pidfile'}",
        f"--conmon-pidfile={bundle / 'conmon-pidfile'}",
        f"--persist-dir={bundle}",
        f"--exit-dir={bundle / 'exits'}",
        f"--socket-dir-path={request.sockets}",
        f"--runtime={request.runtime}",
        *(f"--runtime-arg={argument}" for argument in request.runtime_args),
        "--log-level=error",
    ]
    if stdio.log_path:
        argv.extend(["--no-sync-log", f"--log-path=k8s-file:{stdio.log_path}"])
    else:
        argv.append("--log-path=passthrough" if has_pipes(stdio) else "--log-path=none:")
    if request.images is not None:
        argv.append(f"--restore={request.images}")
        argv.extend(f"--runtime-opt={argument}" for argument in request.restore_args)
    if request.systemd_cgroup:
        argv.append("--systemd-cgroup")
    if stdio.terminal:
        argv.append("--terminal")
    if stdio.keep_stdin:
        argv.append("--stdin")
        if not stdio.stdin_once:
            argv.append("--leave-stdin-open")
    return argv


_LOGFMT = re.compile(r'\blevel=(?:error|fatal|panic)\b.*?\bmsg=("(?:[^"\\]|\\.)*"|\S+)')


def runtime_message(text: str) -> str:
    """A runtime's error without the time and level at the beginning of its log lines; other text is returned as it is.

    With the time in the message, the kubelet would record each retry of a creation as a new event.
    """
    found = _LOGFMT.findall(text)
    if not found:
        return text.strip()
    message = str(found[-1])
    if message.startswith('"'):
        with contextlib.suppress(ValueError):
            message = str(json.loads(message))  # Go's %q is JSON but for rare escapes
    return message.strip('"').strip()


def parse_sync(line: bytes) -> int:
    """The container's pid from the line in the sync pipe. Raises `CreateRefused` with the runtime's message, or `Unknown`."""
    try:
        message = json.loads(line)
        pid = int(message.get("data", message.get("pid", -1)))
    except (ValueError, AttributeError) as error:
        raise Unknown(f"the monitor sent {line[:200]!r}") from error
    if pid <= 0:
        raise CreateRefused(runtime_message(str(message.get("message") or "")) or "the runtime failed without a message")
    return pid


def resize_line(size: TerminalSize) -> bytes:
    """The command of `ctl` for a new size of the terminal."""
    return f"1 {size.height} {size.width}\n".encode()


REOPEN_LINE = b"2 0 0\n"
"""The command of `ctl` that reopens the log."""


def has_pipes(stdio: Stdio) -> bool:
    """Whether the pipes become the process's streams; with a terminal the caller copies them, with a log the monitor does."""
    return not stdio.terminal and not stdio.log_path and bool(stdio.stdin or stdio.stdout or stdio.stderr)
