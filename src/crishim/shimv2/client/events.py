"""News: the ttrpc server that shims forward their events to. Ends are learnt by waiting; only who ran out of memory is news."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError

from crishim._proto import shim_events_pb2 as pb
from crishim.errors import InvalidArgument
from crishim.ttrpc.address import bound_socket
from crishim.ttrpc.connection import Request
from crishim.ttrpc.server import Server

_log = logging.getLogger(__name__)

_FORWARD: Final = ("containerd.services.events.ttrpc.v1.Events", "Forward")
_LONGEST: Final = 107


class News:
    """Serves events on a socket at `path`, mode 0600; `oom` is called with the container's id. For use on one event loop."""

    def __init__(self, path: Path, oom: Callable[[str], None]) -> None:
        self._path = path
        self._oom = oom
        self._server = Server({_FORWARD: self._forward})
        self._opening = asyncio.Lock()
        self._open = False

    @property
    def address(self) -> str:
        """The socket's path; empty where it is too long for one, and then there is no news."""
        return str(self._path) if len(str(self._path).encode()) <= _LONGEST else ""

    async def open(self) -> None:
        """Listen. May be called again."""
        async with self._opening:
            if self._open or not self.address:
                return
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            bound = bound_socket(self._path)
            try:
                await self._server.listen(bound)
            except BaseException:
                bound.close()
                raise
            self._open = True

    async def close(self) -> None:
        """Listen no more."""
        await self._server.close()

    async def _forward(self, request: Request) -> bytes:
        try:
            event = pb.ForwardRequest.FromString(request.payload).envelope.event
            if event.type_url.rpartition("/")[2] == "containerd.events.TaskOOM":
                self._oom(pb.TaskOOM.FromString(event.value).container_id)
        except DecodeError as error:
            raise InvalidArgument("envelope", str(error)) from error
        return b""
