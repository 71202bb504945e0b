"""What a pull needs to say and to understand (pure): credentials, and the engine's running report."""

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from typing import Any

from crishim.errors import CrishimError, InvalidArgument, NotFound, PermissionDenied, Unknown
from crishim.model.image import AuthConfig

_NOT_THERE = frozenset({400, 404})
_REFUSED = frozenset({401, 403})


def registry_auth(auth: AuthConfig | None) -> str:
    """The value of X-Registry-Auth: base64url of JSON, padding kept. Raises `InvalidArgument` for an `auth` that is none."""
    said: dict[str, str] = {}
    if auth is not None:
        username, password = auth.username, auth.password
        if auth.auth and not username:
            username, password = _pair(auth.auth)
        said = {
            "username": username,
            "password": password,
            "serveraddress": auth.server_address,
            "identitytoken": auth.identity_token,
            "registrytoken": auth.registry_token,
        }
    packed = json.dumps({key: value for key, value in said.items() if value})
    return base64.urlsafe_b64encode(packed.encode()).decode()


def _pair(packed: str) -> tuple[str, str]:
    try:
        username, colon, password = base64.b64decode(packed, validate=True).decode().rstrip("\0").partition(":")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise InvalidArgument("auth.auth", "is no base64 of a name and a password") from error
    if not colon:
        raise InvalidArgument("auth.auth", "has no colon between name and password")
    return username, password


class Progress:
    """Cuts the engine's report into its messages, and keeps the last error: a pull that fails was begun with status 200."""

    def __init__(self) -> None:
        self._rest = b""
        self.error: Mapping[str, Any] | None = None

    def feed(self, data: bytes) -> Iterator[Mapping[str, Any]]:
        """The messages that are whole."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.strip():
                yield self._read(line)

    def finish(self) -> Iterator[Mapping[str, Any]]:
        """The report has ended."""
        rest, self._rest = self._rest, b""
        if rest.strip():
            yield self._read(rest)

    def _read(self, line: bytes) -> Mapping[str, Any]:
        message: Mapping[str, Any] = json.loads(line)
        if "error" in message or "errorDetail" in message:
            self.error = message
        return message


def failure(report: Mapping[str, Any], reference: str) -> CrishimError:
    """The error that a report ends with, by its code; most have none, and are the engine's words alone."""
    detail = report.get("errorDetail") or {}
    message = str(detail.get("message") or report.get("error") or "the pull failed")
    code = detail.get("code")
    if code in _NOT_THERE:
        return NotFound("image", reference)
    if code in _REFUSED:
        return PermissionDenied(f"{reference}: {message}")
    return Unknown(f"{reference}: {message}")
