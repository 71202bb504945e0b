"""Common parts of the tests of shims: the stand-in as a program, worlds of pods, and observations."""

import sys
from collections.abc import Callable
from pathlib import Path

import attrs

from crishim.backends.kata import KataPods
from crishim.backends.kata import build as build_kata
from crishim.backends.kata.leftovers import KataBinary
from crishim.backends.shim import build as build_shim
from crishim.interfaces.backend import BackendContext
from crishim.keeper.client import KeeperClient
from crishim.linux.cgroups import Cgroups
from crishim.model.values import FrozenDict
from crishim.pods.namespaces import PinnedNamespaces
from crishim.pods.usage import MeasuredPods
from crishim.shimv2.client.runtime import ShimRuntime
from crishim.system import SystemClock
from crishim.testing.conformance.candidate import Candidate, World
from crishim.testing.roots import BusyboxRoots
from tests.shimv2.kata_shim import FOLDERS

STAND_IN = Path(__file__).with_name("kata_shim.py")


def stand_in(folder: Path) -> str:
    """The stand-in for kata's shim as a program; its leftovers on the host are in `folder`/host."""
    program = folder / "containerd-shim-kata-v2"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {STAND_IN} {folder}/host "$@"\n')
        program.chmod(0o755)
    return str(program)


def host_leftovers(folder: Path) -> list[str]:
    """What the stand-in has left on the host."""
    return [str(path.relative_to(folder)) for kind in FOLDERS for path in (folder / "host" / kind).glob("*")]


def shims_below(folder: Path) -> list[int]:
    """The pids of shims whose sandboxes lie below a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode(errors="replace")
            cwd = str((process / "cwd").readlink())
        except OSError:
            continue
        if "shim" in command and cwd.startswith(f"{folder}/"):
            found.append(int(process.name))
    return found


class ShimWorld(World):
    """Pods over shims, in folders below `folder`."""

    def __init__(
        self,
        folder: Path,
        pins: PinnedNamespaces,
        build: Callable[[BackendContext], MeasuredPods],
        keeper: KeeperClient | None = None,
    ) -> None:
        async def make(context: BackendContext) -> MeasuredPods:
            return build(context)

        async def close(backend: object) -> None:
            assert isinstance(backend, MeasuredPods)
            assert isinstance(backend._runtime, ShimRuntime)
            await backend._runtime.detach()

        context = BackendContext(
            state=folder / "state",
            runtime_state=folder / "r",
            clock=SystemClock(),
            rootfs=BusyboxRoots(folder / "roots"),
            namespaces=pins,
            keeper=keeper,
        )
        candidate = Candidate(make=make, close=close, context=context, scratch=folder / "scratch")
        super().__init__(candidate, build(context))
        self.folder = folder

    @property
    def pods(self) -> MeasuredPods:
        assert isinstance(self._own, MeasuredPods)
        return self._own

    @property
    def runtime(self) -> ShimRuntime:
        runtime = self.pods._runtime
        assert isinstance(runtime, ShimRuntime)
        return runtime

    def shims(self) -> list[int]:
        return shims_below(self.folder)


def kata(folder: Path) -> Callable[[BackendContext], KataPods]:
    """Makes pods over the stand-in."""

    def build(context: BackendContext) -> KataPods:
        pods = build_kata(attrs.evolve(context, options=FrozenDict({**context.options, "shim": stand_in(folder)})))
        assert isinstance(pods, KataPods)
        runtime = pods._runtime
        assert isinstance(runtime, ShimRuntime)
        cgroups = Cgroups(v2=True, root=folder / "host" / "cgroup")
        assert isinstance(runtime._binary, KataBinary)
        runtime._binary = attrs.evolve(runtime._binary, root=folder / "host", cgroups=cgroups)
        return pods

    return build


def runc_shim(context: BackendContext) -> MeasuredPods:
    """Pods over containerd's own shim."""
    pods = build_shim(context)
    assert isinstance(pods, MeasuredPods)
    return pods
