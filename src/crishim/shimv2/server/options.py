"""Reads the options that containerd configures for a runtime, in either of the two messages in which a shim receives them.

containerd's CRI plugin sends `containerd.runc.v1.Options` to runc's shim, and `runtimeoptions.v1.Options` to any other: the
handler's `options` table as TOML in `config_body`, or a file in `config_path`. The keys are the same.
"""

import contextlib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any as AnyValue
from typing import Final, TypeVar

from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message

from crishim._proto import UNDECODABLE
from crishim._proto import shim_bootstrap_pb2 as bootstrap_pb
from crishim._proto import shim_options_pb2 as options_pb
from crishim._proto import shim_runc_pb2 as runc_pb
from crishim.errors import InvalidArgument

__all__ = ["read_options"]

M = TypeVar("M", bound=Message)

RUNC: Final = "containerd.runc.v1.Options"
RUNTIME: Final = "runtimeoptions.v1.Options"

_TYPE_URL: Final = "TypeUrl"
"""A key of any handler's table, which names the type of the others."""


def read_options(options: tuple[str, bytes]) -> Mapping[str, AnyValue]:
    """The keys of a handler's table with their TOML names (`SystemdCgroup`), without those that are empty, zero or false.

    `options` is a message's type and value; the type is empty if there is none. May read a file. Raises `InvalidArgument` for
    another type, and for invalid options.
    """
    kind, value = options
    if not kind:
        return {}
    if kind == RUNC:
        message = _decoded(runc_pb.Options(), value)
        table = {"".join(part.title() for part in field.name.split("_")): given for field, given in message.ListFields()}
    elif kind == RUNTIME:
        table = _table(_decoded(options_pb.Options(), value))
    else:
        raise InvalidArgument("options", f"{kind} is neither {RUNC} nor {RUNTIME}")
    return {name: given for name, given in table.items() if given and name != _TYPE_URL}


def asked(stdin: bytes) -> bootstrap_pb.BootstrapParams | None:
    """The BootstrapParams of containerd 2.3 and later on the stdin of `start`; None for an earlier one."""
    try:
        params = bootstrap_pb.BootstrapParams.FromString(stdin)
    except UNDECODABLE:
        return None
    return params if params.containerd_version else None


def start_options(stdin: bytes) -> tuple[str, bytes]:
    """The runtime's options on the stdin of `start`, by type and value: an extension of the BootstrapParams, or before them
    the message itself in an Any. The type is empty if there are none.
    """
    params = asked(stdin)
    values = [extension.value for extension in params.extensions] if params is not None else []
    if params is None:
        with contextlib.suppress(*UNDECODABLE):
            values = [Any.FromString(stdin)]
    found = ((value.type_url.rpartition("/")[2], value.value) for value in values)
    return next((options for options in found if options[0] in {RUNC, RUNTIME}), ("", b""))


def self_contained(options: tuple[str, bytes]) -> tuple[str, bytes]:
    """The same options with the content of their file included, since the file may change later. Reads the file."""
    kind, value = options
    if kind != RUNTIME:
        return options
    message = _decoded(options_pb.Options(), value)
    if message.config_path and not message.config_body:
        message.config_body = _text(message.config_path)
    return kind, message.SerializeToString(deterministic=True)


def _table(message: options_pb.Options) -> dict[str, AnyValue]:
    """`config_body` has precedence over `config_path`; containerd sends either."""
    text = message.config_body or (_text(message.config_path) if message.config_path else b"")
    try:
        return tomllib.loads(text.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidArgument(f"options.{message.config_path or 'config_body'}", f"is not valid TOML: {error}") from error


def _text(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidArgument("options.config_path", f"{path}: {error.strerror}") from error


def _decoded(message: M, value: bytes) -> M:
    try:
        message.ParseFromString(value)
    except UNDECODABLE as error:
        raise InvalidArgument("options", f"cannot be read: {error}") from error
    return message
