"""Network configurations: the bytes of conf, json and conflist files to a list of plugins (CNI specification 1.1, section 1).

A `.conflist` is a list; a `.conf` or `.json` is one plugin, which makes a list of its own. The network is the first file, by
name, that is valid. A plugin's object stays as it was written: its keys are the plugin's.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from crishim.errors import InvalidArgument

EXTENSIONS: Final = (".conf", ".conflist", ".json")
VERSIONS: Final = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""The versions of the specification that are spoken here, oldest first."""

_NAME: Final = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")


@attrs.frozen(kw_only=True)
class PluginConfig:
    """One plugin of a network: the program's name, its object, and the capability arguments that it wants."""

    type: str
    config: Mapping[str, Any]
    capabilities: frozenset[str] = frozenset()


@attrs.frozen(kw_only=True)
class NetworkList:
    """A network: its plugins in the order of ADD, the version spoken with them, and the list as JSON."""

    name: str
    version: str
    plugins: tuple[PluginConfig, ...]
    disable_gc: bool = False
    source: bytes

    def speaks(self, version: str) -> bool:
        """Whether the network's version is at least `version`."""
        return VERSIONS.index(self.version) >= VERSIONS.index(version)


def choose(files: Iterable[tuple[str, bytes]]) -> tuple[NetworkList | None, tuple[str, ...]]:
    """The network of a folder's (name, bytes), and what is wrong with the files that would have come before it."""
    problems: list[str] = []
    for name, data in sorted(files):
        try:
            return parse(name, data), tuple(problems)
        except InvalidArgument as error:
            problems.append(error.message)
    return None, tuple(problems)


def parse(file: str, data: bytes) -> NetworkList:
    """One file. Raises `InvalidArgument` naming the file."""
    try:
        told = json.loads(data)
    except ValueError as error:
        raise InvalidArgument(file, f"is no JSON: {error}") from error
    if not isinstance(told, dict):
        raise InvalidArgument(file, "is no JSON object")
    if not file.endswith(".conflist"):
        if "plugins" in told:
            raise InvalidArgument(file, "holds a list of plugins; such a file must be named .conflist")
        told = {"cniVersion": told.get("cniVersion", ""), "name": told.get("name", ""), "plugins": [told]}
    return parse_list(file, told)


def parse_list(file: str, told: Mapping[str, Any]) -> NetworkList:
    """A list's object. Raises `InvalidArgument` naming `file`."""
    name = told.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidArgument(file, f"{name!r} is no name of a network")
    plugins = told.get("plugins")
    if not isinstance(plugins, list) or not plugins:
        raise InvalidArgument(file, "names no plugins")
    return NetworkList(
        name=name,
        version=_version(file, told),
        plugins=tuple(_plugin(file, plugin) for plugin in plugins),
        disable_gc=_flag(file, told, "disableGC"),
        source=json.dumps(told, ensure_ascii=False).encode(),
    )


def _version(file: str, told: Mapping[str, Any]) -> str:
    """The highest of the versions that the list offers and we speak; without a word of it, the first there was."""
    offered = [told.get("cniVersion") or "", *(told.get("cniVersions") or ())]
    known = [version for version in VERSIONS if version in offered]
    if known:
        return known[-1]
    if any(offered):
        raise InvalidArgument(file, f"cniVersion {', '.join(map(str, filter(None, offered)))} is not spoken here")
    return VERSIONS[0]


def _plugin(file: str, told: object) -> PluginConfig:
    if not isinstance(told, dict):
        raise InvalidArgument(file, "has a plugin that is no object")
    kind = told.get("type")
    if not isinstance(kind, str) or not kind or "/" in kind or kind in {".", ".."}:
        raise InvalidArgument(file, f"{kind!r} is no type of a plugin")
    capabilities = told.get("capabilities") or {}
    if not isinstance(capabilities, dict):
        raise InvalidArgument(file, f"the capabilities of {kind} are no object")
    wanted = frozenset(name for name, value in capabilities.items() if value is True)
    return PluginConfig(type=kind, config=told, capabilities=wanted)


def _flag(file: str, told: Mapping[str, Any], key: str) -> bool:
    value = told.get(key, False)
    if value in {"true", "false"}:  # as written by hand; libcni takes both
        return bool(value == "true")
    if not isinstance(value, bool):
        raise InvalidArgument(file, f"{key} is neither true nor false")
    return value
