"""Writes the pages of the reference that the code knows best: `python -m docs.tools.reference`.

Contracts, capabilities, names, values, errors, configuration, command line, the drawings, the man page, the types of
CRI's calls, and the record of the public API. A test compares them with the code.
"""

import ast
import inspect
import itertools
import json
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import attrs
import click

import crishim.errors
from crishim.backends import docker, kata, process, runc, shim
from crishim.config import Config
from crishim.errors import CrishimError, Unknown
from crishim.interfaces import backend, capabilities, oci_runtime, plugin, seats
from crishim.model import features
from docs.tools import calls, lifecycle, manual, names, overview, snapshot, specs

DOCS: Final = Path(__file__).parents[1]
_NOTE: Final = "This page is written by `make reference` from {}.\n"
_CALLS: Final = {
    "SupportsExec": "ExecSync, Exec",
    "SupportsAttach": "Attach",
    "SupportsPortForward": "PortForward",
    "SupportsSandboxWait": "PodSandboxStatus and events, when a sandbox dies by itself",
    "SupportsStats": "ContainerStats, ListContainerStats, PodSandboxStats, ListPodSandboxStats and their streams, ListPodSandboxMetrics",
    "SupportsUpdate": "UpdateContainerResources",
    "SupportsSandboxUpdate": "UpdatePodSandboxResources",
    "SupportsLogReopen": "ReopenContainerLog",
    "SupportsLeftovers": "none of CRI's: verbose Status and a metric ask for it",
    "SupportsPause": "CheckpointPod; shims ask for it too",
    "SupportsCheckpoint": "CheckpointContainer, CheckpointPod, RestorePod, CreateContainer from an archive",
    "SupportsClose": "none of CRI's: `crishim play` calls it at its end",
}
"""Which calls a capability lights up."""


def pages() -> dict[str, str]:
    """Every generated file, by its name below docs/."""
    made: dict[str, Callable[[], Iterator[str]]] = {
        "reference/contract.md": contract,
        "reference/capabilities.md": offered,
        "reference/names.md": names.page,
        "reference/specs.md": specs.page,
        "reference/errors.md": errors,
        "reference/configuration.md": configuration,
        "reference/cli.md": command_line,
    }
    return {
        **{name: "\n".join(lines()).rstrip() + "\n" for name, lines in made.items()},
        "pictures/architecture.svg": overview.architecture_svg(overview.floors((DOCS / "architecture.md").read_text())),
        "pictures/container.svg": lifecycle.container_svg(),
        "pictures/ways.svg": overview.ways_svg(),
        "pictures/icon.svg": overview.icon_svg(),
        "pictures/pod.svg": overview.pod_svg(),
        "pictures/sandbox.svg": lifecycle.sandbox_svg(),
        "crishim.1": manual.page(),
        "../src/crishim/cri/calls.py": calls.text(),
    }


def contract() -> Iterator[str]:
    """What authors owe."""
    yield "# The contract\n"
    yield _NOTE.format("`crishim.interfaces`")
    yield "## Backend\n"
    yield _prose(backend.__doc__)
    yield from _verbs(backend.Backend)
    yield "## What goes with it\n"
    for kind in (backend.BackendContext, backend.BackendInfo, backend.NetnsSource):
        yield from _value(kind)
    yield "## Plugin\n"
    yield _prose(plugin.__doc__)
    yield _prose(plugin.Plugin.__doc__)
    yield from _fields(plugin.Plugin)
    for title, module, kinds in (
        ("OciRuntime", oci_runtime, _protocols(oci_runtime)),
        ("Seats beside the backend", seats, _protocols(seats)),
    ):
        yield f"## {title}\n"
        yield _prose(module.__doc__)
        for each in kinds:
            yield f"### {each.__name__}\n"
            yield _prose(each.__doc__)
            yield from _verbs(each)


def _protocols(module: ModuleType) -> tuple[type, ...]:
    return tuple(
        kind for kind in vars(module).values() if getattr(kind, "_is_protocol", False) and kind.__module__ == module.__name__
    )


def offered() -> Iterator[str]:
    """What authors may add."""
    yield "# Capabilities\n"
    yield _NOTE.format("`crishim.interfaces.capabilities`")
    yield _prose(capabilities.__doc__)
    yield "| capability | calls of CRI |"
    yield "|---|---|"
    for kind in capabilities.ALL:
        yield f"| [`{kind.__name__}`](#{kind.__name__.lower()}) | {_CALLS[kind.__name__]} |"
    yield "\nWithout it these calls end with UNIMPLEMENTED and the capability's name. PortForward does without where crishim makes the"
    yield "pod's network namespace, and dials in it itself.\n"
    for kind in capabilities.ALL:
        yield f"## {kind.__name__}\n"
        yield f"{_prose(kind.__doc__)}"
        yield from _verbs(kind)
    yield "## Streams\n"
    for kind in (capabilities.ProcessIO, capabilities.ByteReader, capabilities.ByteWriter, capabilities.ByteStream):
        yield from _value(kind)
        yield from _verbs(kind)
    yield from _features()


def _features() -> Iterator[str]:
    """The optional fields of specs."""
    yield "## Features\n"
    yield _prose(features.Feature.__doc__)
    yield "`BackendInfo.supported` is a set of them. A field that a backend accepts without effect stands in `Plugin.ignores` instead.\n"
    yield "| `crishim.Feature` | field of CRI | in `PROCESS` | in `OCI` | in `VM` |"
    yield "|---|---|---|---|---|"
    sets = (features.PROCESS, features.OCI, features.VM)
    for feature in features.Feature:
        yield f"| `{feature.name}` | `{feature.value}` | {' | '.join('yes' if feature in each else '' for each in sets)} |"
    yield "\n`PROCESS`, `OCI` and `VM`, of `crishim.model.features`, are what a plain child process, an OCI runtime of any version, and a"
    yield "container in a virtual machine support.\n"


