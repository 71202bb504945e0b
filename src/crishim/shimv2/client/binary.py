"""Finds and runs a shim's binary: its commands `start` and `delete`.

Both run in the bundle's folder. `start` leaves a process behind that serves the address it prints; `delete` ends and unmounts
what a dead shim has left, and prints the exit status of the task (containerd, runtime v2).
"""

import asyncio
import os
import re
import tempfile
from pathlib import Path
from typing import Final

import attrs
from google.protobuf.any_pb2 import Any

from crishim._proto import UNDECODABLE
from crishim._proto import shim_task_pb2 as task_pb
from crishim.errors import DeadlineExceeded, FailedPrecondition, Unknown
from crishim.interfaces.tracing import span
from crishim.linux.children import children, end_program
from crishim.linux.programs import find_program
from crishim.model.process import Exit
from crishim.shimv2.wire.messages import Bootstrap, bootstrap_params, exit_of, parse_bootstrap

__all__ = ["ShimBinary"]

_BOOTSTRAP_SINCE: Final = (2, 3)
_VERSION: Final = re.compile(rb"Version:\s*v?(\d+)\.(\d+)")
_RUNTIME: Final = re.compile(r"[\w.-]+\.([\w-]+)\.([\w-]+)")


def binary_name(runtime: str) -> str:
    """The program of a runtime name, `io.containerd.runc.v2` -> `containerd-shim-runc-v2`; the name of a program is returned
    unchanged.
    """
    match = _RUNTIME.fullmatch(runtime)
    return f"containerd-shim-{match[1]}-{match[2]}" if match and "/" not in runtime else runtime


def one_line(output: bytes) -> str:
    """A program's output with blanks instead of line ends."""
    return " ".join(output.decode("utf-8", "replace").split())


@attrs.frozen(kw_only=True)
class ShimBinary:
    """A shim's binary and how to run it.

    `program` is a path, or a name to search on PATH and then in `folders`. `namespace` is containerd's namespace of the tasks.
    `address` takes the place of containerd's socket; the shim derives its own address from it, the namespace and the id, so it
    must belong to this process alone. `events` is the socket of a ttrpc server that takes events, or empty. `bootstrap` tells
    whether `start` reads BootstrapParams; None finds out.

    `leaves_halves`: whether the shim aborts a Create whose caller disconnects, and leaves a partly created container that it
    does not know. Its `delete` is then run for such tasks.
    """

    program: str
    namespace: str
    address: str
    events: str = ""
    bootstrap: bool | None = None
    leaves_halves: bool = False
    folders: tuple[str, ...] = ()
    timeout: float = 60.0

    def path(self) -> str:
        """The program's path. Raises `FailedPrecondition` if it is missing."""
        path = find_program(self.program, self.folders)
        if not path:
            raise FailedPrecondition("missing", "installed", self.program)
        return path

    async def start(self, task_id: str, bundle: Path, options: Any | None = None) -> Bootstrap:
        """Start the shim of a task, or find the one that runs.

        `options` are the runtime's own. They are on stdin, as containerd sends them: as an extension of the BootstrapParams if
        the shim reads these, else alone. A shim with the Sandbox service has them from nowhere else.

        Raises `FailedPrecondition` if the binary is missing, `DeadlineExceeded`, and `Unknown` with the binary's output.
        """
        given = options.SerializeToString() if options is not None else b""
        if await self._reads_bootstrap():
            given = bootstrap_params(task_id, self.namespace, self.address, self.events, options)
        return parse_bootstrap(await self._run(bundle, given, "-id", task_id, "start"))

    async def delete(self, task_id: str, bundle: Path) -> Exit:
        """Free what a task of a dead shim has left. Raises as `start`."""
        out = await self._run(bundle, b"", "-id", task_id, "-bundle", str(bundle), "delete")
        try:
            response = task_pb.DeleteResponse.FromString(out)
        except UNDECODABLE as error:
            raise Unknown(f"{self.program} delete answered {out[:200]!r}") from error
        return exit_of(response.exit_status, response.exited_at)

    async def kill_helpers(self, sandbox_id: str) -> None:
        """Kill the processes that a dead shim ran for a sandbox beside its containers: a hypervisor, a file server."""

    async def remove_leftovers(self, sandbox_id: str) -> list[str] | None:  # noqa: ARG002 - for subclasses
        """Remove what a shim that has ended left of a sandbox on the node; return what could not be removed.

        None if it is unknown what such a shim may leave: then only its `delete` can tell. May raise `OSError`.
        """
        return None

    async def version(self, folder: Path) -> str:
        """The output of `-v` in one line: of most shims it contains the version of containerd's library."""
        return one_line(await self._run(folder, b"", "-v"))

    async def _reads_bootstrap(self) -> bool:
        """Whether `start` reads BootstrapParams: only containerd's own shim does, since 2.3; an older one fails on it, others
        ignore stdin.
        """
        if self.bootstrap is not None:
            return self.bootstrap
        if not Path(self.program).name.startswith("containerd-shim-runc-"):
            return False
        match = _VERSION.search(await self._run(Path("/"), b"", "-v"))
        return match is not None and (int(match[1]), int(match[2])) >= _BOOTSTRAP_SINCE

    async def _run(self, folder: Path, stdin: bytes, *args: str) -> bytes:
        """Run the binary with the usual flags. Raises as `start`."""
        common = ("-namespace", self.namespace, "-address", self.address, "-publish-binary", "")
        return await self._run_bare(folder, stdin, *common, *args)

    async def _run_bare(self, folder: Path, stdin: bytes, *args: str) -> bytes:
        """Run the binary to its end. The outputs are files: the process that it leaves behind may keep a pipe open."""
        program = self.path()
        environment = {
            **os.environ,
            "GOMAXPROCS": "2",
            "MAX_SHIM_VERSION": "2",
            "TTRPC_ADDRESS": self.events,
            "GRPC_ADDRESS": self.address,
            "NAMESPACE": self.namespace,
        }
        name = Path(program).name
        attributes = {"process.executable.name": name, "process.executable.path": str(program)}
        with (
            span(f"{name} {args[-1]}", attributes),
            tempfile.TemporaryFile() as out,
            tempfile.TemporaryFile() as err,
            tempfile.TemporaryFile() as given,
        ):
            given.write(stdin)
            given.seek(0)
            process = await children.start(program, *args, cwd=folder, env=environment, stdin=given, stdout=out, stderr=err)
            try:
                async with asyncio.timeout(self.timeout):
                    code = await process.wait()
            except BaseException as error:
                await end_program(process)
                if isinstance(error, TimeoutError):
                    raise DeadlineExceeded(f"{self.program} {args[-1]} took longer than {self.timeout:g} s") from error
                raise
            out.seek(0)
            err.seek(0)
            said, complained = out.read(), err.read().decode("utf-8", "replace").strip()
            if code:
                raise Unknown(f"{self.program} {args[-1]}: {complained[-1000:] or said[-1000:]!r}")
        return said
