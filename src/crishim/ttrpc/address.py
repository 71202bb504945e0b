"""Addresses as shims print them: `unix:///path`, an abstract name without a scheme, `vsock://cid:port`."""

import os
import socket
from pathlib import Path

from crishim.errors import InvalidArgument

_UNIX = "unix://"
_VSOCK = "vsock://"
_LONGEST = 107
"""Bytes of a socket's path that the kernel takes."""


def open_socket(address: str) -> tuple[socket.socket, str | tuple[int, int]]:
    """A socket of the address's family, not connected, and the address as the kernel takes it. Raises `InvalidArgument`."""
    if address.startswith(_VSOCK):
        cid, _, port = address.removeprefix(_VSOCK).partition(":")
        if not (cid.isdecimal() and port.isdecimal()):
            raise InvalidArgument("address", f"{address!r} is no vsock://CID:PORT")
        return socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM), (int(cid), int(port))
    name = address.removeprefix(_UNIX) if address.startswith(_UNIX) else "\0" + address
    if "://" in name or len(name) < 2 or len(name.encode()) > _LONGEST:
        raise InvalidArgument("address", f"{address!r} is no address of a socket")
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), name


def bound_socket(path: Path) -> socket.socket:
    """A stream socket bound at a path, for its owner only; what lies there is replaced. Raises `OSError`.

    The mode is the socket's before it has a path: nobody can come between, and the process's umask stays as it is.
    """
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(made.fileno(), 0o600)
        path.unlink(missing_ok=True)
        made.bind(str(path))
    except BaseException:
        made.close()
        raise
    return made
