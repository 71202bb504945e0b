"""The remote-command protocol of Kubernetes, `channel.k8s.io` v1 to v5, independent of its transport.

There are at most five streams: `stdin` from the client, `stdout` and `stderr` to it, `error` to it for the result of the
command, `resize` from it for the size of its terminal. SPDY names them by the header `streamtype`, WebSocket by the number of
a channel.

    | version | new in it |
    |---|---|
    | v1, v2 | the error stream has plain text, and only after a failure. (v1's server closes its half of stdin at once) |
    | v3 | resize |
    | v4 | the error stream has a JSON `metav1.Status`, also for success, and so an exit code |
    | v5 | WebSocket only: the message `FF <channel>` is the client's end of that channel, and so stdin has an end |

With `base64.` in the name, WebSocket messages are text: the channel is a digit, the rest base64.

Sources: kubernetes/cri-streaming `pkg/streaming/remotecommand`, client-go `tools/remotecommand`, apimachinery `remotecommand`.
"""

import enum
import json
from collections.abc import Iterable, Mapping

import attrs

from crishim.model.process import TerminalSize
from crishim.streaming.events import ProtocolError

__all__ = [
    "CHANNELS",
    "CLOSE_SIGNAL",
    "SPDY_PROTOCOLS",
    "STREAM_TYPE",
    "UNNAMED",
    "V1",
    "V1_BASE64",
    "V2",
    "V3",
    "V4",
    "V4_BASE64",
    "V5",
    "WEBSOCKET_PROTOCOLS",
    "ChannelProtocol",
    "ResizeDecoder",
    "StreamType",
    "encode_exit",
    "encode_failure",
    "expected_streams",
    "negotiate",
]

STREAM_TYPE = "streamtype"
"""The header that names a stream's type."""

CLOSE_SIGNAL = 255
"""v5: the channel of the two-byte message whose second byte is the channel that the client ends."""


class StreamType(enum.StrEnum):
    """The streams, in the order in which clients open them."""

    ERROR = "error"
    STDIN = "stdin"
    STDOUT = "stdout"
    STDERR = "stderr"
    RESIZE = "resize"


CHANNELS: Mapping[StreamType, int] = {
    StreamType.STDIN: 0,
    StreamType.STDOUT: 1,
    StreamType.STDERR: 2,
    StreamType.ERROR: 3,
    StreamType.RESIZE: 4,
}
"""The WebSocket channel of each stream."""


@attrs.frozen
class ChannelProtocol:
    """A version of the protocol. `name` is empty for a WebSocket client that names none, which uses v1."""

    name: str
    version: int
    base64: bool = False

    @property
    def has_resize(self) -> bool:
        """Whether a SPDY client with a terminal opens a resize stream. Over WebSocket the channel exists in every version."""
        return self.version >= 3

    @property
    def has_json_status(self) -> bool:
        """Whether the error stream has a JSON status, which is then always sent."""
        return self.version >= 4

    @property
    def has_close_signal(self) -> bool:
        """Whether `FF <channel>` ends a channel."""
        return self.version >= 5


V1 = ChannelProtocol("channel.k8s.io", 1)
"""A failure as plain text, and no resize stream; the server closes its half of stdin at once."""
V2 = ChannelProtocol("v2.channel.k8s.io", 2)
"""A failure as plain text, and no resize stream."""
V3 = ChannelProtocol("v3.channel.k8s.io", 3)
"""With a resize stream."""
V4 = ChannelProtocol("v4.channel.k8s.io", 4)
"""With a JSON status at the end."""
V5 = ChannelProtocol("v5.channel.k8s.io", 5)
"""With signals that end one channel."""
V1_BASE64 = ChannelProtocol("base64.channel.k8s.io", 1, base64=True)
"""v1 of WebSocket, with payloads in base64."""
V4_BASE64 = ChannelProtocol("v4.base64.channel.k8s.io", 4, base64=True)
"""v4 of WebSocket, with payloads in base64."""
UNNAMED = ChannelProtocol("", 1)
"""v1 of WebSocket, for clients that name no protocol."""

SPDY_PROTOCOLS: Mapping[str, ChannelProtocol] = {protocol.name: protocol for protocol in (V4, V3, V2, V1)}
"""The versions over SPDY. Clients also offer v5 there and get v4, as from other servers: v5 adds nothing to SPDY."""

WEBSOCKET_PROTOCOLS: Mapping[str, ChannelProtocol] = {
    protocol.name: protocol for protocol in (V5, V4, V4_BASE64, V1, V1_BASE64, UNNAMED)
}
"""The versions over WebSocket."""


