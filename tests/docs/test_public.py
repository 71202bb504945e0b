"""The public API: what its page lists, and what documentation and examples use."""

import ast
import re
from pathlib import Path

import pytest

from docs.tools.names import shown
from docs.tools.public import MODULES, SOURCES, Name, api
from tests.docs.pages import ROOT, blocks, pages

PUBLIC = [module for modules in MODULES.values() for module in modules]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(SOURCES).with_suffix("").parts).removesuffix(".__init__")


def imports(text: str) -> set[tuple[str, str]]:
    """The modules and names of crishim that a program or a piece of one imports."""
    found = {(module, "") for module in re.findall(r"^ *import (crishim[\w.]*)", text, re.MULTILINE)}
    for module, names, more in re.findall(r"^ *from (crishim[\w.]*) import (?:([\w, ]+)|\(([^)]*)\))", text, re.MULTILINE):
        words = re.sub(r"#.*", "", names or more).split(",")
        found |= {(module, word.split(" as ")[0].strip()) for word in words if word.strip()}
    return found


def private(text: str) -> set[str]:
    """What a program imports of crishim that is not public."""
    names = {module: {name.short for name in api().modules[module]} for module in PUBLIC}
    used = imports(text)
    return {
        f"{module}.{name}".rstrip(".")
        for module, name in used
        if f"{module}.{name}".rstrip(".") not in names and name not in names.get(module, ())
    }


def test_all_is_what_makes_a_module_public() -> None:
    """The modules with `__all__` are those of the page."""
    having = set()
    for path in (SOURCES / "crishim").rglob("*.py"):
        targets = [node.targets for node in ast.parse(path.read_text()).body if isinstance(node, ast.Assign)]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for each in targets for target in each):
            having.add(module_of(path))
    assert set(PUBLIC) == having


def test_every_public_name_is_described() -> None:
    """Each name in `__all__` has a docstring, and so has each module."""
    assert [] == [module for module in PUBLIC if not api().about[module]]
    assert [] == [name.path for names in api().modules.values() for name in names if not name.same and not name.about]


def test_every_name_exists() -> None:
    """Griffe reads every name of `__all__` from the sources, and the program finds it when it runs."""
    missing = []
    for module in PUBLIC:
        found = __import__(module, fromlist=["*"])
        missing += [f"{module}.{name.short}" for name in api().modules[module] if not hasattr(found, name.short)]
    assert [] == missing


UNNAMED = {
    "crishim.backends.docker.engine.Engine",  # made by the plug-in
    "crishim.backends.docker.options.Options",
    "crishim.backends.runc.command.Features",
    "crishim.lifecycle.states.ContainerAct",
    "crishim.play.client.Caller",
    "crishim.play.fields.Fields",  # parts of a `Pod`, made by `parse`
    "crishim.play.pod.PodContainer",
    "crishim.play.pod.PodSecurity",
    "crishim.play.pod.RestartPolicy",
    "crishim.play.pod.Volume",
    "crishim.shimv2.client.runtime.Options",
    "crishim.shimv2.wire.messages.Bootstrap",
    "crishim.streaming.http_connection.HttpConnection",  # of a callback that a StreamServer gets
    "crishim.streaming.http_connection.Upgrade",
    "crishim.ttrpc.client._Wire",  # made by `Client.connect`
}
"""Types that a program gets from a public name and passes on, and has no need to name."""


def test_public_signatures_have_public_types() -> None:
    """Whatever a program needs to call a public name, or gets from one, is public itself."""
    assert UNNAMED == api().unlisted().keys()


SEEN = [
    *pages(),
    *sorted((ROOT / "examples").rglob("*.py")),
    *sorted((ROOT / "examples").rglob("*.md")),
    SOURCES / "crishim" / "cli" / "new.py",
]


@pytest.mark.parametrize("path", SEEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_readers_copy_public_names_only(path: Path) -> None:
    """Programs on pages, in examples and in the projects of `crishim new` import public names only."""
    text = path.read_text()
    if path.suffix == ".md":
        text = "\n".join(block.text for block in blocks(path) if block.language in {"python", "sh", "console"})
    elif path.name == "new.py":
        text = "\n".join(
            node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        )
    assert set() == private(text)


def mentioned(text: str) -> set[str]:
    """The dotted names of the package that a page has in backticks."""
    text = re.sub(r"^This page is written by .*$|`crishim[.]service`", "", text, flags=re.MULTILINE)  # sources, and the unit
    found = set(re.findall(r"`(?:import )?(crishim(?:\.\w+)+)", text))
    return {name for name in found if module_exists(".".join(name.split(".")[:2]))}


def module_exists(name: str) -> bool:
    path = SOURCES.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


INTERNALS = {
    "docs/architecture.md",  # how it is built
    "docs/reference/names.md",  # the list itself
    "CHANGELOG.md",  # what once was
    "CONTRIBUTING.md",
}
"""Pages that speak of private modules, for those who change them."""


@pytest.mark.parametrize("path", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_name_public_things(path: Path) -> None:
    """Where a page for users names a module, or a name of one, it is public, or a package of public modules."""
    names = {f"{module}.{name.short}" for module in PUBLIC for name in api().modules[module]}
    members = {name.path for name in api().names()}
    packages = {module.rpartition(".")[0] for module in PUBLIC} | {"crishim.interfaces", "crishim.pods"}
    unknown = mentioned(path.read_text()) - names - members - packages - set(PUBLIC)
    assert set() == unknown or str(path.relative_to(ROOT)) in INTERNALS


def test_imports_are_found() -> None:
    """Imports of one line and of several, of modules and of names, are told apart from public ones."""
    text = (
        "import crishim.shimv2\nfrom crishim import Exit\nfrom crishim.linux import (\n    processes,  # public\n    oom,\n)\n"
    )
    assert {("crishim.shimv2", ""), ("crishim", "Exit"), ("crishim.linux", "processes"), ("crishim.linux", "oom")} == imports(
        text
    )
    assert {"crishim.linux.oom"} == private(text)


def test_a_name_is_shown_with_its_signature() -> None:
    """A function has its parameters, a value its type, and what is long is cut."""
    assert "async wait(self_: int) -> Exit" == shown(
        Name(path="a.wait", kind="async function", signature="(self_: int) -> Exit")
    )
    assert "X: int = 1" == shown(Name(path="a.X", kind="value", signature=": int = 1"))
    assert 160 == len(shown(Name(path="a.X", kind="value", signature=" = " + "1" * 200)))


def test_the_classes_of_authors_are_there() -> None:
    """Griffe reads protocols, attrs classes with their fields, functions and lazily imported names."""
    names = {name.path: name for name in api().names()}
    assert "async function" == names["crishim.Backend.probe"].kind
    assert "(*, id, config, handler='', netns='', ips=())" == names["crishim.SandboxSpec"].signature
    assert "crishim.SandboxSpec" == names["crishim.model.sandbox.SandboxSpec"].same
    assert names["crishim.shimv2.run"].signature.startswith("(")
