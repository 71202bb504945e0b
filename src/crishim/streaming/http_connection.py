"""The HTTP/1.1 request at the beginning of every connection, and its response: a refusal, or 101 and a change of protocol.

There is one request per connection, with a head of at most 16 KiB within a timeout, and no body. Invalid HTTP is answered by
h11's status (400, 431, 501); a late head by 408. A refused client gets the response and some time to read it.
"""

import asyncio
import http
from collections.abc import Callable
from typing import Protocol

import attrs
import h11

from crishim.streaming.connection import Timeouts
from crishim.streaming.upgrade import HttpHeaders, UpgradeRefused

_HEAD_LIMIT = 16 * 1024

TakeOver = Callable[[asyncio.Transport, bytes], None]
"""Called with the transport after 101 was written, and with the bytes that followed the request."""


@attrs.frozen
class Upgrade:
    """Respond with 101 and these headers; then the transport is passed to `take_over`."""

    headers: tuple[tuple[bytes, bytes], ...]
    take_over: TakeOver


class UpgradeHandler(Protocol):
    """Decides on connections and requests. Called from the event loop, each method at most once, in this order."""

    def connection_opened(self, connection: "HttpConnection") -> UpgradeRefused | None:
        """A connection has arrived; a refusal is sent at once."""

    def request_received(self, method: str, path: str, headers: HttpHeaders) -> Upgrade | UpgradeRefused:
        """The response to this request. `path` comes without its query."""

    def connection_closed(self, connection: "HttpConnection") -> None:
        """The connection was closed or taken over."""


class HttpConnection(asyncio.Protocol):
    """One connection until it is upgraded."""

    def __init__(self, handler: UpgradeHandler, timeouts: Timeouts) -> None:
        self._handler = handler
        self._timeouts = timeouts
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None
        self._http: h11.Connection | None = None  # created with the first bytes, so that a silent connection costs little
        self._answered = False
        self._has_text = True  # a response to HEAD has none

    def abort(self) -> None:
        """Close the socket now."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        refusal = self._handler.connection_opened(self)
        if refusal is not None:
            self._refuse(refusal)
            transport.close()
        else:
            self._wait(self._timeouts.head, self._too_late)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._answered:
            return
        if self._http is None:
            self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_LIMIT)
        try:
            self._http.receive_data(data)
            request = self._http.next_event()
            if isinstance(request, h11.Request):
                self._answer(request, has_body=not isinstance(self._http.next_event(), h11.EndOfMessage))
        except h11.RemoteProtocolError as error:
            self._refuse(UpgradeRefused(error.error_status_hint, str(error)))

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        del exc
        if self._timer is not None:
            self._timer.cancel()
        self._handler.connection_closed(self)

    def _answer(self, request: h11.Request, *, has_body: bool) -> None:
        self._has_text = request.method != b"HEAD"
        path = request.target.partition(b"?")[0].decode("latin-1")
        answer = self._handler.request_received(request.method.decode("latin-1"), path, request.headers)
        if isinstance(answer, Upgrade) and has_body:
            answer = UpgradeRefused(400, "a request for a stream has no body")
        if isinstance(answer, UpgradeRefused):
            self._refuse(answer)
            return
        assert self._http is not None
        assert self._timer is not None
        self._timer.cancel()
        switching = h11.InformationalResponse(status_code=101, headers=list(answer.headers), reason=b"Switching Protocols")
        self._transport.write(self._http.send(switching) or b"")
        received, _ = self._http.trailing_data
        answer.take_over(self._transport, received)
        self._handler.connection_closed(self)

    def _too_late(self) -> None:
        self._refuse(UpgradeRefused(408, f"no request within {self._timeouts.head:g} s"))

    def _refuse(self, refusal: UpgradeRefused) -> None:
        """Respond, end our direction, and give the client time to read and close."""
        self._answered = True
        answering = self._http or h11.Connection(h11.SERVER)
        text = f"{refusal.text}\n".encode(errors="replace")
        headers = [
            *refusal.headers,
            (b"Content-Type", b"text/plain; charset=utf-8"),
            (b"Content-Length", str(len(text)).encode()),
            (b"Connection", b"close"),
        ]
        reason = http.HTTPStatus(refusal.status).phrase.encode()
        head = h11.Response(status_code=refusal.status, headers=headers, reason=reason)
        events = (head, h11.Data(text if self._has_text else b""), h11.EndOfMessage())
        self._transport.write(b"".join(answering.send(event) or b"" for event in events))
        if self._transport.can_write_eof():
            self._transport.write_eof()
            self._wait(self._timeouts.linger, self._transport.abort)
        else:
            self._transport.close()

    def _wait(self, seconds: float, act: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, act)
