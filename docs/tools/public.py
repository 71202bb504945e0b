"""The public API: the modules that may be imported, and their names as griffe reads them from the sources."""

import ast
import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import attrs
import griffe

SOURCES: Final = Path(__file__).parents[2] / "src"

MODULES: Final[Mapping[str, tuple[str, ...]]] = {
    "Backends": (
        "crishim",
        "crishim.errors",
        "crishim.interfaces.seats",
        "crishim.interfaces.oci_runtime",
        "crishim.interfaces.tracing",
    ),
    "Values": (
        "crishim.model.container",
        "crishim.model.features",
        "crishim.model.image",
        "crishim.model.lifecycle",
        "crishim.model.process",
        "crishim.model.resources",
        "crishim.model.runtime",
        "crishim.model.sandbox",
        "crishim.model.security",
        "crishim.model.stats",
        "crishim.model.values",
        "crishim.lifecycle.records",
    ),
    "Parts for backends": (
        "crishim.pods.backend",
        "crishim.pods.bundle",
        "crishim.pods.host",
        "crishim.pods.privileges",
        "crishim.pods.program",
        "crishim.pods.supervised",
        "crishim.pods.usage",
        "crishim.oci.facts",
        "crishim.oci.ignores",
        "crishim.oci.resources",
        "crishim.oci.usage",
        "crishim.logs.execution",
        "crishim.logs.follower",
        "crishim.logs.lines",
        "crishim.logs.stdio",
        "crishim.linux.bundle_mounts",
        "crishim.linux.cgroups",
        "crishim.linux.children",
        "crishim.linux.processes",
        "crishim.linux.roots",
    ),
    "CRI in a program": (
        "crishim.cri",
        "crishim.cri.convert.container",
        "crishim.cri.convert.sandbox_config",
        "crishim.server",
        "crishim.service.backends",
        "crishim.service.node",
        "crishim.images.skopeo",
        "crishim.images.skopeo_process",
        "crishim.images.store",
        "crishim.store.memory",
        "crishim.store.sqlite",
        "crishim.system",
        "crishim.metrics.endpoint",
        "crishim.metrics.prometheus",
        "crishim.tracing",
        "crishim.play",
        "crishim.app",
        "crishim.cli.daemon",
        "crishim.config",
    ),
    "A shim of containerd's": (
        "crishim.shimv2",
        "crishim.shimv2.server.daemon",
        "crishim.shimv2.server.options",
        "crishim.shimv2.client.binary",
        "crishim.shimv2.client.runtime",
    ),
    "The backends of the package": (
        "crishim.backends.docker",
        "crishim.backends.kata",
        "crishim.backends.process",
        "crishim.backends.runc",
        "crishim.backends.shim",
    ),
    "Tests": (
        "crishim.testing",
        "crishim.testing.harness",
        "crishim.testing.conformance",
        "crishim.testing.conformance.examination",
        "crishim.testing.conformance.examine",
        "crishim.testing.conformance.images",
        "crishim.testing.conformance.offers",
        "crishim.testing.conformance.runtimes",
        "crishim.testing.conformance.suite",
        "crishim.testing.roots",
    ),
    "Protocols": (
        "crishim.nri.adaptation",
        "crishim.nri.connection",
        "crishim.nri.convert",
        "crishim.nri.plugin",
        "crishim.streaming.channels",
        "crishim.streaming.connection",
        "crishim.streaming.events",
        "crishim.streaming.flow",
        "crishim.streaming.server",
        "crishim.streaming.sessions",
        "crishim.streaming.spdy",
        "crishim.streaming.spdy_frames",
        "crishim.streaming.upgrade",
        "crishim.streaming.websocket",
        "crishim.ttrpc.client",
        "crishim.ttrpc.connection",
        "crishim.ttrpc.server",
        "crishim.ttrpc.status",
    ),
}
"""The public modules by subject. Their names are those of `__all__`; no other module has one."""


@attrs.frozen(kw_only=True)
class Name:
    """A public name. `signature` is its parameters and result, or its type and value, in one line.

    `home` is the path at which the sources define it, and `same` the public path at which it is described, for a name that is
    public at two.
    """

    path: str
    kind: str = ""
    signature: str = ""
    bases: tuple[str, ...] = ()
    about: str = ""
    home: str = ""
    same: str = ""
    members: "tuple[Name, ...]" = ()

    @property
    def short(self) -> str:
        """The last part of its path."""
        return self.path.rpartition(".")[2]


class Api:
    """The public names by module, in the order of `MODULES`. `about` has the first paragraph of each module."""

    def __init__(self) -> None:
        loader = griffe.GriffeLoader(search_paths=[SOURCES], allow_inspection=False)
        package = loader.load("crishim")
        loader.resolve_aliases(implicit=True)
        self._homes: dict[str, str] = {}
        self._targets: dict[str, griffe.Object] = {}
        self.about: dict[str, str] = {}
        self.modules: dict[str, tuple[Name, ...]] = {}
        for path in (path for paths in MODULES.values() for path in paths):
            module = package if path == "crishim" else package[path.removeprefix("crishim.")]
            self.about[path] = _first_paragraph(module)
            self.modules[path] = tuple(
                self._name(f"{path}.{name}", module.members[name]) for name in exported(module) if not name.startswith("__")
            )

    def names(self) -> Iterator[Name]:
        """All of them, members among them."""
        for names in self.modules.values():
            for name in names:
                yield name
                yield from name.members

    def unlisted(self) -> dict[str, set[str]]:
        """The types of this package that stand in public signatures and are not public, each with the names that use it."""
        homes = {name.home for name in self.names()}
        found: dict[str, set[str]] = {}
        for path, target in self._targets.items():
            for used in _types(target):
                if used not in homes and used.startswith("crishim.") and "._proto" not in used:
                    found.setdefault(used, set()).add(path)
        return found

    def _name(self, path: str, member: griffe.Object | griffe.Alias) -> Name:
        target = member.final_target if isinstance(member, griffe.Alias) else member
        home = self._homes.setdefault(target.path, path)
        if home != path:
            return Name(path=path, same=home)
        members = dict(_members(path, target)) if isinstance(target, griffe.Class) else {}
        self._targets |= {path: target, **members}
        return attrs.evolve(
            _described(path, target),
            members=tuple(_described(each, member) for each, member in members.items()),
        )


