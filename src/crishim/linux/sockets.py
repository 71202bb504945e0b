"""Unix sockets of servers."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path


def is_served(path: Path) -> bool:
    """Whether a process accepts connections at the stream socket `path`."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


@contextlib.contextmanager
def private_files() -> Iterator[None]:
    """Create files and sockets for their owner alone, within the block. The mask is the whole process's."""
    mask = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(mask)
