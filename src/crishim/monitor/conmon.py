"""conmon's command line, files and messages; pure. Versions 2.1.6 and newer.

Below a container's bundle: `pidfile` and `conmon-pidfile` (decimal pids), `exit` (the exit code, decimal; there when it ended),
`oom` (empty; there when the out-of-memory killer was seen), `ctl` (a fifo for one-line commands). Beside them we write
`first-process`: the container's first process as `proc.Identity`, since its pid alone may be another process's later.
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
"""The file of a bundle in which it is kept which process (pid and start time) the monitor is."""

STDOUT, STDERR = 2, 3
"""The first byte of every packet that an attached client reads."""

PACKET = 32 * 1024
"""The most bytes of input in one packet."""


@attrs.frozen(kw_only=True)
class MonitorRequest:
    """One container to create or to restore.

    `sockets` is a folder with a short path, since a socket's path has 107 bytes at most.
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
    """Conmon's arguments for creating a container; its sync pipe and its start pipe are told by its environment."""
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
    """What a runtime has complained of, without the time and the level that its log lines begin with; other text as it is.

    With a time in it, every retry of a creation would be another event for the kubelet.
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
    """The container's pid from the sync pipe's line. Raises `CreateRefused` with the runtime's words, or `Unknown`."""
    try:
        told = json.loads(line)
        pid = int(told.get("data", told.get("pid", -1)))
    except (ValueError, AttributeError) as error:
        raise Unknown(f"the monitor said {line[:200]!r}") from error
    if pid <= 0:
        raise CreateRefused(runtime_message(str(told.get("message") or "")) or "the runtime failed without a word")
    return pid


def resize_line(size: TerminalSize) -> bytes:
    """What `ctl` takes for a new size of the terminal."""
    return f"1 {size.height} {size.width}\n".encode()


REOPEN_LINE = b"2 0 0\n"
"""What `ctl` takes for opening the log anew."""


def has_pipes(stdio: Stdio) -> bool:
    """Whether its pipes become the process's streams: a terminal's are the caller's to copy, and a log is the monitor's."""
    return not stdio.terminal and not stdio.log_path and bool(stdio.stdin or stdio.stdout or stdio.stderr)
