"""Pages as programs: every block of code on a page is run, parsed or written to the file that it names, in the page's order.

A block's language says what becomes of it:

- `console`: lines behind `$ ` are commands, the others what they print, where `...` stands for anything;
- `sh`: a command or several;
- `python`: a program, or with `title="name"` a piece of that file;
- `toml`, `yaml`, `json`, `dockerfile`: with a title a file; parsed;
- `text`: words and drawings, no code.

Comments that no reader sees steer it. `<!-- not run: REASON -->` before a block names a reason of `REASONS`; `<!-- needs: root
crictl -->` at a page's head names what its commands need; `<!-- prepare` begins commands for the test alone. A page that needs
root has file systems of its own over /etc, /run and /var/lib, so that its commands may be those of a real node.
"""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import tomllib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs
import yaml

from crishim.linux.programs import find_program

ROOT: Final = Path(__file__).parents[2]
REASONS: Final = {
    "installs": "it changes this machine's Python or packages; the extras and packages that it names are checked instead",
    "kubelet": "there is no kubelet here",
    "control plane": "there is no cluster here",
    "systemd": "there is no systemd here",
    "containerd": "containerd is another node's runtime",
    "online": "it needs a registry that is not on this machine",
    "docker": "it needs images of a docker engine: tests/images/test_loading.py loads such ones",
    "fragment": "its names come from the reader's program; the page it links to runs the whole",
    "suite": "it needs critest, and minutes: tests/cli/test_critest.py runs the command",
    "make": "it is run by .ci/run, or is this test itself",
}
"""Why a block cannot run."""

TOOLS: Final = {
    "root": "run the tests as root",
    "crictl": "docs/how-to/debug.md says how to get it",
    "runc": "apt-get install runc",
    "containerd": "apt-get install containerd",
    "ctr": "apt-get install containerd",
    "conmon": "apt-get install conmon",
    "skopeo": "apt-get install skopeo",
    "docker-registry": "apt-get install docker-registry",
    "busybox": "apt-get install busybox-static",
    "/usr/lib/cni": "apt-get install containernetworking-plugins",
}
"""What pages need, and how to get it."""

_TIMEOUT: Final = 60.0
"""Seconds after which a command hangs."""