@functools.cache
def api() -> Api:
    """What the sources have, read once."""
    return Api()


def exported(module: griffe.Object | griffe.Alias) -> list[str]:
    """The names in a module's `__all__`."""
    return [str(name) for name in module.exports or ()]


def _members(path: str, kind: griffe.Class) -> Iterator[tuple[str, griffe.Object]]:
    """The public attributes and methods of a class by their paths, its own before those of its bases in this package."""
    inherited = {name: each for name, each in kind.inherited_members.items() if each.canonical_path.startswith("crishim.")}
    for name, each in {**kind.members, **inherited}.items():
        if name == "__call__" or not name.startswith("_"):
            yield f"{path}.{name}", each.final_target if isinstance(each, griffe.Alias) else each


def _types(each: griffe.Object) -> Iterator[str]:
    """The paths of the types in a signature, where they are defined."""
    expressions: list[object] = []
    if isinstance(each, griffe.Function):
        expressions = [each.returns, *(parameter.annotation for parameter in each.parameters)]
    elif isinstance(each, griffe.Attribute):
        expressions = [each.annotation]
    elif isinstance(each, griffe.Class) and isinstance(made := each.members.get("__init__"), griffe.Function):
        expressions = [parameter.annotation for parameter in made.parameters]
    for expression in expressions:
        parts = expression.iterate(flat=True) if isinstance(expression, griffe.Expr) else ()
        for part in (expression, *parts):
            if isinstance(part, griffe.ExprName) and part.canonical_path.startswith("crishim."):
                found = each.package[part.canonical_path.removeprefix("crishim.")]
                target = found.final_target if isinstance(found, griffe.Alias) else found
                if not (isinstance(target, griffe.Attribute) and str(target.value).startswith("TypeVar(")):
                    yield target.path


def _described(path: str, each: griffe.Object) -> Name:
    about, home = _first_paragraph(each), each.path
    if isinstance(each, griffe.Class):
        bases = tuple(str(base) for base in each.bases)
        return Name(path=path, kind="class", signature=_construction(each), bases=bases, about=about, home=home)
    if isinstance(each, griffe.Function):
        kind = "async function" if "async" in each.labels else "function"
        back = f" -> {each.returns}" if each.returns is not None else ""
        return Name(path=path, kind=kind, signature=f"({', '.join(_parameters(each))}){back}", about=about, home=home)
    if isinstance(each, griffe.Attribute):
        type_ = f": {each.annotation}" if each.annotation is not None else ""
        value = "" if "property" in each.labels or each.value is None else f" = {_default(str(each.value))}"
        return Name(path=path, kind="value", signature=type_ + value, about=about, home=home)
    return Name(path=path, kind="module", about=about, home=home)


def _construction(kind: griffe.Class) -> str:
    """The parameters of a class's constructor, of attrs classes their fields; nothing for protocols and enumerations."""
    made = kind.all_members.get("__init__")
    target = made.final_target if isinstance(made, griffe.Alias) else made
    if isinstance(target, griffe.Function):
        return f"({', '.join(_parameters(target))})"
    attrs_made = [str(mark.value) for mark in kind.decorators if str(mark.value).startswith("attrs.")]
    if not attrs_made:
        return ""
    fields = [
        f"{name.lstrip('_')}={_default(str(each.value))}" if each.value is not None else name.lstrip("_")
        for name, each in kind.all_members.items()
        if isinstance(each, griffe.Attribute) and each.annotation is not None and "instance-attribute" in each.labels
    ]
    return f"({', '.join(['*', *fields] if 'kw_only=True' in attrs_made[0] else fields)})"


_MARKS: Final = {
    griffe.ParameterKind.var_positional: "*",
    griffe.ParameterKind.var_keyword: "**",
}


def _parameters(function: griffe.Function) -> list[str]:
    texts: list[str] = []
    for each in function.parameters:
        if each.name in {"self", "cls"}:
            continue
        if each.kind is griffe.ParameterKind.keyword_only and not any(text.startswith("*") for text in texts):
            texts.append("*")
        text = _MARKS.get(each.kind or griffe.ParameterKind.positional_or_keyword, "") + each.name
        text += f": {each.annotation}" if each.annotation is not None else ""
        if each.default is not None and not text.startswith("*"):
            text += f" = {each.default}"
        texts.append(text)
    return texts


def _default(value: str) -> str:
    """A field's default: that of `attrs.field`, or the value itself."""
    try:
        node = ast.parse(value, mode="eval").body
    except SyntaxError:
        return value
    if isinstance(node, ast.Call) and ast.unparse(node.func) in {"attrs.field", "key"}:
        given = {word.arg: word.value for word in node.keywords}
        return ast.unparse(given.get("default") or given.get("factory") or next(iter(node.args), ast.Constant(...)))
    return " ".join(value.split())


def _first_paragraph(each: griffe.Object | griffe.Alias) -> str:
    text = each.docstring.value if each.docstring is not None else ""
    return " ".join(re.split(r"\n\s*\n", text.strip())[0].split())
