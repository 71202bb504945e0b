"""A runc-compatible command line: runc, crun, youki, runsc.

Errors are told in a log of the runtime's own (`--log FILE --log-format json`); what it means is decided in one function here,
by the few phrases that the runtimes have for it.
"""

import asyncio
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crishim.backends.runc.features import Features, features
from crishim.errors import AlreadyExists, CrishimError, FailedPrecondition, NotFound, Unknown
from crishim.linux.children import children
from crishim.logs.stdio import ChildEnds

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
    """The error behind a failed command: its last logged error, else what it wrote.

    What is not there when a container is created is something that the container wants.
    """
    message = ""
    for line in log.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry.get("level") == "error":
            message = str(entry.get("msg", ""))
    message = message or stderr.strip() or "the runtime failed without a word"
    low = message.lower()
    if any(phrase in low for phrase in _TAKEN):
        return AlreadyExists("container", container_id)
    if not creating and any(phrase in low for phrase in _GONE):
        return NotFound("container", container_id)
    return Unknown(message)


class RuntimeCommand:
    """Runs the runtime's subcommands. `root` is the runtime's own state folder, `args` further global arguments."""

    def __init__(self, program: str, root: Path, *, systemd_cgroup: bool = False, args: Sequence[str] = ()) -> None:
        self.program = shutil.which(program) or program  # conmon wants a path
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
                process.kill()
                await process.wait()
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
