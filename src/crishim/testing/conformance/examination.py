"""The exam of one backend: how it is built, the programs, what it is known not to fulfil, and the running of a check."""

import functools
import inspect
import os
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs

from crishim.interfaces.backend import Backend, BackendContext
from crishim.interfaces.plugin import Plugin
from crishim.keeper.client import KeeperClient
from crishim.model.values import EMPTY, FrozenDict
from crishim.oci.facts import Host
from crishim.pods.host import host
from crishim.pods.namespaces import PinnedNamespaces
from crishim.system import SystemClock
from crishim.testing.conformance.candidate import LIMIT, Candidate
from crishim.testing.conformance.checks import not_claimed
from crishim.testing.conformance.examine import Check, Grade, Restart, Result, examine
from crishim.testing.conformance.programs import LeftOut, Programs
from crishim.testing.roots import BusyboxRoots

__all__ = ["Examination"]


class Examination:
    """The construction of a backend; the attributes are its programs and known weaknesses.

    With `needs_node` the exam makes namespaces and root file systems of a busybox for the backend, as crishim does for such a
    plug-in; `in_memory`, `ignores` and `limit` are as of `Candidate`. `node` is the machine that the containers run on;
    None for this one.
    """

    programs: ClassVar[Programs] = Programs()
    options: ClassVar[dict[str, Any]] = {}
    host_network: ClassVar[bool] = False
    survives_restart: ClassVar[bool] = True
    restores_exit_after_restart: ClassVar[bool] = True
    streams_survive_restart: ClassVar[bool] = True
    writable_root: ClassVar[bool] = True
    in_memory: ClassVar[bool] = False
    needs_node: ClassVar[bool] = False
    ignores: ClassVar[Mapping[str, str]] = EMPTY
    limit: ClassVar[float] = LIMIT
    node: ClassVar[Host | None] = None

    async def make_backend(self, context: BackendContext) -> Backend:
        """The backend under test. Called again with the same context for a restart."""
        raise NotImplementedError

    async def close_backend(self, backend: Backend) -> None:
        """Close a backend's connections without ending its containers.

        Called before a restart in this process; at the end of a check only for a backend without `SupportsClose`.
        """

    def candidate(self, folder: Path) -> Candidate:
        """The candidate, with folders of its own below `folder`."""
        context = BackendContext(
            state=_folder(folder / "state"),
            runtime_state=_folder(folder / "run"),
            options=FrozenDict(self.options),
            clock=SystemClock(),
            keeper=KeeperClient(folder / "run" / "keeper"),
        )
        release: Callable[[], None] = _nothing
        if self.needs_node:
            if os.geteuid() != 0:
                raise LeftOut("namespaces and root file systems of pods need root")
            pins = PinnedNamespaces(folder / "pins")
            context = attrs.evolve(context, rootfs=BusyboxRoots(_folder(folder / "roots")), namespaces=pins)
            release = pins.close
        return Candidate(
            make=self.make_backend,
            close=self.close_backend,
            context=context,
            scratch=_folder(folder / "scratch"),
            programs=self.programs,
            host_network=self.host_network,
            survives_restart=self.survives_restart,
            restores_exit=self.restores_exit_after_restart,
            streams_survive=self.streams_survive_restart,
            writable_root=self.writable_root,
            in_memory=self.in_memory,
            ignores=self.ignores,
            limit=self.limit,
            node=self.node or host(),
            release=release,
        )

    def examine(self, check: Check | Restart, candidate: Candidate) -> Result:
        """Run one check on the candidate. Raises what the check raises."""
        return examine(check, candidate, functools.partial(not_claimed, check))

    def grade(self, check: Check | Restart) -> Result:
        """Run one check in a folder of its own. Raises what the check raises."""
        with tempfile.TemporaryDirectory(prefix="exam") as folder:
            Path(folder).chmod(0o711)  # so that the users of a user namespace reach their roots
            try:
                candidate = self.candidate(Path(folder))
            except LeftOut as reason:
                return Result(Grade.LEFT_OUT, str(reason))
            return self.examine(check, candidate)


ATTRIBUTES = frozenset(Examination.__annotations__)
"""What `Plugin.exam` may set."""


def attributes_of(plugin: Plugin) -> dict[str, Any]:
    """The attributes and methods of an `Examination` of a plug-in. Raises `TypeError` for one in `Plugin.exam` that it does
    not have.
    """
    if unknown := [name for name in plugin.exam if name not in ATTRIBUTES]:
        raise TypeError(f"{min(unknown)} is not an attribute of BackendConformance; known: {', '.join(sorted(ATTRIBUTES))}")

    async def make_backend(_self: Examination, context: BackendContext) -> Backend:
        built: Backend | Awaitable[Backend] = plugin.build(context)
        return await built if inspect.isawaitable(built) else built

    ignores = EMPTY if plugin.ignores is None else plugin.ignores
    return {"needs_node": plugin.needs_node, "ignores": ignores, **plugin.exam, "make_backend": make_backend}


def _nothing() -> None:
    pass


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path
