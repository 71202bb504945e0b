"""CRI calls as lines of JSON, without secrets (pure).

A line has `method`, `code` (gRPC's name), `message` if the call failed, `deadline_s` (0 for none), `seconds`, `request`, and
`reply`, or for calls that stream `replies`. Messages have the field names of api.proto. Credentials, the values of environment
variables, the URLs of streams and verbose `info` are `REDACTED`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
from google.protobuf import json_format, message_factory
from google.protobuf.message import Message

from crishim._proto import UNDECODABLE
from crishim._proto import cri_pb2 as pb
from crishim.errors import Code

REDACTED: Final = "REDACTED"

_SECRET: Final = frozenset({"password", "auth", "identity_token", "registry_token", "url"})
"""Texts that are secrets wherever they stand: of AuthConfig, and in the responses that have a token in a URL."""


@attrs.frozen(kw_only=True)
class RecordedCall:
    """One call. Messages are encoded; `seconds` is its duration, and `deadline` the client's, 0 for none."""

    method: str
    request: bytes
    replies: Sequence[bytes] = ()
    code: Code = Code.OK
    message: str = ""
    deadline: float = 0.0
    seconds: float = 0.0


@attrs.frozen
class Method:
    """An RPC of CRI: its service with the package, its messages, and whether it streams its replies."""

    service: str
    name: str
    request: type[Message]
    reply: type[Message]
    streams: bool


def methods() -> dict[str, Method]:
    """Every RPC of CRI, by its name."""
    found = {}
    for service in pb.DESCRIPTOR.services_by_name.values():
        for method in service.methods:
            found[method.name] = Method(
                f"runtime.v1.{service.name}",
                method.name,
                message_factory.GetMessageClass(method.input_type),
                message_factory.GetMessageClass(method.output_type),
                method.server_streaming,
            )
    return found


METHODS: Final[Mapping[str, Method]] = methods()


def to_line(call: RecordedCall, *, keep_env: bool = False) -> dict[str, Any]:
    """A call as an object of JSON. With `keep_env` the values of environment variables stay.

    What cannot be decoded is left out: the line then has an `undecodable` instead.
    """
    method = METHODS[call.method]
    line: dict[str, Any] = {"method": call.method, "code": call.code.name}
    if call.message:
        line["message"] = call.message
    line |= {"deadline_s": round(call.deadline, 3), "seconds": round(call.seconds, 6)}
    try:
        line["request"] = _to_dict(method.request.FromString(call.request), keep_env=keep_env)
        replies = [_to_dict(method.reply.FromString(reply), keep_env=keep_env) for reply in call.replies]
    except UNDECODABLE as error:
        return {**line, "undecodable": str(error)}
    if method.streams:
        line["replies"] = replies
    elif replies:
        line["reply"] = replies[0]
    return line


def parse_line(text: str) -> dict[str, Any] | None:
    """A line with its `method`, `code` and `request`; None for an empty one, and for a call that could not be decoded.

    Raises `ValueError` for anything else.
    """
    line: Any = json.loads(text) if text.strip() else {"undecodable": ""}
    if isinstance(line, dict) and "undecodable" in line:
        return None
    if not isinstance(line, dict) or line.get("method") not in METHODS or not isinstance(line.get("request"), dict):
        raise ValueError(f"not a recorded call: {text[:100]}")
    if line.get("code") not in Code.__members__:
        raise ValueError(f"not a code of gRPC: {line.get('code')!r}")
    return line


def to_request(line: Mapping[str, Any]) -> bytes:
    """The encoded request of a line. Raises `ValueError` for a request that does not fit its method."""
    method = METHODS[line["method"]]
    try:
        return json_format.ParseDict(line["request"], method.request(), ignore_unknown_fields=True).SerializeToString()
    except json_format.ParseError as error:
        raise ValueError(str(error)) from error


def _to_dict(message: Message, *, keep_env: bool) -> Any:
    return _redacted(json_format.MessageToDict(message, preserving_proto_field_name=True), "", keep_env)


def _redacted(value: Any, name: str, keep_env: bool) -> Any:
    if isinstance(value, dict):
        if name == "info" and not keep_env:  # verbose texts of JSON, which have the environment, too
            return dict.fromkeys(value, REDACTED)
        if name == "envs" and not keep_env and "value" in value:
            return {**value, "value": REDACTED}
        return {key: _redacted(item, key, keep_env) for key, item in value.items()}
    if isinstance(value, list):
        return [_redacted(item, name, keep_env) for item in value]
    return REDACTED if name in _SECRET and isinstance(value, str) else value
