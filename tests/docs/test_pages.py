"""What the pages say can be done: every block of code on them runs, or says why not."""

import re
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import REASONS, ROOT, TOOLS, agrees, blocks, commands, missing, pages, prose, session


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name, since sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="page-") as name:
        yield Path(name)


@pytest.mark.parametrize("page", [page for page in pages() if blocks(page)], ids=named)
def test_the_page_can_be_followed(page: Path, folder: Path) -> None:
    """The page's commands and programs, in its order, do what it says."""
    if absent := missing(page):
        pytest.skip("; ".join(f"needs {each}: {TOOLS[each]}" for each in absent))
    with session(folder, page) as shell:
        for block in blocks(page):
            if not block.reason:
                try:
                    shell.play(block)
                except AssertionError as error:
                    raise AssertionError(f"{named(page)}:{block.line}: {error}") from error


@pytest.mark.parametrize("page", pages(), ids=named)
def test_what_is_not_run_has_a_reason(page: Path) -> None:
    """Each block that is left out has one of the known reasons, and no code hides in an indented block."""
    assert set() == {block.reason for block in blocks(page) if block.reason} - REASONS.keys()
    text = re.sub(r"<!--.*?-->", "", prose(page), flags=re.DOTALL)
    assert [] == re.findall(r"\n\n    (?![ -]).*", re.sub(r"(?m)^(?:[-*]|\d+\.) .*\n(?:(?:  .*)?\n)*", "", text))


@pytest.mark.parametrize("page", [page for page in pages() if blocks(page)], ids=named)
def test_files_have_no_prompts(page: Path) -> None:
    """A file that a reader writes is in a block that can be copied whole, and not behind a console's prompts."""
    consoles = [block for block in blocks(page) if block.language == "console"]
    assert [] == [command for block in consoles for command, _ in commands(block.text) if "<<" in command]


@pytest.mark.parametrize("page", pages(), ids=named)
def test_readers_wait_as_the_tests_do(page: Path) -> None:
    """What a command must wait for is waited for on the page: no hidden command does it, unless it waits for its own."""
    hidden = re.findall(r"<!-- prepare\n(.*?)-->", page.read_text(), re.DOTALL)
    assert [] == [commands for commands in hidden if "sleep" in commands and "&\n" not in commands]


def test_a_project_names_its_modules() -> None:
    """A project of a page names the modules of its plug-ins: beside the folders of a server no tool guesses them."""
    files = [tomllib.loads(block.text) for page in pages() for block in blocks(page) if block.title == "pyproject.toml"]
    projects = [file for file in files if "name" in file["project"]]
    assert projects
    for project in projects:
        plugins = project["project"]["entry-points"]["crishim.backends"].values()
        assert {plugin.partition(":")[0] for plugin in plugins} == set(project["tool"]["setuptools"]["py-modules"])


@pytest.mark.parametrize("page", pages(), ids=named)
def test_extras_that_are_named_exist(page: Path) -> None:
    """What `pip install 'crishim[...]'` asks for can be had."""
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {extra for extras in re.findall(r"crishim\[([\w,]+)\]", page.read_text()) for extra in extras.split(",")}
    assert set() == named - known.keys()


@pytest.mark.parametrize("page", [*pages(), *sorted((ROOT / "examples").rglob("*.md"))], ids=named)
def test_pip_has_an_environment(page: Path) -> None:
    """Pip runs in an environment that the page has created: Debian and Fedora refuse it elsewhere (PEP 668)."""
    created = False
    for line in page.read_text().splitlines():
        created = created or "-m venv" in line
        assert created or not re.match(r"\s*(\$ )?(pip|\S*/pip|python3? -m pip) install", line), line


def test_the_unit_runs_what_is_installed() -> None:
    """The installation of operating.md puts the program where the unit expects it; .ci/installed does the same."""
    steps = install_steps()
    assert "python3 -m venv /opt/crishim" == steps[0]
    linked = {name for step in steps if step.startswith("ln ") and step.endswith(" /usr/local/bin/") for name in step.split()}
    unit = (ROOT / "examples" / "crishim.service").read_text()
    (program,) = re.findall(r"^ExecStart=(\S+)", unit, re.MULTILINE)
    assert "/usr/local/bin" == str(Path(program).parent)
    assert {f"/opt/crishim/bin/{name}" for name in (Path(program).name, "containerd-shim-crishim-v2")} <= linked


def install_steps() -> list[str]:
    """The commands of operating.md that install crishim."""
    (block,) = [block for block in blocks(ROOT / "docs" / "operating.md") if "-m venv" in block.text]
    return block.text.splitlines()


@pytest.mark.parametrize("page", pages(), ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    """A link to a file of the repository finds it, and one to a headline of a page, too."""
    text = re.sub(r"`[^`\n]*`", "", prose(page))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        heads = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE) if anchor else []
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}, target


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=named)
def test_examples_can_be_had(page: Path) -> None:
    """A file of the examples is linked, so that the site has it, too: a reader may have the package without the repository."""
    assert [] == re.findall(r"(?<!\[)`examples/[\w/-]+\.\w+`", prose(page))


def test_a_console_is_commands_and_what_they_print() -> None:
    """Commands stand behind `$ `, go on behind `> `, and have their output under them."""
    assert [("a\nb", ""), ("c", "one\ntwo")] == commands("$ a\n> b\n$ c\none\ntwo\n")
    assert agrees("one ...\nthree", "one two\nthree\n")
    assert not agrees("one", "one two")