_FENCE: Final = re.compile(r"^( *)```(\w*)(?: title=\"([^\"]+)\")?[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_STEERED: Final = re.compile(r"<!-- (?:not run: (?P<reason>[\w ]+)|prepare\n(?P<prepare>.*?)) ?-->", re.DOTALL)
_PRIVATE: Final = """
mount -t tmpfs private {place} && mkdir {place}/upper {place}/work &&
mount -t overlay private -o lowerdir=/etc,upperdir={place}/upper,workdir={place}/work /etc &&
mount -t tmpfs private /run && mount -t tmpfs private /var/lib && exec bash --norc
"""


@attrs.frozen(kw_only=True)
class Block:
    """A block of code; `reason` says why it is not run, and is empty for those that are."""

    line: int
    language: str
    title: str
    text: str
    reason: str = ""


def pages() -> list[Path]:
    """Everything that people read and copy from."""
    return sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, commands for the test alone among them."""
    text = page.read_text()
    found = [
        (
            match.start(),
            Block(
                line=text.count("\n", 0, match.start()) + 1,
                language=match[2],
                title=match[3] or "",
                text=re.sub(rf"^{match[1]}", "", match[4], flags=re.MULTILINE),
                reason=_reason_before(text, match.start()),
            ),
        )
        for match in _FENCE.finditer(text)
    ]
    for match in _STEERED.finditer(text):
        if match["prepare"]:
            line = text.count("\n", 0, match.start()) + 1
            found.append((match.start(), Block(line=line, language="sh", title="", text=match["prepare"])))
    return [block for _, block in sorted(found, key=lambda each: each[0])]


def prose(page: Path) -> str:
    """The page without its blocks."""
    return _FENCE.sub("", page.read_text())


def needs(page: Path) -> tuple[str, ...]:
    """What the page's commands need."""
    match = re.search(r"<!-- needs: (.*?) -->", page.read_text())
    return tuple(match[1].split()) if match else ()


def missing(page: Path) -> tuple[str, ...]:
    """What of it is not here."""
    return tuple(each for each in needs(page) if not _there(each))


def commands(text: str) -> list[tuple[str, str]]:
    """The commands of a console, each with what it prints."""
    found: list[tuple[list[str], list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append(([line[2:]], []))
        elif (line == ">" or line.startswith("> ")) and not found[-1][1]:
            found[-1][0].append(line[2:])
        else:
            found[-1][1].append(line)
    return [("\n".join(command), "\n".join(printed)) for command, printed in found]


def agrees(expected: str, printed: str) -> bool:
    """Whether it was printed; `...` stands for anything."""
    pattern = ".*?".join(re.escape(piece) for piece in expected.strip().split("..."))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


class Session:
    """A shell in a folder. What a page's commands leave running is ended with it."""

    def __init__(self, folder: Path, *, private: bool = False) -> None:
        self._folder = folder
        self._pieces: set[str] = set()
        program = ["bash", "--norc"]
        if private:
            (folder / ".private").mkdir()
            script = _PRIVATE.format(place=shlex.quote(str(folder / ".private")))
            program = ["unshare", "--mount", "bash", "-c", script]
        variables = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        environment = {
            **variables,
            "HOME": str(folder),
            "TERM": "dumb",
            "COLUMNS": "120",
            "ROOT": str(ROOT),
            "PWD": str(folder),
        }
        environment["PATH"] = f"{Path(sys.executable).parent}:{variables.get('PATH', '')}"
        self._shell = subprocess.Popen(
            program,
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, command: str) -> tuple[int, str]:
        """A command's exit status and what it printed."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        mark = f"done-{uuid.uuid4().hex}"
        self._shell.stdin.write(f"{{ {command}\n}} </dev/null\necho {mark} $?\n")
        self._shell.stdin.flush()
        printed = ""
        watchdog = threading.Timer(_TIMEOUT, self._kill)
        watchdog.start()
        try:
            for line in self._shell.stdout:
                before, found, status = line.partition(mark)
                printed += before
                if found:
                    return int(status), printed
        finally:
            watchdog.cancel()
        raise AssertionError(f"{command}\nthe shell ended, or was ended after {_TIMEOUT} s: {printed}")

    def _look(self, command: str, expected: str) -> tuple[int, str]:
        """Run a command. A reader who is faster than a container's output looks for it again, and so does this for a while."""
        status, printed = self.run(command)
        for _ in range(50):
            if agrees(expected, printed) or not command.startswith("crictl logs "):
                break
            time.sleep(0.2)
            status, printed = self.run(command)
        return status, printed

    def play(self, block: Block) -> None:
        """Run, write or parse a block. Raises `AssertionError` for what does not hold."""
        match block.language:
            case "console":
                for command, expected in commands(block.text):
                    status, printed = self._look(command, expected)
                    assert agrees(expected, printed), f"$ {command}\n{printed}"
                    assert expected or status == 0, f"$ {command}\nended with {status}"
            case "sh":
                status, printed = self.run(f"( set -e\n{block.text}\n)" if "&\n" not in block.text else block.text)
                assert status == 0, f"{block.text}\n{printed}"
            case "python" if not block.title:
                (self._folder / "block.py").write_text(block.text)
                status, printed = self.run("python -W error block.py")
                assert status == 0, printed
            case _:
                self._write(block)

    def close(self) -> None:
        """End the shell and what it started, daemons in its own file systems among them."""
        namespace = _mounts_of(self._shell.pid)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._shell.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._shell.communicate(timeout=10)
        self._kill()
        self._shell.communicate()
        if namespace != _mounts_of(os.getpid()):
            for pid in [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]:
                if namespace and namespace == _mounts_of(pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._shell.pid, signal.SIGKILL)

    def _write(self, block: Block) -> None:
        if block.title:
            path = self._folder / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text((path.read_text() if block.title in self._pieces else "") + block.text)
            self._pieces.add(block.title)
        match block.language:
            case "toml":
                tomllib.loads(block.text)
            case "yaml":
                list(yaml.safe_load_all(block.text))
            case "json":
                json.loads(block.text)
            case "python" | "text" | "dockerfile" | "ini":
                pass
            case language:
                raise AssertionError(f"no way to run {language or 'a block without a language'}")


@contextlib.contextmanager
def session(folder: Path, page: Path) -> Iterator[Session]:
    """A shell for a page's commands."""
    opened = Session(folder, private="root" in needs(page))
    try:
        yield opened
    finally:
        opened.close()


def _reason_before(text: str, position: int) -> str:
    match = re.search(r"<!-- not run: ([\w ]+) -->\s*\Z", text[:position])
    return match[1] if match else ""


def _mounts_of(pid: int) -> str:
    """The mount namespace of a process; empty for one that is gone."""
    try:
        return str(Path(f"/proc/{pid}/ns/mnt").readlink())
    except OSError:
        return ""


def _there(tool: str) -> bool:
    if tool == "root":
        return os.geteuid() == 0
    return os.path.exists(tool) if tool.startswith("/") else bool(find_program(tool))  # noqa: PTH110 - what may not be looked at
