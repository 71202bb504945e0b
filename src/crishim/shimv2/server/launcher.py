"""containerd-shim-crishim-v2: a small program that sends one request to the node's daemon, and exits.

containerd runs a shim's binary in a bundle's folder, at least twice for each task: `start` prints the address that serves the
task, `delete` frees its leftovers and prints its exit status, `-info` and `-v` print versions (containerd, runtime v2's
README). One daemon per node does all of it; the launcher starts the daemon if it does not run. To start fast, this module
imports only cheap parts of the standard library: no asyncio, no protobuf, not even json or the socket module around `_socket`.

With the scope `sandbox` each pod, or task without a pod, has a daemon of its own, in a state folder NAMESPACE/ID. It ends when
nothing of the pod is left, and removes its folder.

Daemon and launcher talk over a unix socket in the state folder. The launcher sends strings, each followed by a zero byte, then
its stdin, and closes its side; the daemon responds with one byte and a payload, and closes:

    start|delete, id, namespace, bundle, address for events  ->  `+` and the bytes to print
    on any error                                             ->  `-` and the message
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
"""The folder of the daemon's sockets; `CRISHIM_SHIM_STATE` names another."""

SCOPE = "CRISHIM_SHIM_SCOPE"
"""The environment variable with the scope of a daemon."""
NODE, SANDBOX = "node", "sandbox"
_GROUP = b'"io.kubernetes.cri.sandbox-id"'
"""The annotation in a config.json with the id of the pod's sandbox. Go writes no space around its value."""

CONTROL = "control"
DONE, FAILED = b"+", b"-"
NOT_THE_DAEMONS = {"TTRPC_ADDRESS", "GRPC_ADDRESS", "NAMESPACE", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"}
"""Environment variables that belong to one task's shim or to containerd itself; the daemon does not inherit them."""
TIMEOUT = 30.0


def main() -> int:
    """The launcher of this package itself; returns the exit status."""
    daemon = [sys.executable, "-P", "-m", "crishim.backends.runc.shim"]
    if "info" in parse(sys.argv[1:]):
        os.execv(daemon[0], [*daemon, "-info"])  # noqa: S606 - it asks the runtime for its features
    return run(sys.argv[1:], NAME, daemon)


def run(argv: "Sequence[str]", name: str, daemon: "Sequence[str]", default: str = STATE, scope: str = NODE) -> int:
    """Run a command of a shim's binary; return the exit status. `daemon`, with the state folder appended, is the command that
    starts the daemon, which finds its scope in the environment.
    """
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
    task, namespace = options.get("id", ""), options.get("namespace", "")
    bundle = options.get("bundle") or os.getcwd()  # noqa: PTH109 - no pathlib here
    if os.environ.setdefault(SCOPE, scope) == SANDBOX:
        state = f"{state}/{namespace}/{group(bundle, task)}"
        if command == "delete" and not os.path.exists(state):  # noqa: PTH110 - no pathlib here
            return write(nothing_left(int(time.time())))
    texts = (command, task, namespace, bundle, os.environ.get("TTRPC_ADDRESS", ""))
    request = question(texts, sys.stdin.buffer.read() if command == "start" else b"")
    try:
        reply = ask(state, request, daemon)
    except OSError as error:
        reply = FAILED + str(error).encode()
    if reply[:1] != DONE:
        sys.stderr.write(f"{name}: {reply[1:].decode('utf-8', 'replace')}\n")
        return 1
    return write(reply[1:])


def group(bundle: str, task: str) -> str:
    """The id of the sandbox to which a task belongs: its own where config.json names none."""
    try:
        with open(f"{bundle}/config.json", "rb") as config:  # noqa: PTH123 - no pathlib here
            parts = config.read().partition(_GROUP)[2].split(b'"', 2)
    except OSError:
        return task
    found = parts[1].decode("ascii", "replace") if len(parts) > 2 and parts[0].strip() == b":" else ""
    return found if found.replace("-", "").replace("_", "").replace(".", "").isalnum() and found[0] != "." else task


def nothing_left(now: int) -> bytes:
    """containerd.task.v3.DeleteResponse of a task that was freed before: exit status 137 (field 2) at a time (field 3)."""
    seconds = bytearray(b"\x08")
    while now > 127:
        seconds.append(now & 127 | 128)
        now >>= 7
    seconds.append(now)
    return b"\x10\x89\x01" + field(3, bytes(seconds))


def parse(argv: "Sequence[str]") -> dict[str, str]:
    """Parse Go's flags, `-name value`; `-v`, `-info` and `-debug` have no value, and the command gets the empty name."""
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
    """The bytes of a request to the daemon."""
    return b"".join(os.fsencode(text) + b"\0" for text in texts) + stdin


def ask(state: str, request: bytes, daemon: "Sequence[str]") -> bytes:
    """Send a request to the daemon, which is started if it does not run. Raises `OSError`.

    Many launchers may find it missing at once. One starts it, and the others retry until it listens: containerd waits at most
    five seconds for each of them. If the daemon ends during a request, the request is sent to its successor, since every
    request may be repeated: a daemon that is being killed still accepts connections for a moment, in which containerd asks for
    the state of its tasks.
    """
    control, log = f"{state}/{CONTROL}", f"{state}/log"
    end = time.monotonic() + TIMEOUT
    lock = started = 0
    while time.monotonic() < end:
        try:
            return talk(control, request)
        except (ConnectionResetError, BrokenPipeError):
            pass
        except (ConnectionRefusedError, FileNotFoundError):
            if started:
                if os.waitpid(started, os.WNOHANG)[0]:
                    break
            elif lock:
                started = spawn([*daemon, state], log)
            elif lock := locked(state):
                continue  # the previous owner of the lock may have started the daemon meanwhile
        time.sleep(0.01)
    raise OSError(f"the daemon does not start; see {log}")


def talk(control: str, request: bytes) -> bytes:
    """Send one request and return the response. Raises `OSError`; `ConnectionResetError` also for an empty response."""
    connection = Socket(AF_UNIX)
    try:
        connection.connect(control)
        connection.sendall(request)
        connection.shutdown(SHUT_WR)
        if answer := b"".join(iter(lambda: connection.recv(65536), b"")):
            return answer
        raise ConnectionResetError("the daemon has not responded")
    finally:
        connection.close()


def locked(state: str) -> int:
    """Take the lock for starting a daemon, until this process ends; 0 while another process has it."""
    os.makedirs(state, mode=0o711, exist_ok=True)  # noqa: PTH103 - no pathlib here
    lock = os.open(f"{state}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return 0
    return lock


def spawn(command: list[str], log: str) -> int:
    """Start a daemon in a session and with streams of its own. Returns its pid."""
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
    """containerd.types.RuntimeInfo: the name is field 1, the version field 2 with a string in its field 1."""
    text = field(1, version().encode())
    return field(1, name.encode()) + field(2, text)


def field(number: int, value: bytes) -> bytes:
    """A length-delimited protobuf field, below 128 bytes."""
    return bytes((number << 3 | 2, len(value))) + value


def version() -> str:
    """The version of the package."""
    from crishim import __version__

    return __version__


def write(answer: bytes) -> int:
    """Write bytes to stdout; return the exit status."""
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
