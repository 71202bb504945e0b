"""Parses network configurations: conf, json and conflist files (CNI specification 1.1, section 1).

A `.conflist` is a list of plugins; a `.conf` or `.json` is one plugin, which becomes a list of one. The network is the first
valid file, by name. A plugin's object is passed on unchanged.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from crishim.errors import InvalidArgument

EXTENSIONS: Final = (".conf", ".conflist", ".json")
VERSIONS: Final = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""The supported versions of the specification, oldest first."""

_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")


@attrs.frozen(kw_only=True)
class PluginConfig:
    """One plugin of a network: the program's name, its object, and the capability arguments that it claims."""

    type: str
    config: Mapping[str, Any]
    capabilities: frozenset[str] = frozenset()


@attrs.frozen(kw_only=True)
class NetworkList:
    """A network: its plugins in the order of ADD, the version used with them, and the list as JSON."""

    name: str
    version: str
    plugins: tuple[PluginConfig, ...]
    disable_gc: bool = False
    source: bytes

    def speaks(self, version: str) -> bool:
        """Whether the network's version is at least `version`."""
        return VERSIONS.index(self.version) >= VERSIONS.index(version)


def choose(files: Iterable[tuple[str, bytes]]) -> tuple[NetworkList | None, tuple[str, ...]]:
    """The network of a folder's (name, bytes), and the errors of the files that precede it."""
    problems: list[str] = []
    for name, data in sorted(files):
        try:
            return parse(name, data), tuple(problems)
        except InvalidArgument as error:
            problems.append(error.message)
    return None, tuple(problems)


def parse(file: str, data: bytes) -> NetworkList:
    """Parse one file. Raises `InvalidArgument` naming the file."""
    try:
        parsed = json.loads(data)
    except ValueError as error:
        raise InvalidArgument(file, f"is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise InvalidArgument(file, "is not a JSON object")
    if not file.endswith(".conflist"):
        if "plugins" in parsed:
            raise InvalidArgument(file, "has a list of plugins; such a file must be named .conflist")
        parsed = {"cniVersion": parsed.get("cniVersion", ""), "name": parsed.get("name", ""), "plugins": [parsed]}
    return parse_list(file, parsed)


def parse_list(file: str, parsed: Mapping[str, Any]) -> NetworkList:
    """Parse the object of a list. Raises `InvalidArgument` naming `file`."""
    name = parsed.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidArgument(file, f"{name!r} is not a valid network name")
    plugins = parsed.get("plugins")
    if not isinstance(plugins, list) or not plugins:
        raise InvalidArgument(file, "has no plugins")
    return NetworkList(
        name=name,
        version=_version(file, parsed),
        plugins=tuple(_plugin(file, plugin) for plugin in plugins),
        disable_gc=_flag(file, parsed, "disableGC"),
        source=json.dumps(parsed, ensure_ascii=False).encode(),
    )


def _version(file: str, parsed: Mapping[str, Any]) -> str:
    """The highest supported version that the list offers; the oldest one if the list names none."""
    offered = [parsed.get("cniVersion") or "", *(parsed.get("cniVersions") or ())]
    known = [version for version in VERSIONS if version in offered]
    if known:
        return known[-1]
    if any(offered):
        raise InvalidArgument(file, f"cniVersion {', '.join(map(str, filter(None, offered)))} is not supported")
    return VERSIONS[0]


def _plugin(file: str, plugin: object) -> PluginConfig:
    if not isinstance(plugin, dict):
        raise InvalidArgument(file, "has a plugin that is not an object")
    kind = plugin.get("type")
    if not isinstance(kind, str) or not kind or "/" in kind or kind in {".", ".."}:
        raise InvalidArgument(file, f"{kind!r} is not a valid plugin type")
    capabilities = plugin.get("capabilities") or {}
    if not isinstance(capabilities, dict):
        raise InvalidArgument(file, f"the capabilities of {kind} are not an object")
    claimed = frozenset(name for name, value in capabilities.items() if value is True)
    return PluginConfig(type=kind, config=plugin, capabilities=claimed)


def _flag(file: str, parsed: Mapping[str, Any], key: str) -> bool:
    value = parsed.get(key, False)
    if value in {"true", "false"}:  # strings, which libcni accepts too
        return bool(value == "true")
    if not isinstance(value, bool):
        raise InvalidArgument(file, f"{key} is neither true nor false")
    return value
