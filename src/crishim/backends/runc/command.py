"""A runc-compatible command line (runc, crun, youki, runsc): running it, interpreting its errors, and its features.

Errors are read from a log of the runtime (`--log FILE --log-format json`). `meaning` classifies them by phrases of the
runtimes.

`features` has what the runtime supports: by its `features` subcommand, or by its version if it has none. Recursive read-only
mounts need runc 1.1 or crun 1.4, joining existing user namespaces runc 1.2 or crun 1.8, and id-mapped mounts in these runc 1.2
or crun 1.9 (1.8 creates them inside the namespace, which is not permitted). crun has the subcommand since 1.8.7, and reports id
mappings in it since 1.9.
"""

import asyncio
import json
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

import attrs

from crishim.errors import AlreadyExists, CreateRefused, CrishimError, FailedPrecondition, NotFound, Unknown
from crishim.interfaces.tracing import Span, span
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
"""The version of Linux since which overlayfs takes id-mapped layers."""


@attrs.frozen(kw_only=True)
class Features:
    """The features of one runtime on one kernel."""

    recursive_readonly: bool = False
    userns: bool = False
    idmap: bool = False
    lacking: frozenset[Feature] = frozenset()
    """Features that are missing from the build: a runtime built without seccomp accepts no filter."""

    @property
    def supported(self) -> frozenset[Feature]:
        """The features that pods over this runtime support."""
        supported = set(OCI - self.lacking)
        if self.recursive_readonly:
            supported.add(Feature.RECURSIVE_READONLY_MOUNTS)
        if self.userns or self.idmap:
            supported.add(Feature.USER_NAMESPACE)
        if self.idmap:
            supported.add(Feature.IDMAP_MOUNTS)
        return frozenset(supported)

    @property
    def advertised(self) -> RuntimeHandlerFeatures:
        """The features for Status, where user namespaces include id-mapped mounts (CRI, RuntimeHandlerFeatures)."""
        return RuntimeHandlerFeatures(recursive_read_only_mounts=self.recursive_readonly, user_namespaces=self.idmap)


NEWEST: Final = Features(recursive_readonly=True, userns=True, idmap=True)
"""The features of a current runtime on a current kernel."""


def features(name: str, version: str, output: str, kernel: tuple[int, int]) -> Features:
    """Parse the features. `output` is the output of `features`, empty if the runtime has no such subcommand."""
    number = version_of(version)
    readonly = _since(_RECURSIVE_READONLY, name, number)
    idmap = _since(_IDMAP, name, number)
    lacking: frozenset[Feature] = frozenset()
    try:
        answer = json.loads(output)
        readonly = "rro" in answer.get("mountOptions", ())
        lacking = frozenset(
            feature for word, feature in _BUILT.items() if not answer["linux"].get(word, {}).get("enabled", True)
        )
        idmap = bool(answer["linux"]["mountExtensions"]["idmap"]["enabled"])
    except (ValueError, KeyError, TypeError, AttributeError):
        pass  # not in the output; the version decides
    return Features(
        recursive_readonly=readonly and kernel >= _KERNEL_RECURSIVE_READONLY,
        userns=(idmap or _since(_USERNS, name, number)) and kernel >= _KERNEL_IDMAP,
        idmap=idmap and kernel >= _KERNEL_IDMAP,
        lacking=lacking,
    )


def version_of(text: str) -> Version:
    """`1.1.5+ds1` -> (1, 1, 5); empty if the text does not begin with a number."""
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
    "connecting to control server",  # gVisor, for a container whose sandbox has died
)
_TAKEN = ("already exists",)


def meaning(container_id: str, log: str, stderr: str, *, creating: bool = False) -> CrishimError:
    """The error of a failed command, from `last_error`.

    While a container is created, "not found" is about something that the container refers to.
    """
    message = last_error(log, stderr)
    low = message.lower()
    if any(phrase in low for phrase in _TAKEN):
        return AlreadyExists("container", container_id)
    if not creating and any(phrase in low for phrase in _GONE):
        return NotFound("container", container_id)
    return CreateRefused(message) if creating else Unknown(message)


