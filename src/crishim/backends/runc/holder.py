"""Runs between conmon and gVisor for one container; a script of its own that uses the standard library only.

    python -IS holder.py RUNTIME [GLOBAL ARGUMENTS] create --bundle DIR --pid-file FILE [--console-socket PATH] ID

gVisor reports the sandbox's pid for each container of a pod, and takes the streams of a member from `start` instead of
`create`; conmon expects neither. So a member is created without streams, and a holder process represents it: conmon waits for
the holder as for the container, and the holder has conmon's streams. `GO` in the bundle's fifo `start` makes it start the
container with them; it then writes `ok`, or the runtime's log, to the fifo `started`. The holder exits with the container, with
its exit code, or when it reads `LEAVE` instead.

A terminal too is created by `start`, but conmon needs one before: conmon gets one of the holder's, which the holder connects to
the container's.

The container that stands for the pod needs no holder: the runtime replaces this process by exec.
"""

import contextlib
import fcntl
import json
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import tty
from pathlib import Path
from typing import Self

START, STARTED = "start", "started"
"""The fifos in the bundle."""

GO, LEAVE = b"g", b"l"
OK = b"ok"
UNKNOWN = 255


def main(argv: list[str]) -> int:
    """Create the container. Returns the exit code of the creation, or in the remaining process the container's."""
    at = argv.index("create")
    runtime, args, container = argv[:at], argv[at:], argv[-1]
    bundle, console = Path(option(args, "--bundle")), option(args, "--console-socket")
    if is_sandbox(bundle):
        os.execv(runtime[0], argv)  # noqa: S606 - the command that conmon was given
    with contextlib.ExitStack() as stack:
        terminal = stack.enter_context(Terminal()) if console else None
        created = subprocess.run(
            [*runtime, "create", "--bundle", str(bundle), *(terminal.args if terminal else ()), container],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            check=False,
        )
        if created.returncode:
            return created.returncode
        begin, started = (fifo(bundle / name) for name in (START, STARTED))
        holder = os.fork()
        if holder:
            stack.pop_all()  # the holder uses the open descriptors
            Path(option(args, "--pid-file")).write_text(str(holder), encoding="ascii")
            return 0
        if terminal:
            terminal.give(console)
        if os.read(begin, 1) != GO:
            return UNKNOWN
        return hold(runtime, container, bundle / "start.log", started, terminal)


def is_sandbox(bundle: Path) -> bool:
    """Whether a bundle's container stands for a pod."""
    config = json.loads((bundle / "config.json").read_text(encoding="utf-8", errors="surrogateescape"))
    annotations = config.get("annotations", {})
    return bool(annotations.get("io.kubernetes.cri.container-type") == "sandbox")


def option(args: list[str], name: str) -> str:
    """The value of an option; empty if it is missing."""
    return args[args.index(name) + 1] if name in args else ""


def fifo(path: Path) -> int:
    """Create a fifo and open both of its ends, so that neither side reads EOF before the other has opened it."""
    os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR)


def take(descriptor: int) -> None:
    """Use a descriptor as stdin, stdout and stderr."""
    for number in (0, 1, 2):
        os.dup2(descriptor, number)
    os.close(descriptor)


def hold(runtime: list[str], container: str, log: Path, started: int, terminal: "Terminal | None") -> int:
    """Start the container with our streams, report the result to `started`, close the streams, and wait. Returns its exit
    code.
    """
    starting = subprocess.Popen([*runtime, f"--log={log}", "--log-format=json", "start", container])
    if terminal:
        terminal.join(starting)
    if starting.wait():
        os.write(started, log.read_bytes()[-4000:] or b"the runtime failed without a message")
        return UNKNOWN
    os.write(started, OK)
    os.close(started)
    take(os.open(os.devnull, os.O_RDWR))
    waited = subprocess.run([*runtime, "wait", container], stdout=subprocess.PIPE, check=False)
    if terminal:
        terminal.drain()
    try:
        return int(json.loads(waited.stdout)["exitStatus"]) & 0xFF
    except (ValueError, KeyError):
        return UNKNOWN


class Terminal:
    """Connects conmon's terminal to the one that the runtime creates at `start`; sizes are copied as well."""

    def __init__(self) -> None:
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        self._folder = tempfile.mkdtemp(prefix="tty")
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(f"{self._folder}/s")
        self._socket.listen(1)
        self._theirs = -1
        self._output: threading.Thread | None = None
        self.args = ("--console-socket", f"{self._folder}/s")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def give(self, path: str) -> None:
        """Send our terminal's master to the listener at `path`, and follow its size."""
        with socket.socket(socket.AF_UNIX) as console:
            console.connect(path)
            socket.send_fds(console, [b"terminal"], [self._master])
        os.close(self._master)
        os.setsid()
        fcntl.ioctl(self._slave, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGWINCH, lambda *_: self._copy_size())
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def join(self, starting: "subprocess.Popen[bytes]") -> None:
        """Receive the runtime's terminal, unless the runtime fails first, and begin to copy."""
        while not select.select([self._socket], [], [], 0.05)[0]:
            if starting.poll():
                return
        connection = self._socket.accept()[0]
        self._theirs = socket.recv_fds(connection, 1024, 1)[1][0]
        connection.close()
        self._copy_size()
        self._output = threading.Thread(target=copy, args=(self._theirs, self._slave), daemon=True)
        self._output.start()
        threading.Thread(target=copy, args=(self._slave, self._theirs), daemon=True).start()

    def drain(self) -> None:
        """Wait until all output of the container was copied."""
        if self._output is not None:
            self._output.join(5)

    def _copy_size(self) -> None:
        if self._theirs >= 0:
            size = fcntl.ioctl(self._slave, termios.TIOCGWINSZ, bytes(8))
            fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, size)


def copy(source: int, target: int) -> None:
    """Copy until either terminal is closed."""
    with contextlib.suppress(OSError):
        while data := os.read(source, 1 << 16):
            while data:
                data = data[os.write(target, data) :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
