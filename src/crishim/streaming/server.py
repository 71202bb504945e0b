"""The streaming server: mints URLs for the CRI door, and serves what they stand for.

    streams = StreamServer()
    async with Services(backends=..., urls=streams) as services, streams.serving(services.streams):
        ...

It is made before the `Services` that mints by it, and bound to what it serves when it starts. `GET` and `POST` on
`/exec/TOKEN`, `/attach/TOKEN` and `/portforward/TOKEN`, as kubernetes/cri-streaming has them: 404 for any other path, for a
token that is unknown, used or too old, and for a path that is not the request's kind; 405 for other methods; then `upgrade`'s
answers. A token is used up by the first request that names it.

It listens on the loopback by default: whoever reaches it with a token has the stream. More connections than `connections`, or
than half of the files that the process may open, are refused by 503.
"""

import asyncio
import contextlib
import logging
import resource
import secrets
import ssl
from collections.abc import AsyncIterator, Mapping
from urllib.parse import urlsplit

import attrs

from crishim.errors import CrishimError, InvalidArgument, Unavailable
from crishim.interfaces.seats import Clock
from crishim.model.process import AttachRequest, ExecRequest, PortForwardRequest, StreamRequest
from crishim.streaming.channels import SPDY_PROTOCOLS, WEBSOCKET_PROTOCOLS, expected_streams
from crishim.streaming.connection import StreamConnection, Timeouts
from crishim.streaming.events import StreamCodec
from crishim.streaming.flow import Limits
from crishim.streaming.forwarding import PortForward
from crishim.streaming.http_connection import HttpConnection, Upgrade
from crishim.streaming.portforward import TUNNEL_PROTOCOL, admit_forward
from crishim.streaming.sessions import RemoteCommand, StreamTarget
from crishim.streaming.spdy import SpdySession
from crishim.streaming.tokens import TokenCache
from crishim.streaming.upgrade import PORT_FORWARD, REMOTE_COMMAND, Accepted, HttpHeaders, Transport, UpgradeRefused, choose
from crishim.streaming.websocket import TunnelSession, port_forward_session, remote_command_session
from crishim.system import SystemClock

_log = logging.getLogger(__name__)

_KINDS = {ExecRequest: "exec", AttachRequest: "attach", PortForwardRequest: "portforward"}
_BACKLOG = 4096
_READ_BUFFER = 64 * 1024  # what one connection may have read in one turn of the loop
_MAX_CHANNEL_PORTS = 127  # two channels each
_MAX_BASE64_PORTS = 39  # a channel is one character of text from "0" on


@attrs.frozen(kw_only=True)
class StreamConfig:
    """Where and how to serve. `port` 0 is any free one.

    `base_url` stands before `/exec/...` in the URLs, for servers behind something else; its path is expected in requests. It
    is needed where `host` is every address. `tls` makes it https. `limits` bounds each connection's memory.
    """

    host: str = "127.0.0.1"
    port: int = 0
    base_url: str = ""
    tls: ssl.SSLContext | None = None
    connections: int = 16 * 1024
    timeouts: Timeouts = Timeouts()
    limits: Limits = Limits()

    def __attrs_post_init__(self) -> None:
        if self.host in {"", "0.0.0.0", "::"} and not self.base_url:  # noqa: S104 - recognised, not bound
            raise InvalidArgument("base_url", "must be given where the server listens on every address")


@attrs.frozen(kw_only=True)
class Traffic:
    """What one kind of stream has moved so far: sessions begun, those still open, bytes from clients and to them."""

    sessions: int = 0
    open: int = 0
    received: int = 0
    sent: int = 0


