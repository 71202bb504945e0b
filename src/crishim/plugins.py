"""Plug-ins by name: the installed ones, by the entry points `crishim.backends`, and any by `package.module:attribute`.

`crishim.interfaces.plugin` has the contract. Either name must refer to a `Plugin`; a function is not accepted instead.
"""

import importlib
from collections.abc import Callable
from importlib import metadata
from typing import Final, TypeVar

from crishim.errors import Code, CrishimError
from crishim.interfaces.backend import BackendContext
from crishim.interfaces.plugin import Plugin

GROUP: Final = "crishim.backends"

T = TypeVar("T")


class PluginError(CrishimError):
    """A plug-in does not exist, or cannot be loaded or built. The message begins with its name."""

    code = Code.FAILED_PRECONDITION

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"backend {name!r}: {why}")
        self.name = name


def installed() -> tuple[str, ...]:
    """The sorted names of all installed plug-ins."""
    return tuple(sorted({entry.name for entry in metadata.entry_points(group=GROUP)}))


def load(name: str) -> Plugin:
    """The plug-in of this name, or the one that `package.module:attribute` names. Raises `PluginError`."""
    place = name
    if ":" not in name:
        entries = [entry.value for entry in metadata.entry_points(group=GROUP, name=name)]
        if not entries:
            raise PluginError(name, f"is not installed; installed: {', '.join(installed()) or 'none'}")
        place = entries[0]
    module_name, _, attribute = place.partition(":")
    if not (module_name and attribute):
        raise PluginError(name, f"{place!r} is not of the form package.module:attribute")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise PluginError(name, f"{module_name} cannot be imported: {type(error).__name__}: {error}") from error
    try:
        plugin = getattr(module, attribute)
    except AttributeError as error:
        raise PluginError(name, f"{module_name} has no {attribute}") from error
    if not isinstance(plugin, Plugin):
        hint = f"; write plugin = crishim.Plugin(build={attribute}), and name that" if callable(plugin) else ""
        kind = "class" if isinstance(plugin, type) else type(plugin).__name__
        raise PluginError(name, f"{place} is a {kind}, not a crishim.Plugin{hint}")
    return plugin


def build(function: Callable[[BackendContext], T], context: BackendContext, name: str) -> T:
    """The result of a plug-in's `build` or `images`. Raises `PluginError` with `name` for any exception."""
    try:
        return function(context)
    except CrishimError as error:
        raise PluginError(name, str(error)) from error
    except Exception as error:
        raise PluginError(name, f"cannot be built: {type(error).__name__}: {error}") from error