def last_error(log: str, stderr: str) -> str:
    """The error message of a failed command: its last logged error, else its stderr."""
    message = ""
    for line in log.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("level") == "error":
            message = str(entry.get("msg", ""))
    return message or runtime_message(stderr) or "the runtime failed without a message"


class RuntimeCommand:
    """Runs the runtime's subcommands. `root`: the runtime's state folder; `args`: further global arguments."""

    def __init__(self, program: str, root: Path, *, systemd_cgroup: bool = False, args: Sequence[str] = ()) -> None:
        self.program = find_program(program) or program  # conmon requires a path
        self.name = Path(program).name
        self.systemd_cgroup = systemd_cgroup
        self.line = (self.program, f"--root={root}", *args)
        """The arguments before every subcommand, without the cgroup driver."""

    def span(self, subcommand: str, container_id: str) -> AbstractContextManager[Span | None]:
        """A span around a subcommand."""
        attributes = {"process.executable.name": self.name, "process.executable.path": self.program}
        return span(f"{self.name} {subcommand}", attributes | ({"container.id": container_id} if container_id else {}))

    async def run(self, container_id: str, *args: str, stdin: bytes = b"", group: bool = False) -> bytes:
        """Run a subcommand and return its output. Raises the error that `meaning` gives for a failure.

        A cancelled one is killed, with `group` together with the programs that it has started.
        """
        pipe = asyncio.subprocess.PIPE
        ends = (pipe if stdin else asyncio.subprocess.DEVNULL, pipe, pipe)
        return await self._run(container_id, args, *ends, sent=stdin, group=group)

    async def start_detached(
        self, container_id: str, args: list[str], ends: ChildEnds | None, *, oom_score_adj: int | None = None
    ) -> None:
        """Run a subcommand that leaves a process running, with `ends` as the streams of that process.

        `oom_score_adj` is that of an exec. crun sets it for a container's first process alone, so it is begun with it here.
        """
        nothing = asyncio.subprocess.DEVNULL
        streams = (nothing, nothing, nothing) if ends is None else (ends.stdin, ends.stdout, ends.stderr)
        choom = find_program("choom") if oom_score_adj is not None and self.name == "crun" else ""
        await self._run(container_id, args, *streams, before=(choom, "-n", str(oom_score_adj), "--") if choom else ())

    async def _run(
        self,
        container_id: str,
        args: Sequence[str],
        stdin: int,
        stdout: int,
        stderr: int,
        *,
        sent: bytes = b"",
        group: bool = False,
        before: tuple[str, ...] = (),
    ) -> bytes:
        with self.span(args[0], container_id), tempfile.NamedTemporaryFile(prefix="runtime", suffix=".log") as log:
            try:
                process = await children.start(
                    *before,
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
                await end_program(process, group=group)
                raise
            if process.returncode:
                logged = log.read().decode("utf-8", "replace")
                raise meaning(container_id, logged, (err or b"").decode("utf-8", "replace"), creating=args[0] == "create")
            return out or b""

    async def json(self, container_id: str, *args: str) -> dict[str, Any]:
        """Run a subcommand with JSON output, and return it parsed."""
        out = await self.run(container_id, *args)
        try:
            parsed: dict[str, Any] = json.loads(out)
        except ValueError as error:
            raise Unknown(f"{self.program} {args[0]} printed {out[:200]!r}, which is not JSON") from error
        return parsed

    async def features(self, kernel: tuple[int, int]) -> tuple[str, Features]:
        """The program's version, and its features on this kernel."""
        version, output = await asyncio.gather(self.version(), self.own_features())
        return version, features(self.name, version, output.decode("utf-8", "replace"), kernel)

    async def own_features(self) -> bytes:
        """The program's features, as the JSON of the runtime specification; empty if it has no such subcommand."""
        try:
            return await self.run("", "features")
        except CrishimError:
            return b""

    async def version(self) -> str:
        """The version that the program prints."""
        out = await self.run("", "--version")
        return out.decode("utf-8", "replace").split("\n", 1)[0].rpartition("version ")[2].strip() or "0"
