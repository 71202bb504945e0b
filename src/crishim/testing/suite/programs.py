"""Programs that the suite runs one after the other, and servers beside them. All of it blocks: nothing else runs meanwhile."""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from crishim.errors import DeadlineExceeded, Unknown


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a program; its stdout. Raises `Unknown` with the end of its stderr if it fails."""
    done = subprocess.run(command, cwd=cwd, check=False, capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise Unknown(f"{' '.join(map(str, command))}: {done.stderr[-300:]}")
    return done.stdout


def merged_output(*command: str | Path, cwd: Path | None = None) -> str:
    """The output of a program, stdout and stderr together, however it ends."""
    pipe, merged = subprocess.PIPE, subprocess.STDOUT
    return subprocess.run(command, cwd=cwd, check=False, stdout=pipe, stderr=merged, text=True, errors="replace").stdout


@contextlib.contextmanager
def process(*command: str | Path, log: Path, environment: Mapping[str, str] | None = None) -> Iterator[None]:
    """A server for the duration of a context, ended by its pid; `environment` is added to ours."""
    with log.open("wb") as output:
        started = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **(environment or {})})
        try:
            yield
        finally:
            started.terminate()
            try:
                started.wait(30)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()


def wait_for(subject: str, ready: Callable[[], bool], log: Path | None = None) -> None:
    """Wait until `ready()` is true. Raises `DeadlineExceeded` with the end of `log` after half a minute."""
    for _ in range(300):
        if ready():
            return
        time.sleep(0.1)
    end = f":\n{log.read_text(errors='replace')[-1500:]}" if log else ""
    raise DeadlineExceeded(f"{subject} does not answer after 30 s{end}")
