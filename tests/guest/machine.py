"""The guest as a process of this machine: `python -m tests.guest.machine start [selinux]|run SCRIPT|stop`.

The host and the guest share one folder, `share` beside the disk and /share inside: scripts and their output pass through it
(`agent.py`), as does whatever is to be tested. `python -m tests.guest.machine run 'crishim check'` runs one command.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.guest.build import FOLDER

MEMORY: Final = "4G"
BOOT: Final = 180.0
"""Seconds in which a boot must have brought the agent up; it takes about ten."""

LATE: Final = 124
"""The exit code of a script that was not done in time, as of `timeout`."""

_PAUSE: Final = 0.1


class Machine:
    """One guest in its folder. Who finds one running that a killed runner has left stops it first."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.folder = folder
        self.share = folder / "share"

    def fresh(self) -> None:
        """Have the disk as it was made. Whoever runs on it is stopped before."""
        self.stop()
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", self.folder / "disk.made", self.folder / "disk"], check=True)

    def start(self, security: str = "apparmor") -> None:
        """Boot with a security module, and return when it takes scripts. Raises SystemExit with the console's last lines."""
        self.stop()
        for name in ("in", "out"):
            shutil.rmtree(self.share / name, ignore_errors=True)
            (self.share / name).mkdir(parents=True)
        with (self.folder / "console").open("wb") as console:
            process = subprocess.Popen(
                self._command(security), stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True
            )
        (self.folder / "pid").write_text(str(process.pid), encoding="ascii")
        limit = time.monotonic() + BOOT
        while not (self.share / "out/up").exists():
            if process.poll() is not None or time.monotonic() > limit:
                self.kill()
                console_text = (self.folder / "console").read_text(encoding="utf-8", errors="replace")
                raise SystemExit(f"the guest did not boot:\n{console_text[-1500:]}")
            time.sleep(_PAUSE)

    def run(self, script: str, *, timeout: float = 600.0, output: bool = True) -> int:
        """Run a script as root; its exit code, `LATE` where it was not done in time. Its output is printed as it comes."""
        name, code = self._send(script)
        limit = time.monotonic() + timeout
        with (self.share / "out" / name).open("rb") as written:
            while True:
                ended, late = code.exists(), time.monotonic() > limit
                if output and (data := written.read()):
                    sys.stdout.write(data.decode("utf-8", "replace"))
                    sys.stdout.flush()
                if ended:
                    return int(code.read_text(encoding="ascii"))
                if late or self.pid() is None:
                    return LATE
                time.sleep(_PAUSE)

    def stop(self) -> None:
        """Have systemd power it off; killed where that takes longer than half a minute."""
        if self.pid() is None:
            return
        with contextlib.suppress(OSError):
            (self.share / "in/power-off").write_text("systemctl poweroff --no-block\n", encoding="ascii")
        limit = time.monotonic() + 30
        while self.pid() is not None and time.monotonic() < limit:
            time.sleep(_PAUSE)
        self.kill()

    def kill(self) -> None:
        """End it as a power cut would."""
        if (pid := self.pid()) is not None:
            os.killpg(pid, signal.SIGKILL)
            while self.pid() is not None:
                time.sleep(_PAUSE)

    def pid(self) -> int | None:
        """The process that leads it; None where it does not run."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.folder / "pid").read_text(encoding="ascii"))
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)  # where it was our child, and has ended
            if str(self.folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        return None

    def _send(self, script: str) -> tuple[str, Path]:
        """Give the guest a script; its name, once it has begun, and the file that will have its exit code."""
        name = uuid.uuid4().hex
        hidden = self.share / "in" / f".{name}"
        hidden.write_text(script, encoding="utf-8")
        hidden.rename(self.share / "in" / name)
        limit = time.monotonic() + 60
        while not (self.share / "out" / name).exists():
            if time.monotonic() > limit or self.pid() is None:
                raise SystemExit("the guest takes no scripts any more")
            time.sleep(_PAUSE)
        return name, self.share / "out" / f"{name}.code"

    def _command(self, security: str) -> list[str]:
        """The kernel in a mount namespace of its own, where its memory is a file on a tmpfs that nobody else fills."""
        arguments = (
            *(f"mem={MEMORY}", "ncpus=1", f"ubd0={self.folder}/disk", "root=/dev/ubda", "rw", "panic=1", f"share={self.share}"),
            *(f"lsm=landlock,yama,{security}", "seccomp=on", "uml_dir=/dev/shm/uml", "con=null", "con0=null,fd:1"),
            "log_buf_len=256K",  # as nodes have it: out-of-memory kills are looked up there, and 16K has room for three
        )
        script = 'mount -t tmpfs -o "size=$1" tmpfs /dev/shm && shift && TMPDIR=/dev/shm exec "$@"'
        isolated = ("unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc")
        return [*isolated, "sh", "-c", script, "guest", "5G", str(self.folder / "linux"), *arguments]


@contextlib.contextmanager
def alone(folder: Path = FOLDER) -> Iterator[None]:
    """Nobody else uses the guest meanwhile. Raises SystemExit where somebody does."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"the guest in {folder} is in use by another run") from None
        yield


def main() -> int:
    """One command of a developer's."""
    machine = Machine()
    match sys.argv[1:]:
        case ["start", *security]:
            machine.fresh()
            machine.start(*security)
        case ["run", *words] if words:
            return machine.run(" ".join(words))
        case ["stop"]:
            machine.stop()
        case _:
            print(__doc__)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
