"""SetnsDialer: port-forward's way into a pod."""

import functools
import socket

from crishim.interfaces.capabilities import ByteStream
from crishim.interfaces.network import NetnsDialer
from crishim.linux.namespaces import inside
from crishim.linux.tcp import dial_loopback, stream_socket


class SetnsDialer(NetnsDialer):
    """Connects to a loopback inside a network namespace. A socket stays in the namespace in which it was made."""

    async def dial(self, netns: str, port: int) -> ByteStream:
        """As `NetnsDialer.dial`; a namespace that is gone is `Unavailable` too."""

        def make(family: int) -> socket.socket:
            return inside(netns, functools.partial(stream_socket, family))

        return await dial_loopback(port, make if netns else stream_socket)