def errors() -> Iterator[str]:
    """What can go wrong."""
    yield "# Errors\n"
    yield _NOTE.format("`crishim.errors`")
    yield _prose(crishim.errors.__doc__)
    yield "| error | gRPC | HTTP | when |"
    yield "|---|---|---|---|"
    kinds = [kind for kind in vars(crishim.errors).values() if isinstance(kind, type) and issubclass(kind, CrishimError)]
    for kind in kinds:
        if kind is not CrishimError:
            status = kind.http_status.fget(kind.__new__(kind))  # type: ignore[attr-defined]
            fields = ", ".join(list(inspect.signature(kind).parameters))
            yield f"| `{kind.__name__}({fields})` | {kind.code.name} ({kind.code.value}) | {status} | {_line(kind.__doc__)} |"
    yield f"\nAnything else that a backend raises is `{Unknown.__name__}`. `TimeoutError` is reported as DEADLINE_EXCEEDED and"
    yield "`ProcessLookupError` as NOT_FOUND; `asyncio.CancelledError` passes untouched. HTTP's status is what the streaming server"
    yield "answers before a connection is upgraded.\n"
    yield "## The kubelet's words\n"
    yield _prose(crishim.errors.PullReason.__doc__)
    yield from (f"- `{reason.value}`" for reason in crishim.errors.PullReason)


def configuration() -> Iterator[str]:
    """Keys of the file."""
    yield "# Configuration\n"
    yield _NOTE.format("`crishim.config`")
    yield "The file is `/etc/crishim/crishim.toml`; drop-ins are `conf.d/*.toml` beside it, in the order of their names. A later one"
    yield "replaces single values, single handlers, and single options of backends. What is not known, or not of the right type, ends the"
    yield "start with the file's name and the key. `crishim config default` prints a commented file with all keys, and `crishim config"
    yield "check` reads yours. Names of tables stand in brackets.\n"
    plain = [field for field in attrs.fields(Config) if not attrs.has(type(field.default))]
    yield from _keys("The file", "", plain)
    for field in attrs.fields(Config):
        if attrs.has(type(field.default)):
            section: Any = type(field.default)
            yield from _keys(f"[{field.name}]", _line(section.__doc__), list(attrs.fields(section)))
    yield "## Options of backends\n"
    yield "Each in `[backends.NAME]`, where a handler names NAME. `plugin` says which plug-in it is, if that is not NAME itself.\n"
    for module in (process, runc, docker, shim, kata):
        name = module.__name__.rpartition(".")[2]
        found = re.search(r"Options: .*?(?:\n\n|\Z)", inspect.getdoc(module) or "", re.DOTALL)
        text = _OPTIONS.get(name) or " ".join(found[0].split() if found else ())
        yield f"**{name}**. {text}\n"


_OPTIONS: Final = {
    "process": "Options: `unsafe_ignore` (a list of fields, by the names of `crishim.Feature`, that are accepted without effect; default empty).",
    "docker": "Options: those of [its page](../docker.md).",
}
"""Those that a module's head does not list in one paragraph."""


def command_line() -> Iterator[str]:
    """What the programs say of themselves."""
    yield "# Command line\n"
    yield _NOTE.format("the commands' own `--help`")
    for path, command in manual.commands():
        yield f"## {' '.join(path)}\n"
        yield "```text"
        yield from (line.rstrip() for line in manual.help_of(path, command).splitlines())
        yield "```\n"
    yield "## Exit status\n"
    yield from manual.STATUS


def _keys(title: str, about: str, fields: list[Any]) -> Iterator[str]:
    yield f"## {title}\n"
    if about:
        yield f"{about}\n"
    yield "| key | default | meaning |"
    yield "|---|---|---|"
    for field in fields:
        default = json.dumps(dict(field.default) if field.name in {"handlers", "backends"} else field.default)
        yield f"| `{field.name}` | `{default}` | {field.metadata['meaning'].replace('|', chr(92) + '|')} |"
    yield ""


def _verbs(kind: type) -> Iterator[str]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(tree, ast.ClassDef)
    for node in tree.body:
        if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef):
            node.args.args = [each for each in node.args.args if each.arg != "self"]
            back = f" -> {ast.unparse(node.returns)}" if node.returns else ""
            word = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
            yield f"**`{word}{node.name}({ast.unparse(node.args)}){back}`**\n"
            yield f"{_prose(ast.get_docstring(node))}"


def _fields(kind: type) -> Iterator[str]:
    """Fields whose docstrings stand behind them."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(tree, ast.ClassDef)
    for node, below in itertools.pairwise(tree.body):
        if isinstance(node, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            yield f"**`{ast.unparse(node.target)}: {ast.unparse(node.annotation)}`**\n"
            yield _prose(str(below.value.value))


def _value(kind: Any) -> Iterator[str]:
    yield f"**`{kind.__name__}`**: {_line(kind.__doc__)}\n"
    if attrs.has(kind):
        for field in attrs.fields(kind):
            named = str(getattr(field.type, "__name__", field.type) if not hasattr(field.type, "__args__") else field.type)
            yield f"- `{field.name}`: `{re.sub(r'[a-z_]+[.]', '', named)}`"
        yield ""


def _prose(text: str | None) -> str:
    return inspect.cleandoc(text or "") + "\n"


def _line(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def main() -> None:
    """Write all of them, and the record of the public API. Ends with an error if CHANGELOG.md does not name what has changed."""
    for name, text in pages().items():
        path = (DOCS / name).resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        click.echo(str(path.relative_to(DOCS.parent)))
    try:
        snapshot.update()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
