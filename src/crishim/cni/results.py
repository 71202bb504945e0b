"""The output of plugins: results of ADD in every version, errors, and the file in which a result is stored.

The file is libcni's `cniCacheV1`, so that its tools can read it. It is written once before ADD, without a result, so that an
attachment can be undone also after a crash during ADD.
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
"""The specification's codes of temporary errors: try again later, plugin not available, limited connectivity."""

_CONTAINER_UNKNOWN: Final = 3


class PluginFailed(Unknown):
    """A plugin returned an error; `number` is the CNI code, 0 if there was none."""

    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.number = number


@attrs.frozen(kw_only=True)
class CachedResult:
    """One stored attachment: the request, its network, and the result of ADD; None if ADD has not succeeded."""

    network: NetworkList
    attachment: Attachment
    result: Mapping[str, Any] | None = None


def result_of(plugin: str, stdout: bytes) -> dict[str, Any]:
    """The result that a plugin printed. Raises `PluginFailed` for invalid output."""
    try:
        result = json.loads(stdout)
    except ValueError:
        result = None
    if not isinstance(result, dict):
        raise PluginFailed(f"CNI plugin {plugin} printed no result: {stdout[:200]!r}")
    return result


def failure(plugin: str, command: str, status: int, stdout: bytes, stderr: bytes) -> CrishimError:
    """The error of a plugin that ended with `status`: its error object, else its output."""
    try:
        reply = json.loads(stdout)
    except ValueError:
        reply = None
    if isinstance(reply, dict) and ("msg" in reply or "code" in reply):
        parts = (str(reply.get("msg") or ""), str(reply.get("details") or ""))
        text, number = "; ".join(filter(None, parts)), reply.get("code")
    else:
        text, number = (stderr or stdout).decode("utf-8", "replace").strip()[-1000:], 0
    message = f"CNI plugin {plugin} failed ({command}): {text or f'exit code {status}, no output'}"
    if number in _TRY_LATER:
        return Unavailable(message)
    return PluginFailed(message, number if isinstance(number, int) else 0)


def means_gone(error: CrishimError) -> bool:
    """Whether the error of a failed DEL only means that the object does not exist; called if the namespace does not exist any
    more.

    Plugins should not fail then, but many do, and there is no code for it (go-cni and ocicni match the text too).
    """
    if isinstance(error, PluginFailed) and error.number == _CONTAINER_UNKNOWN:
        return True
    return "no such file or directory" in error.message.lower()


def addresses(result: Mapping[str, Any]) -> tuple[str, ...]:
    """The pod's addresses on its interface: the first IPv4 one, then the first IPv6 one. Raises `PluginFailed` without any."""
    chosen: dict[int, str] = {}
    for text in _texts(result):
        try:
            address = ipaddress.ip_interface(text).ip
        except ValueError as error:
            raise PluginFailed(f"the network's result has an invalid address: {text!r}") from error
        chosen.setdefault(address.version, str(address))
    if not chosen:
        raise PluginFailed(f"the network gave no address to {INTERFACE}")
    return tuple(chosen[version] for version in sorted(chosen))


def _texts(result: Mapping[str, Any]) -> Iterator[str]:
    for key in ("ip4", "ip6"):  # versions 0.1 and 0.2
        if isinstance(family := result.get(key), dict):
            yield str(family.get("ip", ""))
    interfaces = result.get("interfaces") or []
    for entry in result.get("ips") or ():
        index = entry.get("interface")
        if index is None or not 0 <= index < len(interfaces) or _is_the_pod_s(interfaces[index]):
            yield str(entry.get("address", ""))


def _is_the_pod_s(interface: Mapping[str, Any]) -> bool:
    return bool(interface.get("sandbox")) and interface.get("name") == INTERFACE


def encode(stored: CachedResult) -> bytes:
    """The file of a stored attachment."""
    requested = stored.attachment
    cached = {
        "kind": _KIND,
        "containerId": requested.container_id,
        "config": base64.b64encode(stored.network.source).decode("ascii"),
        "ifName": INTERFACE,
        "networkName": stored.network.name,
        "netns": requested.netns,
        "cniArgs": [list(pair) for pair in requested.args],
        "capabilityArgs": dict(requested.capabilities),
        **({"result": stored.result} if stored.result is not None else {}),
    }
    return json.dumps(cached, ensure_ascii=False).encode()


def decode(name: str, data: bytes) -> CachedResult:
    """Decode the file `name` that `encode` wrote. Raises `DataLoss`."""
    try:
        cached = json.loads(data)
        if cached["kind"] != _KIND:
            raise DataLoss(f"{name} is of kind {cached['kind']!r}")
        return CachedResult(
            network=parse_list(name, json.loads(base64.b64decode(cached["config"]))),
            attachment=Attachment(
                container_id=cached["containerId"],
                netns=cached["netns"],
                args=tuple((key, value) for key, value in cached.get("cniArgs") or ()),
                capabilities=cached.get("capabilityArgs") or {},
            ),
            result=cached.get("result"),
        )
    except (ValueError, KeyError, TypeError, InvalidArgument) as error:
        raise DataLoss(f"{name} is not a stored result: {error!r}") from error
