"""Addresses of sockets, and sockets at paths."""

import os
from pathlib import Path

from crishim.ttrpc.address import bound_socket


def test_a_bound_socket_is_its_owner_s(tmp_path: Path) -> None:
    """The socket has mode 0600 whatever the process's umask, which stays, and replaces what lay at its path."""
    path = tmp_path / "s"
    path.write_text("stale")
    before = os.umask(0)
    try:
        bound_socket(path).close()
    finally:
        umask = os.umask(before)
    assert (True, 0o600, 0) == (path.is_socket(), path.stat().st_mode & 0o777, umask)
