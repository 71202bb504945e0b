"""What plugins answer: results of ADD in every version, errors, and the file in which a result is kept.

The file is libcni's `cniCacheV1`, so that its tools can read it. It is written once before ADD, without a result, so that an
attachment of which a crash knows nothing more can still be undone.
"""

import base64
import ipaddress
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs

from crishim.cni.attachment import INTERFACE, Attachment
from crishim.cni.config import NetworkList, parse_list
from crishim.errors import CrishimError, DataLoss, InvalidArgument, Unavailable, Unknown

_KIND: Final = "cniCacheV1"
_TRY_LATER: Final = {11, 50, 51}
"""The specification's codes for what may pass: try again later, plugin not available, limited connectivity."""

_CONTAINER_UNKNOWN: Final = 3


class PluginFailed(Unknown):
    """A plugin answered an error; `number` is the CNI code, 0 where it told none."""

    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.number = number


@attrs.frozen(kw_only=True)
class CachedResult:
    """One kept attachment: what was asked, of which network, and the result of ADD; None when ADD did not end well."""

    network: NetworkList
    attachment: Attachment
    result: Mapping[str, Any] | None = None


def result_of(plugin: str, stdout: bytes) -> dict[str, Any]:
    """The result that a plugin printed. Raises `PluginFailed` for what is none."""
    try:
        told = json.loads(stdout)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise PluginFailed(f"CNI plugin {plugin} answered no result: {stdout[:200]!r}")
    return told


def failure(plugin: str, command: str, status: int, stdout: bytes, stderr: bytes) -> CrishimError:
    """The error behind a plugin that ended with `status`: what it printed as an error object, else what it wrote."""
    try:
        told = json.loads(stdout)
    except ValueError:
        told = None
    if isinstance(told, dict) and ("msg" in told or "code" in told):
        parts = (str(told.get("msg") or ""), str(told.get("details") or ""))
        text, number = "; ".join(filter(None, parts)), told.get("code")
    else:
        text, number = (stderr or stdout).decode("utf-8", "replace").strip()[-1000:], 0
    message = f"CNI plugin {plugin} failed ({command}): {text or f'it ended with {status} and no word'}"
    if number in _TRY_LATER:
        return Unavailable(message)
    return PluginFailed(message, number if isinstance(number, int) else 0)


def means_gone(error: CrishimError) -> bool:
    """Whether a failed DEL only says that what it should undo is not there; asked where the namespace is gone.

    Plugins should not fail so, but many do, and have no code for it (go-cni and ocicni read the text too).
    """
    if isinstance(error, PluginFailed) and error.number == _CONTAINER_UNKNOWN:
        return True
    return "no such file or directory" in error.message.lower()


def addresses(result: Mapping[str, Any]) -> tuple[str, ...]:
    """The pod's addresses on its interface: the first IPv4 one, then the first IPv6 one. Raises `PluginFailed` without any."""
    found: dict[int, str] = {}
    for text in _texts(result):
        try:
            address = ipaddress.ip_interface(text).ip
        except ValueError as error:
            raise PluginFailed(f"the network's result has an address that is none: {text!r}") from error
        found.setdefault(address.version, str(address))
    if not found:
        raise PluginFailed(f"the network gave no address to {INTERFACE}")
    return tuple(found[version] for version in sorted(found))


def _texts(result: Mapping[str, Any]) -> Iterator[str]:
    for key in ("ip4", "ip6"):  # versions 0.1 and 0.2
        if isinstance(told := result.get(key), dict):
            yield str(told.get("ip", ""))
    interfaces = result.get("interfaces") or []
    for told in result.get("ips") or ():
        index = told.get("interface")
        if index is None or not 0 <= index < len(interfaces) or _is_the_pod_s(interfaces[index]):
            yield str(told.get("address", ""))


def _is_the_pod_s(interface: Mapping[str, Any]) -> bool:
    return bool(interface.get("sandbox")) and interface.get("name") == INTERFACE


def encode(kept: CachedResult) -> bytes:
    """The file of a kept attachment."""
    asked = kept.attachment
    told = {
        "kind": _KIND,
        "containerId": asked.container_id,
        "config": base64.b64encode(kept.network.source).decode("ascii"),
        "ifName": INTERFACE,
        "networkName": kept.network.name,
        "netns": asked.netns,
        "cniArgs": [list(pair) for pair in asked.args],
        "capabilityArgs": dict(asked.capabilities),
        **({"result": kept.result} if kept.result is not None else {}),
    }
    return json.dumps(told, ensure_ascii=False).encode()


def decode(name: str, data: bytes) -> CachedResult:
    """What `encode` wrote to the file `name`. Raises `DataLoss`."""
    try:
        told = json.loads(data)
        if told["kind"] != _KIND:
            raise DataLoss(f"{name} is of kind {told['kind']!r}")
        return CachedResult(
            network=parse_list(name, json.loads(base64.b64decode(told["config"]))),
            attachment=Attachment(
                container_id=told["containerId"],
                netns=told["netns"],
                args=tuple((key, value) for key, value in told.get("cniArgs") or ()),
                capabilities=told.get("capabilityArgs") or {},
            ),
            result=told.get("result"),
        )
    except (ValueError, KeyError, TypeError, InvalidArgument) as error:
        raise DataLoss(f"{name} is no kept result: {error!r}") from error
