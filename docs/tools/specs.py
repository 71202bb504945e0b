"""The page of the values that a backend receives and reports, each field with its type, its unit and an example."""

from collections.abc import Iterator
from typing import Any

import attrs

from crishim.model.values import FrozenDict
from docs.tools.examples import EXAMPLES
from docs.tools.public import Name, api


def page() -> Iterator[str]:
    """The page, line by line."""
    yield "# Specs and events\n"
    yield "This page is written by `make reference` from `crishim.model`.\n"
    yield "All are frozen attrs classes: hashable, comparable, and made with keyword arguments. Times are integer nanoseconds since the epoch, and sizes"
    yield "bytes, where a field says nothing else. A field that was not requested is empty, 0 or None.\n"
    described = {name.short: name for name in api().names() if name.kind == "class" and ".model." in name.home}
    done: set[type] = set()
    for subject, (about, values) in EXAMPLES.items():
        yield f"## {subject}\n"
        yield f"{about}\n"
        for kind, examples in instances(values).items():
            if kind not in done:
                done.add(kind)
                yield from _class(described[kind.__name__], examples)


def instances(values: tuple[Any, ...]) -> dict[type, list[Any]]:
    """Every attrs value in `values`, nested ones among them, by its class."""
    found: dict[type, list[Any]] = {}
    waiting = list(values)
    while waiting:
        value = waiting.pop(0)
        if isinstance(value, tuple):
            waiting += value
        elif attrs.has(type(value)):
            found.setdefault(type(value), []).append(value)
            waiting += [getattr(value, field.name) for field in attrs.fields(type(value))]
    return found


def example(field: str, values: list[Any]) -> Any:
    """The first value of a field that says something; None if there is none."""
    return next((each for value in values if (each := getattr(value, field)) not in (None, "", (), {})), None)


def _class(name: Name, examples: list[Any]) -> Iterator[str]:
    yield f"### {name.short}\n"
    yield f"{name.about}\n"
    yield "| field | type | meaning | example |"
    yield "|---|---|---|---|"
    fields = {field.name for field in attrs.fields(type(examples[0]))}
    for member in name.members:
        if member.short in fields:
            kind = member.signature.removeprefix(": ").partition(" = ")[0]
            yield f"| `{member.short}` | {_type(kind)} | {member.about} | {_shown(example(member.short, examples))} |"
    yield ""


def _type(text: str) -> str:
    return "`" + text.replace("|", "\\|") + "`"


def _shown(value: Any) -> str:
    first = value[0] if isinstance(value, tuple) and value else value
    if attrs.has(type(first)):
        return f"[{type(first).__name__}](#{type(first).__name__.lower()})"
    text = f"{type(value).__name__}.{value.name}" if hasattr(value, "name") else repr(value)
    return f"`{text}`".replace("FrozenDict(", "").replace("})", "}") if isinstance(value, FrozenDict) else f"`{text}`"
