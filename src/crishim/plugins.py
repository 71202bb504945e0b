"""Backends from outside: the entry points `crishim.backends`, and functions named as `package.module:function`.

A plug-in is a function `build(context: BackendContext) -> Backend`. The module that holds it (the part of the entry point
before the colon) may hold more, by these names:

- `images(context: BackendContext) -> ImageService`: where this backend's images come from. Without it, an image is taken as
  it is named.
- `check() -> Iterable[Finding]`: what the machine offers it, for `crishim check`.
- `check_options(options: Mapping[str, Any]) -> Iterable[Finding]`: the same, instead of `check`, for a backend that is
  configured with these options.
- `ignores: Mapping[str, str]`: what it takes and does not use, and why, by the names that `crishim coverage` prints.
- `needs_node = True`: it wants this node's image store, root file systems, namespaces and network.

A backend may have a method `async close()`: end what cannot go on without this process. It is called where containers are
not meant to outlive crishim (`crishim play`), and not when a node's daemon ends.
"""

import importlib
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from typing import Any, Final

import attrs

from crishim.errors import Code, CrishimError
from crishim.interfaces.backend import Backend, BackendContext
from crishim.interfaces.seats import Finding, ImageService

GROUP: Final = "crishim.backends"


class PluginError(CrishimError):
    """A plug-in is not there, or cannot be loaded or built. The message begins with its name."""

    code = Code.FAILED_PRECONDITION

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"backend {name!r}: {why}")
        self.name = name


@attrs.frozen(kw_only=True)
class Plugin:
    """A plug-in that is loaded; None for what it does not offer."""

    name: str
    build: Callable[[BackendContext], Backend]
    images: Callable[[BackendContext], ImageService] | None = None
    check: Callable[[], Iterable[Finding]] | None = None
    check_options: Callable[[Mapping[str, Any]], Iterable[Finding]] | None = None
    needs_node: bool = False
    ignores: Mapping[str, str] = attrs.field(factory=dict)


def installed() -> tuple[str, ...]:
    """The names of all installed plug-ins, in order."""
    return tuple(sorted({entry.name for entry in metadata.entry_points(group=GROUP)}))


def load(name: str) -> Plugin:
    """The plug-in of this name, or the one that `package.module:function` names. Raises `PluginError`."""
    place = name
    if ":" not in name:
        entries = [entry.value for entry in metadata.entry_points(group=GROUP, name=name)]
        if not entries:
            raise PluginError(name, f"is not installed; installed: {', '.join(installed()) or 'none'}")
        place = entries[0]
    module_name, _, function = place.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise PluginError(name, f"{module_name} cannot be imported: {type(error).__name__}: {error}") from error
    build = _function(module, function, name)
    if build is None:
        raise PluginError(name, f"{module_name} has no function {function or '(none was named)'}")
    return Plugin(
        name=name,
        build=build,
        images=_function(module, "images", name),
        check=_function(module, "check", name),
        check_options=_function(module, "check_options", name),
        needs_node=bool(getattr(module, "needs_node", False)),
        ignores=getattr(module, "ignores", {}),
    )


def made(plugin: Plugin, context: BackendContext, name: str) -> Backend:
    """The backend, built. Raises `PluginError` with `name`, whatever goes wrong."""
    try:
        return plugin.build(context)
    except CrishimError as error:
        raise PluginError(name, str(error)) from error
    except Exception as error:
        raise PluginError(name, f"cannot be built: {type(error).__name__}: {error}") from error


def _function(module: Any, attribute: str, name: str) -> Callable[..., Any] | None:
    value = getattr(module, attribute, None) if attribute else None
    if value is not None and not callable(value):
        raise PluginError(name, f"{module.__name__}.{attribute} is no function")
    return value
