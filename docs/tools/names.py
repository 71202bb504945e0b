"""The page of the public names."""

from collections.abc import Iterator
from typing import Final

from docs.tools.public import MODULES, Name, api

_LONGEST: Final = 160
_RULE: Final = """\
**What this page lists is public.** A module that is not here is private, and so is a name that is not here, whatever it is called. Public are also
the attributes and methods of the classes here whose names do not begin with `_`, the keys of
[the configuration](configuration.md), and [the commands](cli.md). CONTRIBUTING.md says how they may change.

The attributes `sandboxes`, `containers`, `images`, `streams`, `stats`, `runtime` and `pods` of `Services` have the calls of CRI; their classes are private.
A program that needs all of CRI uses `crishim.cri.Dispatcher`.
"""


def page() -> Iterator[str]:
    """The page, line by line."""
    yield "# Public names\n"
    yield "This page is written by `make reference` from the `__all__` of the modules.\n"
    yield _RULE
    for subject, modules in MODULES.items():
        yield f"## {subject}\n"
        for module in modules:
            yield f"### {module}\n"
            yield f"{api().about[module]}\n"
            yield from _names(api().modules[module])


def _names(names: tuple[Name, ...]) -> Iterator[str]:
    elsewhere: dict[str, list[str]] = {}
    for name in names:
        if name.same:
            elsewhere.setdefault(name.same.rpartition(".")[0], []).append(f"`{name.short}`")
        else:
            yield f"- `{shown(name)}`: {name.about}"
            methods = [each for each in name.members if each.kind.endswith("function") and each.about]
            yield from (f"    - `{shown(each)}`: {each.about}" for each in methods)
    yield from (f"- as in `{module}`: {', '.join(called)}" for module, called in elsewhere.items())
    yield ""


def shown(name: Name) -> str:
    """A name with its signature, or its type and value, cut at a length that can be read."""
    word = "async " if name.kind.startswith("async") else ""
    text = f"{word}{name.short}{name.signature}"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
