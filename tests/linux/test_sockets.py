"""Unix sockets of servers: which are served, and who may connect."""

import os
import socket
import stat
from pathlib import Path

import pytest

from crishim.linux.sockets import is_served, private_files


def test_only_a_socket_with_a_listener_is_served(tmp_path: Path) -> None:
    """The socket of a server that has ended stays as a file, and is not served."""
    path = tmp_path / "server.sock"
    before = is_served(path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        during = is_served(path)
    assert (before, during, is_served(path)) == (False, True, False)
    assert path.is_socket()


def test_private_files_are_their_owners_alone(tmp_path: Path) -> None:
    """A socket bound within the block has mode 0600."""
    path = tmp_path / "server.sock"
    with private_files(), socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_mask_is_restored_after_an_error() -> None:
    """An error within the block does not leave the process with the strict mask."""
    mask = os.umask(0o022)
    try:
        with pytest.raises(ValueError, match="refused"), private_files():
            raise ValueError("refused")
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(mask)
