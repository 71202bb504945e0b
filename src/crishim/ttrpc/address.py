"""Addresses as shims print them: `unix:///path`, an abstract name without a scheme, `vsock://cid:port`."""

import os
import socket
from pathlib import Path

from crishim.errors import InvalidArgument

_UNIX = "unix://"
_VSOCK = "vsock://"
_LONGEST = 107
"""The longest socket path that the kernel accepts, in bytes."""


def open_socket(address: str) -> tuple[socket.socket, str | tuple[int, int]]:
    """A socket of the address's family, not connected, and the address in the form of the socket module. Raises
    `InvalidArgument`.
    """
    if address.startswith(_VSOCK):
        cid, _, port = address.removeprefix(_VSOCK).partition(":")
        if not (cid.isdecimal() and port.isdecimal()):
            raise InvalidArgument("address", f"{address!r} is not vsock://CID:PORT")
        return socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM), (int(cid), int(port))
    name = address.removeprefix(_UNIX) if address.startswith(_UNIX) else "\0" + address
    if "://" in name or len(name) < 2 or len(name.encode()) > _LONGEST:
        raise InvalidArgument("address", f"{address!r} is not a socket address")
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), name


def bound_socket(path: Path) -> socket.socket:
    """A stream socket bound at a path, accessible only to its owner; an existing file is replaced. Raises `OSError`.

    The mode is set before the socket has a path, so that no other user can connect in between; the process's umask is not
    changed.
    """
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(bound.fileno(), 0o600)
        path.unlink(missing_ok=True)
        bound.bind(str(path))
    except BaseException:
        bound.close()
        raise
    return bound
