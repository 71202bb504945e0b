"""The messages between the keeper and its clients, and its address. Standard library only, since both sides have it.

A connection to the keeper's UNIX socket carries frames in both directions: the length of the payload (four bytes, big-endian),
a kind (one byte), the payload. A connection serves one request. The client sends a `MESSAGE`, a JSON object with the key
`verb`; file descriptors of a request come with its first byte (SCM_RIGHTS). The reply is one `MESSAGE`: an object, with the
keys `error` (the name of a class of `crishim.errors`, or `OSError`), `message` and `errno` where the request was refused.

The reply to `attach` is followed by frames of output (`STDOUT`, `STDERR`), and the keeper closes the connection at the
container's end; `STDIN` frames go the other way, and the client shuts its side down at the end of its input.
"""

import binascii
import json
import os
import socket

MESSAGE, STDIN, STDOUT, STDERR = range(4)

TABLE = 1
"""The version of the table that a keeper leaves to its successor."""

LIMIT = 16 << 20
"""The most bytes of one frame; a request with the environment of a container is the largest."""

SOCKET = "socket"
"""The name of the socket in the keeper's folder."""

_HEAD = 5


def frame(kind: int, payload: bytes) -> bytes:
    """One frame."""
    return len(payload).to_bytes(4, "big") + bytes([kind]) + payload


def message(content: dict[str, object]) -> bytes:
    """A `MESSAGE` frame."""
    return frame(MESSAGE, json.dumps(content).encode())


def take(buffer: bytearray) -> tuple[int, bytes] | None:
    """Remove the first frame from a buffer; None while it is not complete. Raises `ValueError` for one that is too long."""
    size = int.from_bytes(buffer[:4], "big")
    if size > LIMIT:
        raise ValueError("a frame that is too long")
    if len(buffer) < _HEAD + size:
        return None
    kind, payload = buffer[4], bytes(buffer[_HEAD : _HEAD + size])
    del buffer[: _HEAD + size]
    return kind, payload


def connect(connection: socket.socket, folder: str) -> None:
    """Connect to the keeper of a folder. Raises `OSError`."""
    _by_descriptor(folder, connection.connect)


def bind(listener: socket.socket, folder: str) -> None:
    """Bind to the address in a folder, in place of a socket that an earlier process has left. Raises `OSError`."""
    try:
        os.unlink(os.path.join(folder, SOCKET))
    except FileNotFoundError:
        pass
    _by_descriptor(folder, listener.bind)


def _by_descriptor(folder: str, use: "Use") -> None:
    """Name the socket by a descriptor of its folder, since a socket's path has 107 bytes at most."""
    fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        use(f"/proc/self/fd/{fd}/{SOCKET}")
    finally:
        os.close(fd)


def _checksum() -> int:
    total = 0
    for name in ("wire", "loop", "streams", "container", "connection", "daemon", "../logs/pieces", "../logs/appending"):
        with open(os.path.join(os.path.dirname(__file__), f"{name}.py"), "rb") as file:
            total = binascii.crc32(file.read(), total)
    return total


CODE = _checksum()
"""A checksum of the keeper's code as it was when this process began: an upgrade may replace the files later."""

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Callable

    Use = Callable[[str], None]
