"""A whole daemon on a real engine, killed in the middle of its work."""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.docker.world import Dockerd, needs

pytestmark = [pytest.mark.node, needs("dockerd", "busybox", "catatonit", "crictl")]

PODS = 3
OPTIONS = {"namespace_options": {"network": 2, "pid": 1}}
COUNTS = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done"


class Daemon:
    """`crishim serve` in a folder; `kill` ends it as a crash would."""

    def __init__(self, place: Path, engine: str) -> None:
        self.place = place
        self._socket = place / "cri.sock"
        self._process: subprocess.Popen[bytes] | None = None
        (place / "c.toml").write_text(
            f'listen = "{self._socket}"\nstate = "{place}/state"\nruntime_state = "{place}/run"\n'
            f'[handlers]\n"" = "docker"\n[backends.docker]\nsocket = "{engine}"\n'
        )
        for number in range(PODS):
            metadata = {"name": f"p{number}", "namespace": "crash", "uid": str(number)}
            pod = {"metadata": metadata, "log_directory": str(place / "logs"), "linux": {"security_context": OPTIONS}}
            self.pod(number).write_text(json.dumps(pod))
            container = {
                "metadata": {"name": "main"},
                "image": {"image": "exam"},
                "command": ["sh", "-c", COUNTS],
                "log_path": f"{number}.log",
                "linux": {"security_context": OPTIONS},
            }
            self.container(number).write_text(json.dumps(container))

    def pod(self, number: int) -> Path:
        return self.place / f"pod-{number}.json"

    def container(self, number: int) -> Path:
        return self.place / f"container-{number}.json"

    def command(self, *arguments: str) -> list[str]:
        return ["crictl", "--runtime-endpoint", f"unix://{self._socket}", "--timeout", "30s", *arguments]

    def crictl(self, *arguments: str) -> str:
        """What crictl prints; it must succeed."""
        done = subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False)
        assert 0 == done.returncode, done.stderr
        return done.stdout

    def start(self) -> None:
        """Return when it answers."""
        self._socket.unlink(missing_ok=True)
        with (self.place / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "crishim", "serve", "--config", str(self.place / "c.toml")], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 30
        while subprocess.run(self.command("version"), capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline, (self.place / "log").read_text()
            time.sleep(0.05)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def daemon(engine: Dockerd) -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="dk") as folder:
        started = Daemon(Path(folder), engine.socket)
        started.start()
        try:
            yield started
        finally:
            with contextlib.suppress(AssertionError):
                started.crictl("rmp", "--force", "--all")
            started.kill()


def numbers(log: Path) -> list[int]:
    return [int(line.rpartition(" ")[2]) for line in log.read_text().splitlines()]


def test_killed_while_it_makes_pods(daemon: Daemon) -> None:
    """Whenever the daemon is killed, the next server can remove every pod and create it again."""
    for moment in (0.2, 0.5):
        makes = [
            subprocess.Popen(
                daemon.command("run", "--no-pull", str(daemon.container(number)), str(daemon.pod(number))),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for number in range(PODS)
        ]
        time.sleep(moment)  # any moment will do
        daemon.kill()
        for make in makes:
            make.wait()
        daemon.start()
        daemon.crictl("rmp", "--force", "--all")
        assert "" == daemon.crictl("pods", "--quiet") + daemon.crictl("ps", "--all", "--quiet")


def test_killed_while_pods_run(daemon: Daemon) -> None:
    """Pods outlive the daemon, and their logs have every line once across its lives."""
    for number in range(PODS):
        daemon.crictl("run", "--no-pull", str(daemon.container(number)), str(daemon.pod(number)))
    for _ in range(2):
        daemon.kill()
        daemon.start()
    assert PODS == len(daemon.crictl("ps", "--state", "running", "--quiet").split())
    logs = [daemon.place / "logs" / f"{number}.log" for number in range(PODS)]
    before = [len(numbers(log)) for log in logs]
    deadline = time.monotonic() + 30
    while any(len(numbers(log)) <= count for log, count in zip(logs, before, strict=True)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for log in logs:
        seen = numbers(log)
        assert list(range(1, len(seen) + 1)) == seen
