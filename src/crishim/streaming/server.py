"""The streaming server: creates URLs for CRI's Exec, Attach and PortForward, and serves the streams behind them.

    streams = StreamServer()
    async with Services(backends=..., urls=streams) as services, streams.serving(services.streams):
        ...

The server is created before the `Services` that uses it for URLs, and gets its target when it starts. Served are `GET` and
`POST` on `/exec/TOKEN`, `/attach/TOKEN` and `/portforward/TOKEN`, as in kubernetes/cri-streaming: 404 for any other path, for a
token that is unknown, used or expired, and for a path of another kind than the request; 405 for other methods; then the
response of `upgrade`. A token is used up by the first request that names it.

By default it listens on the loopback address: any client with a token gets the stream. Connections beyond `connections`, or
beyond half of the files that the process may open, are refused with 503.
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

__all__ = ["StreamConfig", "StreamServer", "Traffic"]

_log = logging.getLogger(__name__)

_KINDS = {ExecRequest: "exec", AttachRequest: "attach", PortForwardRequest: "portforward"}
_BACKLOG = 4096
_READ_BUFFER = 64 * 1024  # the most that one connection reads in one iteration of the loop
_MAX_CHANNEL_PORTS = 127  # two channels each
_MAX_BASE64_PORTS = 39  # a channel is one character, from "0" on


@attrs.frozen(kw_only=True)
class StreamConfig:
    """Address and options of the server. `port` 0 means any free port.

    `base_url` precedes `/exec/...` in the URLs, for servers behind a proxy; its path is expected in requests. It is required if
    `host` is every address. With `tls` the scheme is https. `limits` bounds each connection's memory.
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
    """The traffic of one kind of stream so far: sessions begun, sessions open now, bytes from clients and bytes to them."""

    sessions: int = 0
    open: int = 0
    received: int = 0
    sent: int = 0


class StreamServer:
    """Implements `StreamUrls`; see the docstring of this module."""

    def __init__(self, config: StreamConfig | None = None, *, clock: Clock | None = None) -> None:
        self._config = config or StreamConfig()
        self._clock = clock or SystemClock()
        self._tokens: TokenCache[StreamRequest] = TokenCache(secrets.token_bytes)
        self.port = 0
        """The port on which it listens, while it runs."""
        self._base_url = ""
        self._prefix = ""
        self._target: StreamTarget | None = None
        self._pending: set[HttpConnection] = set()
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
        """The traffic since the server was created, by `exec`, `attach` and `portforward`."""
        now = dict(self._traffic)
        for connection, kind in self._connections.items():
            past = now[kind]
            now[kind] = attrs.evolve(_with(past, connection), open=past.open + 1)
        return now

    def mint(self, request: StreamRequest) -> str:
        """See `StreamUrls`. Raises `Unavailable` while the server does not run."""
        if self._target is None:
            raise Unavailable("the streaming server is not running")
        token = self._tokens.insert(request, self._clock.monotonic())
        return f"{self._base_url}/{_KINDS[type(request)]}/{token}"

    @contextlib.asynccontextmanager
    async def serving(self, target: StreamTarget) -> AsyncIterator[str]:
        """Serve inside the `async with`, which yields the base URL. Raises `OSError` if the address cannot be bound.

        At the end clients get a failure, exec'd processes are killed, and all connections are closed.
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

    def connection_opened(self, connection: HttpConnection) -> UpgradeRefused | None:
        """See `UpgradeHandler`."""
        self._pending.add(connection)
        self._all_closed.clear()
        if len(self._pending) + len(self._connections) > self._capacity:
            return UpgradeRefused(503, f"the server is at its limit of {self._capacity} connections")
        return None

    def connection_closed(self, connection: HttpConnection) -> None:
        """See `UpgradeHandler`."""
        self._pending.discard(connection)
        self._note_if_all_closed()

    def request_received(self, method: str, path: str, headers: HttpHeaders) -> Upgrade | UpgradeRefused:
        """See `UpgradeHandler`."""
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
            return UpgradeRefused(error.http_status, "no such stream; a URL is valid once, for one minute")
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
                return UpgradeRefused(400, f"channels are for 1 to {most} ports, not {len(request.port)}")
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
        if not self._pending and not self._connections:
            self._all_closed.set()

    async def _stop(self) -> None:
        self._note_if_all_closed()
        for pending in self._pending:
            pending.abort()
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