def negotiate(offered: Iterable[str], served: Iterable[str]) -> str | None:
    """The first of the client's names, in its order of preference, that is served, or None."""
    known = frozenset(served)
    return next((name for name in offered if name in known), None)


def expected_streams(*, stdin: bool, stdout: bool, stderr: bool, tty: bool, resize: bool) -> frozenset[StreamType]:
    """The streams that a client opens for a CRI request with these fields. `resize`: whether the protocol has it; with a
    terminal there is no stderr.
    """
    requested = {
        StreamType.ERROR: True,
        StreamType.STDIN: stdin,
        StreamType.STDOUT: stdout,
        StreamType.STDERR: stderr and not tty,
        StreamType.RESIZE: tty and resize,
    }
    return frozenset(stream for stream, is_wanted in requested.items() if is_wanted)


def encode_exit(protocol: ChannelProtocol, exit_code: int) -> bytes:
    """The whole content of the error stream for a command that ran to its end.

    The exit code is decimal, 0 to 255 (clients refuse more); any other is sent as 255. Empty for success before v4: then
    nothing is written, and the end of the stream means success.
    """
    code = exit_code if 0 <= exit_code <= 255 else 255
    message = f"command terminated with non-zero exit code: {code}"
    if not protocol.has_json_status:
        return message.encode() if code else b""
    if not code:
        return b'{"status":"Success"}'
    return _encode_status(
        status="Failure",
        message=message,
        reason="NonZeroExitCode",
        details={"causes": [{"reason": "ExitCode", "message": str(code)}]},
    )


def encode_failure(protocol: ChannelProtocol, message: str) -> bytes:
    """The whole content of the error stream for a command that could not be run or followed to its end."""
    text = f"Internal error occurred: {message}"
    if not protocol.has_json_status:
        return text.encode(errors="replace")
    details = {"causes": [{"message": message}]}  # as of apimachinery's NewInternalError: clients read the cause
    return _encode_status(status="Failure", message=text, reason="InternalError", details=details, code=500)


def _encode_status(**fields: object) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


class ResizeDecoder:
    """The resize stream: concatenated JSON objects `{"Width":80,"Height":24}`, with or without white space between them.

    Names are matched case-insensitively, and unknown ones are ignored, as in Go. A size with a zero is ignored. At most
    `limit` bytes are buffered.
    """

    def __init__(self, limit: int = 512) -> None:
        self._limit = limit
        self._value = bytearray()
        self._depth = 0
        self._in_text = False
        self._escaped = False
        self._broken: ProtocolError | None = None

    def feed(self, data: bytes) -> list[TerminalSize]:
        """The sizes that are complete with these bytes, which may be split anywhere.

        Raises `ProtocolError` for invalid data, once the sizes before it were returned; nothing more can be read from this
        stream then, but the session can continue without it.
        """
        sizes: list[TerminalSize] = []
        if self._broken is None:
            try:
                self._feed(data, sizes)
            except ProtocolError as error:
                self._broken = error
        if self._broken is not None and not sizes:
            raise self._broken
        return sizes

    def _feed(self, data: bytes, sizes: list[TerminalSize]) -> None:
        for byte in data:
            if not self._depth and byte in b" \t\r\n":
                continue
            self._value.append(byte)
            if len(self._value) > self._limit:
                raise ProtocolError(f"resize of more than {self._limit} bytes")
            if self._is_complete(byte):
                size = _decode_size(bytes(self._value))
                self._value.clear()
                if size.width and size.height:
                    sizes.append(size)

    def _is_complete(self, byte: int) -> bool:
        if self._in_text:
            self._in_text = self._escaped or byte != ord('"')
            self._escaped = byte == ord("\\") and not self._escaped
            return False
        if byte in b"{[":
            self._depth += 1
        elif byte in b"}]":
            self._depth -= 1
        elif byte == ord('"'):
            self._in_text = True
        if not 0 <= self._depth <= 8 or self._value[:1] != b"{":
            raise ProtocolError("resize is not a JSON object of width and height")
        return not self._depth


def _decode_size(value: bytes) -> TerminalSize:
    try:
        fields = {name.lower(): field for name, field in json.loads(value.decode()).items()}
    except ValueError as error:
        raise ProtocolError(f"resize is not JSON: {error}") from error
    return TerminalSize(_decode_side(fields.get("width")), _decode_side(fields.get("height")))


def _decode_side(field: object) -> int:
    if field is None:
        return 0
    if type(field) is not int or not 0 <= field <= 0xFFFF:
        raise ProtocolError(f"resize to {str(field)[:32]}")
    return field
