"""containerd-shim-crishim-v2: a thin process that asks the node's daemon, and leaves.

containerd runs a shim's binary in a bundle's folder, at least twice for each task: `start` prints the address that serves it,
`delete` frees what is left and prints how it ended, `-info` and `-v` tell who it is (containerd, runtime v2's README). All of
it is done by one daemon per node, which is started when it is not there. Here is only the standard library, and of that what
costs nothing: no asyncio, no protobuf, not even json or the socket module around `_socket`.

Daemon and launcher speak over a unix socket in the state folder. The launcher says texts, each with a zero byte behind it, then
what it was given on stdin, then no more; the daemon answers one byte and what belongs to it, then no more.

    start|delete, id, namespace, bundle, address for events  ->  `+` and what is to be printed
    whatever goes wrong                                      ->  `-` and why
"""

import fcntl
import os
import sys
import time
from _socket import AF_UNIX, SHUT_WR
from _socket import socket as Socket  # noqa: N812 - a class, though its name does not say so

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

NAME = "io.containerd.crishim.v2"
STATE = "/run/crishim/shim"
"""Where the daemon has its sockets; `CRISHIM_SHIM_STATE` names another folder."""

CONTROL = "control"
DONE, FAILED = b"+", b"-"
NOT_THE_DAEMONS = {"TTRPC_ADDRESS", "GRPC_ADDRESS", "NAMESPACE", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"}
"""Variables for one task's shim, and for containerd itself."""
TIMEOUT = 30.0


def main() -> int:
    """The program of the package itself; answers the exit status."""
    return run(sys.argv[1:], NAME, [sys.executable, "-P", "-m", "crishim.backends.runc.shim"])


def run(argv: "Sequence[str]", name: str, daemon: "Sequence[str]", default: str = STATE) -> int:
    """Do what containerd asks of a shim's binary; answers the exit status. `daemon` and the state folder start the daemon."""
    options = parse(argv)
    if "v" in options:
        sys.stdout.write(f"{os.path.basename(sys.argv[0])}:\n  Version:  {version()}\n")  # noqa: PTH119 - no pathlib here
        return 0
    if "info" in options:
        return write(information(name))
    state = os.environ.get("CRISHIM_SHIM_STATE") or default
    command = options.get("", "")
    if command not in {"start", "delete"}:
        sys.stderr.write(f"{name}: start or delete was expected, not {command!r}\n")
        return 1
    texts = (
        command,
        options.get("id", ""),
        options.get("namespace", ""),
        options.get("bundle") or os.getcwd(),  # noqa: PTH109 - no pathlib here
        os.environ.get("TTRPC_ADDRESS", ""),
    )
    asked = question(texts, sys.stdin.buffer.read() if command == "start" else b"")
    try:
        told = ask(state, asked, daemon)
    except OSError as error:
        told = FAILED + str(error).encode()
    if told[:1] != DONE:
        sys.stderr.write(f"{name}: {told[1:].decode('utf-8', 'replace')}\n")
        return 1
    return write(told[1:])


def parse(argv: "Sequence[str]") -> dict[str, str]:
    """Go's flags, `-name value`; `-v`, `-info` and `-debug` have no value, and the command is under the empty name."""
    options: dict[str, str] = {}
    words = iter(argv)
    for word in words:
        flag, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("-"):
            options[""] = word
        elif equals or flag in {"v", "info", "debug"}:
            options[flag] = value
        else:
            options[flag] = next(words, "")
    return options


def question(texts: "Sequence[str]", stdin: bytes = b"") -> bytes:
    """What the daemon is asked."""
    return b"".join(os.fsencode(text) + b"\0" for text in texts) + stdin


def ask(state: str, asked: bytes, daemon: "Sequence[str]") -> bytes:
    """Put a question to the daemon, which is started if it is not there. Raises `OSError`.

    Many launchers may find it missing at once. One starts it, and the others only look again and again: containerd has no more
    than five seconds for each of them, too short a time to stand in a queue. Where it dies over a question, its successor is
    asked, since every question may be asked twice: a daemon that is being killed still takes connections for a moment, and just
    then containerd asks what has become of its tasks.
    """
    control, log = f"{state}/{CONTROL}", f"{state}/log"
    end = time.monotonic() + TIMEOUT
    lock = started = 0
    while time.monotonic() < end:
        try:
            return talk(control, asked)
        except (ConnectionResetError, BrokenPipeError):
            pass
        except (ConnectionRefusedError, FileNotFoundError):
            if started:
                if os.waitpid(started, os.WNOHANG)[0]:
                    break
            elif lock:
                started = spawn([*daemon, state], log)
            elif lock := locked(state):
                continue  # whoever had it before us may have started the daemon since we asked
        time.sleep(0.01)
    raise OSError(f"the daemon does not start; see {log}")


def talk(control: str, asked: bytes) -> bytes:
    """One question, one answer. Raises `OSError`; `ConnectionResetError` also where there is no answer."""
    connection = Socket(AF_UNIX)
    try:
        connection.connect(control)
        connection.sendall(asked)
        connection.shutdown(SHUT_WR)
        if answer := b"".join(iter(lambda: connection.recv(65536), b"")):
            return answer
        raise ConnectionResetError("the daemon has said nothing")
    finally:
        connection.close()


def locked(state: str) -> int:
    """The lock of those who start a daemon, until this process ends; 0 while somebody else has it."""
    os.makedirs(state, mode=0o711, exist_ok=True)  # noqa: PTH103 - no pathlib here
    lock = os.open(f"{state}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return 0
    return lock


def spawn(command: list[str], log: str) -> int:
    """Start a daemon that has nothing of ours: a session and streams of its own. Answers its pid."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, old, new) for old, new in ((nothing, 0), (output, 1), (output, 2))]
    environment = {key: value for key, value in os.environ.items() if key not in NOT_THE_DAEMONS}
    try:
        return os.posix_spawn(command[0], command, environment, file_actions=actions, setsid=True)
    finally:
        os.close(output)
        os.close(nothing)


def information(name: str) -> bytes:
    """containerd.types.RuntimeInfo: the name is field 1, the version field 2 with a text in its field 1."""
    text = field(1, version().encode())
    return field(1, name.encode()) + field(2, text)


def field(number: int, value: bytes) -> bytes:
    """A field with a length, below 128 bytes."""
    return bytes((number << 3 | 2, len(value))) + value


def version() -> str:
    """The package's."""
    from crishim import __version__

    return __version__


def write(answer: bytes) -> int:
    """Print bytes."""
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
