"""A process with a root folder of its own, as one that a container's first process has left behind."""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from crishim.linux.processes import rooted_at


@contextlib.contextmanager
def rooted(root: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A program that sleeps in this root folder, in a session of its own; it is ended with the block."""
    (root / "bin").mkdir(parents=True, exist_ok=True)
    shutil.copy2(str(shutil.which("busybox")), root / "bin" / "sleep")
    process = subprocess.Popen(["chroot", root, "/bin/sleep", "600"], start_new_session=True)
    try:
        until = time.monotonic() + 10
        while not rooted_at(root):
            assert time.monotonic() < until
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.wait()
