"""`crishim new`: writes a small project with a backend that passes the exam, to be changed into one for another engine.

The projects' modules are the examples of this repository, with other names: a wheel has them as `crishim/templates`, a checkout
in `examples`.
"""

import re
from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

import attrs
import click

import crishim
from crishim.cli.options import exit_on_error, fail

_NAME: Final = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@attrs.frozen(kw_only=True)
class EngineKind:
    """A kind of engine: `modules` are the examples by their names in the project; `words` are replaced in the first one."""

    what: str
    modules: Mapping[str, str]
    words: Mapping[str, str]
    packages: tuple[str, ...] = ()
    needs: str = ""
    test: str
    alone: bool = True

    def exam(self, name: str) -> str:
        """The command of the exam: pytest, where a test starts the engine."""
        return f"crishim exam {name}" if self.alone else "pytest"


_EXAM: Final = '''\
"""The exam: every sentence of the contract, on the backend."""

from @module@ import plugin

from crishim.testing.conformance.suite import exam

TestBackend = exam(plugin)
'''

_REMOTE_EXAM: Final = '''\
"""The exam, on an engine in a process of its own."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from @module@ import @class@Backend, plugin

from crishim import Backend
from crishim.testing.conformance.suite import exam


@pytest.fixture(scope="module", autouse=True)
def engine() -> Iterator[None]:
    command = [sys.executable, "-m", "tiny_engine", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]) as process:
        assert process.stdout is not None
        TestBackend.options = {"url": process.stdout.readline().split()[-1]}
        yield
        process.terminate()


class TestBackend(exam(plugin)):  # type: ignore[misc]  # a class that is made for the plug-in
    async def close_backend(self, backend: Backend) -> None:
        assert isinstance(backend, @class@Backend)
        await backend.close()
'''

KINDS: Final[Mapping[str, EngineKind]] = {
    "bundle": EngineKind(
        what="Each container is one command line over an OCI bundle: pods and a shim for containerd from one class",
        modules={"@module@.py": "program_runtime.py"},
        words={
            "NamespaceRuntime": "@class@Runtime",
            'name="namespaces"': 'name="@name@"',
            "containerd.namespaces.": "containerd.@short@.",
        },
        needs="root, and busybox-static and util-linux for the exam",
        test=_EXAM,
    ),
    "sandbox": EngineKind(
        what="The engine has sandboxes of its own: the ten verbs of a backend",
        modules={"@module@.py": "lasting_backend.py"},
        words={"LastingBackend": "@class@Backend", 'name="lasting"': 'name="@name@"'},
        test=_EXAM,
    ),
    "remote": EngineKind(
        what="The engine is reached over HTTP, and has ids, networks and addresses of its own",
        modules={"@module@.py": "remote-engine/remote_backend.py", "tiny_engine.py": "remote-engine/tiny_engine.py"},
        words={"RemoteBackend": "@class@Backend", 'name="remote"': 'name="@name@"'},
        packages=("aiohttp>=3.9",),
        test=_REMOTE_EXAM,
        alone=False,
    ),
}

_PYPROJECT: Final = """\
[build-system]
requires = ["hatchling>=1.25"]
build-backend = "hatchling.build"

[project]
name = "crishim-@name@"
version = "0.1.0"
description = "A backend for crishim."
requires-python = ">=3.11"
dependencies = [@packages@]

[project.optional-dependencies]
test = ["pytest>=8"]

[project.entry-points."crishim.backends"]
@name@ = "@module@:plugin"

[tool.hatch.build.targets.wheel]
only-include = [@files@]

[tool.pytest.ini_options]
testpaths = ["tests"]
"""

_README: Final = """\
# crishim-@name@

@what@.

    python3 -m venv venv && . venv/bin/activate
    pip install -e '.[test]'
    @exam@

What is to change is in `@module@.py`. The exam needs @needs@.
"""

_CI: Final = """\
on: [push, pull_request]
jobs:
  exam:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with: {python-version: "3.12"}
      - run: sudo apt-get install --yes busybox-static util-linux
      - run: pip install -e '.[test]'
      - run: sudo env "PATH=$PATH" @exam@
"""


@click.command(name="new")
@click.argument("name")
@click.option("--kind", type=click.Choice(list(KINDS)), required=True, help="What the engine is like.")
def command(name: str, kind: str) -> None:
    """Write a project for a backend NAME into a new folder of that name. It passes the exam as it is.

    \b
    bundle   each container is one command line; pods and a shim for containerd from one class
    sandbox  the engine has sandboxes of its own: the ten verbs
    remote   the engine is reached over a network
    """  # noqa: D301 - click reads the backspace
    if not _NAME.fullmatch(name):
        fail(f"{name!r} must be lower-case words of letters and digits, joined by hyphens", 2)
    folder = Path(name)
    with exit_on_error(2):
        for place, text in project(name, KINDS[kind]).items():
            file = folder / place
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("x", encoding="utf-8") as new:
                new.write(text)
    click.echo(f"{folder} is a backend that passes the exam: cd {folder}, pip install -e '.[test]', {KINDS[kind].exam(name)}")


def project(name: str, kind: EngineKind) -> Mapping[str, str]:
    """The files of a project, by their paths."""
    module = f"{name.replace('-', '_')}_backend"
    names = {
        "@name@": name,
        "@module@": module,
        "@short@": name.replace("-", ""),
        "@class@": "".join(word.capitalize() for word in name.split("-")),
        "@what@": kind.what,
        "@needs@": kind.needs or "nothing else",
        "@exam@": kind.exam(name),
        "@packages@": ", ".join(f'"{package}"' for package in ("crishim[node]", *kind.packages)),
        "@files@": ", ".join(f'"{_filled(file, {"@module@": module})}"' for file in kind.modules),
    }
    first, *_ = kind.modules
    texts = {file: _filled(_example(example), kind.words if file == first else {}) for file, example in kind.modules.items()}
    texts |= {
        "pyproject.toml": _PYPROJECT,
        "README.md": _README,
        "tests/test_exam.py": kind.test,
        ".github/workflows/exam.yml": _CI,
    }
    return {_filled(file, names): _filled(text, names) for file, text in texts.items()}


def _filled(text: str, words: Mapping[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(word, value)
    return text


def _example(name: str) -> str:
    """The text of an example, of the wheel or of the checkout."""
    packaged: Traversable = files("crishim") / "templates" / Path(name).name
    if packaged.is_file():
        return packaged.read_text(encoding="utf-8")
    return (Path(crishim.__file__).parents[2] / "examples" / name).read_text(encoding="utf-8")