class StreamServer:
    """See the head of this module. It is a `StreamUrls`."""

    def __init__(self, config: StreamConfig | None = None, *, clock: Clock | None = None) -> None:
        self._config = config or StreamConfig()
        self._clock = clock or SystemClock()
        self._tokens: TokenCache[StreamRequest] = TokenCache(secrets.token_bytes)
        self.port = 0
        """Where it listens, while it does."""
        self._base_url = ""
        self._prefix = ""
        self._target: StreamTarget | None = None
        self._doors: set[HttpConnection] = set()
        self._connections: dict[StreamConnection, str] = {}
        self._traffic = dict.fromkeys(_KINDS.values(), Traffic())
        self._sessions: set[asyncio.Task[None]] = set()
        self._capacity = self._config.connections
        self._buffer = bytearray(_READ_BUFFER)
        self._all_closed = asyncio.Event()

    @property
    def connections(self) -> frozenset[StreamConnection]:
        """The upgraded connections."""
        return frozenset(self._connections)

    def traffic(self) -> Mapping[str, Traffic]:
        """What was moved since the server was made, by `exec`, `attach` and `portforward`."""
        now = dict(self._traffic)
        for connection, kind in self._connections.items():
            past = now[kind]
            now[kind] = attrs.evolve(_with(past, connection), open=past.open + 1)
        return now

    def mint(self, request: StreamRequest) -> str:
        """See `StreamUrls`. Raises `Unavailable` while nothing is served."""
        if self._target is None:
            raise Unavailable("the streaming server is not running")
        token = self._tokens.insert(request, self._clock.monotonic())
        return f"{self._base_url}/{_KINDS[type(request)]}/{token}"

    @contextlib.asynccontextmanager
    async def serving(self, target: StreamTarget) -> AsyncIterator[str]:
        """Serve inside the `async with`, which gives the base URL. Raises `OSError` when the address cannot be had.

        At the end clients are told that they failed, exec'd processes are killed, and nothing is left open.
        """
        config = self._config
        self._capacity = min(config.connections, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        listener = await asyncio.get_running_loop().create_server(
            lambda: HttpConnection(self, config.timeouts),
            config.host,
            config.port,
            backlog=_BACKLOG,
            ssl=config.tls,
            ssl_handshake_timeout=config.timeouts.head if config.tls else None,
            ssl_shutdown_timeout=config.timeouts.linger if config.tls else None,
        )
        self.port = listener.sockets[0].getsockname()[1]
        self._base_url = (config.base_url or _own_url(config, self.port)).rstrip("/")
        self._prefix = urlsplit(self._base_url).path
        self._target = target
        _log.info("serving streams at %s", self._base_url)
        try:
            yield self._base_url
        finally:
            self._target = None
            listener.close()
            await self._stop()

    def arrived(self, door: HttpConnection) -> UpgradeRefused | None:
        """See `door.UpgradeHandler`."""
        self._doors.add(door)
        self._all_closed.clear()
        if len(self._doors) + len(self._connections) > self._capacity:
            return UpgradeRefused(503, f"this server has {self._capacity} connections, and no more")
        return None

    def left(self, door: HttpConnection) -> None:
        """See `door.UpgradeHandler`."""
        self._doors.discard(door)
        self._note_if_all_closed()

    def asked(self, method: str, path: str, headers: HttpHeaders) -> Upgrade | UpgradeRefused:
        """See `door.UpgradeHandler`."""
        kind, slash, token = path.removeprefix(f"{self._prefix}/").partition("/")
        if not path.startswith(f"{self._prefix}/") or kind not in _KINDS.values() or not slash or not token or "/" in token:
            return UpgradeRefused(404, "no such path")
        if method not in {"GET", "POST"}:
            return UpgradeRefused(405, "a stream begins with GET or POST", ((b"Allow", b"GET, POST"),))
        if self._target is None:
            return UpgradeRefused(503, "the streaming server is being stopped")
        try:
            request = self._tokens.consume(token, self._clock.monotonic())
        except CrishimError as error:
            return UpgradeRefused(error.http_status, "no such stream; a URL is good once, and for a minute")
        if _KINDS[type(request)] != kind:
            return UpgradeRefused(404, f"this stream is not for {kind}")
        accepted = choose(headers, PORT_FORWARD if isinstance(request, PortForwardRequest) else REMOTE_COMMAND)
        if isinstance(accepted, UpgradeRefused):
            return accepted
        if isinstance(request, PortForwardRequest):
            return self._admit_port_forward(request, accepted, self._target)
        return self._admit_remote_command(request, accepted, self._target)

    def _admit_remote_command(
        self, request: ExecRequest | AttachRequest, accepted: Accepted, target: StreamTarget
    ) -> Upgrade | UpgradeRefused:
        is_websocket = accepted.transport is Transport.WEBSOCKET
        protocol = (WEBSOCKET_PROTOCOLS if is_websocket else SPDY_PROTOCOLS)[accepted.protocol]
        expected = expected_streams(
            stdin=request.stdin,
            stdout=request.stdout,
            stderr=request.stderr,
            tty=request.tty,
            resize=is_websocket or protocol.has_resize,
        )
        limits = self._config.limits
        codec: StreamCodec = (
            remote_command_session(protocol, expected, limits=limits) if is_websocket else SpdySession(limits=limits)
        )
        session = RemoteCommand(request, protocol, expected, target, self._config.timeouts)
        return self._admit(accepted, codec, session, _KINDS[type(request)])

    def _admit_port_forward(
        self, request: PortForwardRequest, accepted: Accepted, target: StreamTarget
    ) -> Upgrade | UpgradeRefused:
        channels = accepted.transport is Transport.WEBSOCKET and accepted.protocol != TUNNEL_PROTOCOL
        limits = self._config.limits
        codec: StreamCodec
        if not channels:
            transport = TunnelSession if accepted.transport is Transport.WEBSOCKET else SpdySession
            codec = transport(limits=limits, admit=admit_forward)
        else:
            protocol = WEBSOCKET_PROTOCOLS[accepted.protocol]
            most = _MAX_BASE64_PORTS if protocol.base64 else _MAX_CHANNEL_PORTS
            if not 0 < len(request.port) <= most:
                return UpgradeRefused(400, f"channels are for 1 to {most} ports, and {len(request.port)} were asked for")
            codec = port_forward_session(protocol, request.port, limits=limits)
        session = PortForward(request, target, self._config.timeouts, channels=channels)
        return self._admit(accepted, codec, session, _KINDS[type(request)])

    def _admit(self, accepted: Accepted, codec: StreamCodec, session: RemoteCommand | PortForward, kind: str) -> Upgrade:
        def take_over(transport: asyncio.Transport, received: bytes) -> None:
            connection = StreamConnection(codec, session, self._config.timeouts, self._buffer)
            self._connections[connection] = kind
            self._traffic[kind] = attrs.evolve(self._traffic[kind], sessions=self._traffic[kind].sessions + 1)
            connection.closed.add_done_callback(lambda _: self._closed(connection))
            connection.begin(transport, received)
            task = asyncio.get_running_loop().create_task(session.run(connection), name="stream session")
            self._sessions.add(task)
            task.add_done_callback(self._session_ended)

        return Upgrade(accepted.headers, take_over)

    def _session_ended(self, task: asyncio.Task[None]) -> None:
        self._sessions.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a stream session broke down", exc_info=error)

    def _closed(self, connection: StreamConnection) -> None:
        kind = self._connections.pop(connection)
        self._traffic[kind] = _with(self._traffic[kind], connection)
        self._note_if_all_closed()

    def _note_if_all_closed(self) -> None:
        if not self._doors and not self._connections:
            self._all_closed.set()

    async def _stop(self) -> None:
        self._note_if_all_closed()
        for door in self._doors:
            door.abort()
        sessions = tuple(self._sessions)
        for session in sessions:
            session.cancel()
        if sessions:
            await asyncio.wait(sessions, timeout=self._config.timeouts.linger)
        for connection in self._connections:
            connection.abort()
        await asyncio.gather(*sessions, return_exceptions=True)
        await self._all_closed.wait()


def _with(past: Traffic, connection: StreamConnection) -> Traffic:
    return attrs.evolve(past, received=past.received + connection.received, sent=past.sent + connection.sent)


def _own_url(config: StreamConfig, port: int) -> str:
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"{'https' if config.tls else 'http'}://{host}:{port}"
