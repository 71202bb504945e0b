"""The HTTP/1.1 request that begins a stream: which transport and protocol it selects, and the head of the response.

- WebSocket if `Upgrade` is `websocket` and `Connection` contains `upgrade`; RFC 6455's rules for the key (else 400)
  and version 13 (else 426). The first subprotocol of the client that is served is chosen; none offered is valid; none
  served is 403.
- SPDY otherwise. `X-Stream-Protocol-Version` (repeated or with commas) is required: missing is 400, none served is 403
  with the served ones in `X-Accepted-Stream-Protocol-Versions`. After that the upgrade itself is checked:
  `Connection` must contain `upgrade` and `Upgrade` `SPDY/3.1`, else 400.

Header values are compared case-insensitively where HTTP does so, protocol names exactly.

Sources: kubernetes/cri-streaming `remotecommand/httpstream.go`, k8s.io/streaming `httpstream/httpstream.go` and
`spdy/upgrade.go`, RFC 6455 section 4.
"""

import base64
import binascii
import enum
import hashlib
from collections.abc import Collection, Iterable
from typing import TypeAlias

import attrs

from crishim.streaming import portforward
from crishim.streaming.channels import SPDY_PROTOCOLS, V4, V4_BASE64, WEBSOCKET_PROTOCOLS, negotiate

__all__ = ["PORT_FORWARD", "REMOTE_COMMAND", "Accepted", "HttpHeaders", "Served", "Transport", "UpgradeRefused", "choose"]

HttpHeaders: TypeAlias = Iterable[tuple[bytes, bytes]]
"""In the form of h11: names in lower case."""

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_VERSIONS = b"x-stream-protocol-version"
_SUBPROTOCOL = b"sec-websocket-protocol"


class Transport(enum.Enum):
    """The transport of the streams."""

    SPDY = "SPDY/3.1"
    WEBSOCKET = "websocket"


@attrs.frozen
class Served:
    """The protocol names that an endpoint serves, by transport. An empty name is for a WebSocket client that names none."""

    spdy: Collection[str]
    websocket: Collection[str]


REMOTE_COMMAND = Served(tuple(SPDY_PROTOCOLS), tuple(WEBSOCKET_PROTOCOLS))
"""Exec and attach. `channels` has the protocols by name."""

PORT_FORWARD = Served((portforward.PROTOCOL,), (portforward.TUNNEL_PROTOCOL, V4.name, V4_BASE64.name, ""))
"""Port-forward. The tunnel's name selects `TunnelSession`, the others over WebSocket `port_forward_session`."""


@attrs.frozen
class Accepted:
    """Respond with 101 and these headers; the bytes after the request belong to the protocol."""

    transport: Transport
    protocol: str
    headers: tuple[tuple[bytes, bytes], ...]


@attrs.frozen
class UpgradeRefused:
    """Respond with this status, headers and text."""

    status: int
    text: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


def choose(headers: HttpHeaders, served: Served) -> Accepted | UpgradeRefused:
    """The response to a request with these headers, for an endpoint that serves `served`."""
    pairs = tuple(headers)
    upgrades = _folded(pairs, b"upgrade")
    asks_upgrade = "upgrade" in _folded(pairs, b"connection")
    if asks_upgrade and "websocket" in upgrades:
        return _choose_websocket(pairs, served.websocket)
    return _choose_spdy(pairs, served.spdy, may_upgrade=asks_upgrade and "spdy/3.1" in upgrades)


def _choose_spdy(headers: HttpHeaders, served: Collection[str], *, may_upgrade: bool) -> Accepted | UpgradeRefused:
    offered = _words(headers, _VERSIONS)
    if not offered:
        return UpgradeRefused(400, "X-Stream-Protocol-Version header is required")
    protocol = negotiate(offered, served)
    if protocol is None:
        accepted = tuple((b"X-Accepted-Stream-Protocol-Versions", name.encode()) for name in served)
        return UpgradeRefused(403, f"none of the offered protocols is served: {', '.join(served)} are", accepted)
    if not may_upgrade:
        return UpgradeRefused(400, "unable to upgrade: missing upgrade headers")
    return Accepted(
        Transport.SPDY,
        protocol,
        (
            (b"Connection", b"Upgrade"),
            (b"Upgrade", b"SPDY/3.1"),
            (b"X-Stream-Protocol-Version", protocol.encode()),
        ),
    )


def _choose_websocket(headers: HttpHeaders, served: Collection[str]) -> Accepted | UpgradeRefused:
    if _words(headers, b"sec-websocket-version") != ["13"]:
        return UpgradeRefused(426, "WebSocket version 13 is required", ((b"Sec-WebSocket-Version", b"13"),))
    keys = [value.strip() for name, value in headers if name == b"sec-websocket-key"]
    if len(keys) != 1 or not _is_key(keys[0]):
        return UpgradeRefused(400, "Sec-WebSocket-Key must be 16 bytes in base64")
    protocol = negotiate(_words(headers, _SUBPROTOCOL) or [""], served)
    if protocol is None:
        return UpgradeRefused(403, "none of the offered WebSocket subprotocols is served")
    accept = base64.b64encode(hashlib.sha1(keys[0] + _GUID, usedforsecurity=False).digest())
    chosen = ((b"Sec-WebSocket-Protocol", protocol.encode()),) if protocol else ()
    return Accepted(
        Transport.WEBSOCKET,
        protocol,
        ((b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"), (b"Sec-WebSocket-Accept", accept), *chosen),
    )


def _is_key(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        return False


def _words(headers: HttpHeaders, name: bytes) -> list[str]:
    """The comma-separated values of a header, which may be repeated."""
    words = (word.strip() for key, value in headers if key == name for word in value.decode("latin-1").split(","))
    return [word for word in words if word]


def _folded(headers: HttpHeaders, name: bytes) -> list[str]:
    return [word.lower() for word in _words(headers, name)]
