"""Credentials, and the engine's report of a pull."""

import base64
import json
from typing import Any

import pytest

from crishim.backends.docker.wire import Progress, failure, registry_auth
from crishim.errors import CrishimError, InvalidArgument, NotFound, PermissionDenied, Unknown
from crishim.model.image import AuthConfig


@pytest.mark.parametrize(
    ("auth", "expected"),
    [
        (None, {}),
        (AuthConfig(username="u", password="p"), {"username": "u", "password": "p"}),
        (AuthConfig(auth=base64.b64encode(b"u:p:q\0").decode()), {"username": "u", "password": "p:q"}),
        (
            AuthConfig(identity_token="i", server_address="r", registry_token="t"),
            {"serveraddress": "r", "identitytoken": "i", "registrytoken": "t"},
        ),
    ],
)
def test_credentials(auth: AuthConfig | None, expected: dict[str, str]) -> None:
    """CRI's credentials in the engine's header; `auth` alone is taken apart, which the engine would not do."""
    assert expected == json.loads(base64.urlsafe_b64decode(registry_auth(auth)))


@pytest.mark.parametrize("text", ["!", base64.b64encode(b"nobody").decode(), base64.b64encode(b"\xff:").decode()])
def test_broken_credentials(text: str) -> None:
    """An `auth` that is no name and password is refused."""
    with pytest.raises(InvalidArgument):
        registry_auth(AuthConfig(auth=text))


@pytest.mark.parametrize("step", [1, 5, 1000])
def test_report(step: int) -> None:
    """Messages are complete wherever the report is split, the last one even without its newline; errors are included."""
    data = b'{"status":"Pulling"}\r\n\n{"errorDetail":{"message":"no"},"error":"no"}'
    progress = Progress()
    seen = [message for start in range(0, len(data), step) for message in progress.feed(data[start : start + step])]
    seen += progress.finish()
    assert [{"status": "Pulling"}, {"errorDetail": {"message": "no"}, "error": "no"}] == seen
    assert {"errorDetail": {"message": "no"}, "error": "no"} == progress.error


@pytest.mark.parametrize(
    ("report", "kind"),
    [
        ({"errorDetail": {"code": 404, "message": "m"}}, NotFound),
        ({"errorDetail": {"code": 401, "message": "m"}}, PermissionDenied),
        ({"error": "m"}, Unknown),
    ],
)
def test_failures(report: dict[str, Any], kind: type[CrishimError]) -> None:
    """A failed pull is classified by its code; without a code by the engine's text."""
    assert kind is type(failure(report, "r/i:1"))
