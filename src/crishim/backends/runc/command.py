"""A runc-compatible command line: runc, crun, youki, runsc. How it is run, what its errors mean, and what its version supports.

Errors come in a log of the runtime's own (`--log FILE --log-format json`). `meaning` classifies them, by the few phrases that
the runtimes have for them.

`features` is what the runtime supports: by its subcommand of that name, or by its version where it has none. Recursive
read-only mounts came with runc 1.1 and crun 1.4, user namespaces that somebody else has made with runc 1.2 and crun 1.8, and
mounts with ids of their own in these with runc 1.2 and crun 1.9 (1.8 makes them inside, where it may not). crun has the
subcommand since 1.8.7, and reports id mappings in it since 1.9.
"""

import asyncio
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from crishim.errors import AlreadyExists, CreateRefused, CrishimError, FailedPrecondition, NotFound, Unknown
from crishim.linux.children import children, end_program
from crishim.linux.programs import find_program
from crishim.logs.stdio import ChildEnds
from crishim.model.features import OCI, Feature
from crishim.model.runtime import RuntimeHandlerFeatures
from crishim.monitor.conmon import runtime_message

Version = tuple[int, ...]

_RECURSIVE_READONLY: Final[dict[str, Version]] = {"runc": (1, 1), "crun": (1, 4)}
_USERNS: Final[dict[str, Version]] = {"runc": (1, 2), "crun": (1, 8)}
_IDMAP: Final[dict[str, Version]] = {"runc": (1, 2), "crun": (1, 9)}
_BUILT: Final = {"seccomp": Feature.SECCOMP, "apparmor": Feature.APPARMOR, "selinux": Feature.SELINUX}
_KERNEL_RECURSIVE_READONLY: Final = (5, 12)
_KERNEL_IDMAP: Final = (5, 19)
"""Overlayfs takes layers with ids of their own since then."""


@attrs.frozen(kw_only=True)
class Features:
    """What one runtime can do on one kernel."""

    recursive_readonly: bool = False
    userns: bool = False
    idmap: bool = False
    lacking: frozenset[Feature] = frozenset()
    """What it was built without: a runtime can be built without seccomp, and then takes no filter."""

    @property
    def supported(self) -> frozenset[Feature]:
        """The requested that can be kept with them."""
        kept = set(OCI - self.lacking)
        if self.recursive_readonly:
            kept.add(Feature.RECURSIVE_READONLY_MOUNTS)
        if self.userns or self.idmap:
            kept.add(Feature.USER_NAMESPACE)
        if self.idmap:
            kept.add(Feature.IDMAP_MOUNTS)
        return frozenset(kept)

    @property
    def advertised(self) -> RuntimeHandlerFeatures:
        """The same for Status, where user namespaces mean mounts with mapped ids too (CRI, RuntimeHandlerFeatures)."""
        return RuntimeHandlerFeatures(recursive_read_only_mounts=self.recursive_readonly, user_namespaces=self.idmap)


NEWEST: Final = Features(recursive_readonly=True, userns=True, idmap=True)
"""What a runtime and a kernel of today can do."""


def features(name: str, version: str, told: str, kernel: tuple[int, int]) -> Features:
    """`told` is the answer to `features`, empty where the runtime knows no such word."""
    number = version_of(version)
    readonly = _since(_RECURSIVE_READONLY, name, number)
    idmap = _since(_IDMAP, name, number)
    lacking: frozenset[Feature] = frozenset()
    try:
        answer = json.loads(told)
        readonly = "rro" in answer.get("mountOptions", ())
        lacking = frozenset(
            feature for word, feature in _BUILT.items() if not answer["linux"].get(word, {}).get("enabled", True)
        )
        idmap = bool(answer["linux"]["mountExtensions"]["idmap"]["enabled"])
    except (ValueError, KeyError, TypeError, AttributeError):
        pass  # it says nothing of it, and its version must do
    return Features(
        recursive_readonly=readonly and kernel >= _KERNEL_RECURSIVE_READONLY,
        userns=(idmap or _since(_USERNS, name, number)) and kernel >= _KERNEL_IDMAP,
        idmap=idmap and kernel >= _KERNEL_IDMAP,
        lacking=lacking,
    )


def version_of(text: str) -> Version:
    """`1.1.5+ds1` -> (1, 1, 5); empty for what begins with no number."""
    numbers = []
    for part in text.split("."):
        digits = "".join(part[: next((at for at, char in enumerate(part) if not char.isdigit()), len(part))])
        if not digits:
            break
        numbers.append(int(digits))
        if digits != part:
            break
    return tuple(numbers)


def _since(table: dict[str, Version], name: str, version: Version) -> bool:
    return name in table and version >= table[name]


_GONE = (
    "does not exist",
    "no such file or directory",
    "no such process",
    "not running",
    "invalid process",
    "already stopped",
    "connecting to control server",  # gVisor of a container whose sandbox has died
)
_TAKEN = ("already exists",)


def meaning(container_id: str, log: str, stderr: str, *, creating: bool = False) -> CrishimError:
    """The error behind a failed command, by `last_error`.

    What is not there when a container is created is something that the container wants.
    """
    message = last_error(log, stderr)
    low = message.lower()
    if any(phrase in low for phrase in _TAKEN):
        return AlreadyExists("container", container_id)
    if not creating and any(phrase in low for phrase in _GONE):
        return NotFound("container", container_id)
    return CreateRefused(message) if creating else Unknown(message)


def last_error(log: str, stderr: str) -> str:
    """What a failed command has said: its last logged error, else what it wrote."""
    message = ""
    for line in log.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("level") == "error":
            message = str(entry.get("msg", ""))
    return message or runtime_message(stderr) or "the runtime failed without a word"


class RuntimeCommand:
    """Runs the runtime's subcommands. `root` is the runtime's own state folder, `args` further global arguments."""

    def __init__(self, program: str, root: Path, *, systemd_cgroup: bool = False, args: Sequence[str] = ()) -> None:
        self.program = find_program(program) or program  # conmon wants a path
        self.name = Path(program).name
        self.systemd_cgroup = systemd_cgroup
        self.line = (self.program, f"--root={root}", *args)
        """What stands before every subcommand, but for the cgroup driver."""

    async def run(self, container_id: str, *args: str, stdin: bytes = b"") -> bytes:
        """Run a subcommand to its end and answer its output. Raises what `meaning` makes of a failure."""
        pipe = asyncio.subprocess.PIPE
        return await self._run(container_id, args, pipe if stdin else asyncio.subprocess.DEVNULL, pipe, pipe, stdin)

    async def start_detached(self, container_id: str, args: list[str], ends: ChildEnds | None) -> None:
        """Run a subcommand that leaves a process behind, which gets `ends` as its streams."""
        nothing = asyncio.subprocess.DEVNULL
        streams = (nothing, nothing, nothing) if ends is None else (ends.stdin, ends.stdout, ends.stderr)
        await self._run(container_id, args, *streams)

    async def _run(
        self, container_id: str, args: Sequence[str], stdin: int, stdout: int, stderr: int, sent: bytes = b""
    ) -> bytes:
        with tempfile.NamedTemporaryFile(prefix="runtime", suffix=".log") as log:
            try:
                process = await children.start(
                    *self.line,
                    *(("--systemd-cgroup",) if self.systemd_cgroup else ()),
                    f"--log={log.name}",
                    "--log-format=json",
                    *args,
                    stdin=stdin,
                    stdout=stdout,
                    stderr=stderr,
                )
            except FileNotFoundError as error:
                raise FailedPrecondition("missing", "installed", self.program) from error
            try:
                out, err = await process.communicate(sent or None)
            except asyncio.CancelledError:
                await end_program(process)
                raise
            if process.returncode:
                told = log.read().decode("utf-8", "replace")
                raise meaning(container_id, told, (err or b"").decode("utf-8", "replace"), creating=args[0] == "create")
            return out or b""

    async def json(self, container_id: str, *args: str) -> dict[str, Any]:
        """Run a subcommand that answers JSON."""
        out = await self.run(container_id, *args)
        try:
            told: dict[str, Any] = json.loads(out)
        except ValueError as error:
            raise Unknown(f"{self.program} {args[0]} answered {out[:200]!r}") from error
        return told

    async def features(self, kernel: tuple[int, int]) -> tuple[str, Features]:
        """The program's version, and what that can do on this kernel."""
        version, told = await asyncio.gather(self.version(), self._features())
        return version, features(self.name, version, told.decode("utf-8", "replace"), kernel)

    async def _features(self) -> bytes:
        try:
            return await self.run("", "features")
        except CrishimError:
            return b""  # older ones know no such word

    async def version(self) -> str:
        """The version that the program tells of itself."""
        out = await self.run("", "--version")
        return out.decode("utf-8", "replace").split("\n", 1)[0].rpartition("version ")[2].strip() or "0"
