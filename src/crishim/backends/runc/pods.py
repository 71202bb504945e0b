"""Pods over runc-compatible runtimes: building them from options, and checking what they need of a machine.

The package's docstring lists the options.
"""

import contextlib
import logging
import os
import resource
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import attrs

from crishim.backends.runc.checkpoints import CRIU, REMEDY, CheckpointedPods, CriuRuntime
from crishim.backends.runc.command import NEWEST, RuntimeCommand
from crishim.backends.runc.runsc import GvisorPods, RunscRuntime
from crishim.backends.runc.runtime import CONMON, KEEPER
from crishim.errors import CrishimError, InvalidArgument
from crishim.interfaces.backend import Backend, BackendContext
from crishim.interfaces.plugin import Plugin
from crishim.interfaces.seats import Finding
from crishim.linux.children import become_subreaper
from crishim.linux.programs import find_program
from crishim.model.runtime import CgroupDriver
from crishim.oci.facts import NEW_CAPABILITIES
from crishim.oci.ignores import ignores
from crishim.pods.host import host, may_raise_limits

_PROGRAMS: Final = (
    ("conmon", True, "no container can be created", "conmon"),
    ("catatonit", True, "no pod can share a process namespace among its containers", "catatonit"),
)
_SECCOMP: Final = "usr/share/containers/seccomp.json"


def findings(root: Path, runtime: str = "runc", monitor: str = CONMON) -> Iterator[Finding]:
    """One finding for each requirement of `runtime` itself. `root`: the root of the machine's file system."""
    for program, needed, without, package in ((runtime, True, "no container can be created", Path(runtime).name), *_PROGRAMS):
        if program == CONMON and monitor != CONMON:
            continue
        yield _program(program, without, package, needed=needed)
    if Path(runtime).name == "crun":
        yield _program("choom", "execs have the oom_score_adj of crishim", "util-linux", needed=False)
    criu = find_program(CRIU)
    yield Finding(
        what=CRIU,
        ok=bool(criu),
        needed=False,
        found=criu,
        without="no container can be checkpointed",
        remedy=REMEDY,
    )
    yield _file(root, _SECCOMP, "pods that ask for the RuntimeDefault seccomp profile are refused", needed=False)


def _program(name: str, without: str, package: str, *, needed: bool) -> Finding:
    path = find_program(name)
    remedy = f"apt-get install {package}"
    return Finding(what=name, ok=bool(path), needed=needed, found=path, without=without, remedy=remedy)


def _file(root: Path, name: str, without: str, *, needed: bool) -> Finding:
    there = os.access(root / name, os.R_OK)
    remedy = "apt-get install golang-github-containers-common"
    return Finding(what=f"/{name}", ok=there, needed=needed, found=f"/{name}" if there else "", without=without, remedy=remedy)


RLimit: TypeAlias = tuple[str, int, int]
"""(name of setrlimit(2), soft limit, hard limit)."""

_log = logging.getLogger(__name__)

_OPTIONS: Final = frozenset({"runtime", "runtime_args", "gvisor", "monitor", "ulimits"})
_ULIMITS: Final = (
    *("as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue"),
    *("nice", "nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack"),
)
"""The limits of setrlimit(2), without `RLIMIT_`."""


def build(context: BackendContext) -> Backend:
    """The backend. Makes this process a child subreaper, since the runtime leaves processes of execs to it.

    Raises `InvalidArgument` naming an unknown option.
    """
    if unknown := context.options.keys() - _OPTIONS:
        raise InvalidArgument(f"options.{min(unknown)}", f"is not known; known: {', '.join(sorted(_OPTIONS))}")
    program = str(context.options.get("runtime", "runc"))
    systemd = context.cgroup_driver is CgroupDriver.SYSTEMD
    root = context.runtime_state / "runtime"
    with contextlib.suppress(CrishimError):
        become_subreaper()
    monitor = _monitor(context.options)
    if monitor == KEEPER and context.keeper is None:
        raise InvalidArgument("options.monitor", "is keeper, and this program has none")
    gvisor = bool(context.options.get("gvisor", Path(program).name == "runsc"))
    args = [*(("--oci-seccomp",) if gvisor else ()), *map(str, context.options.get("runtime_args", ()))]
    command = RuntimeCommand(program, root, systemd_cgroup=systemd, args=args)
    limits = _rlimits(context.options.get("ulimits", {}))
    for name, hard in too_high(limits):
        _log.warning("ulimits.%s is lowered to %d, the limit of this process: raising it needs CAP_SYS_RESOURCE", name, hard)
    machine = host(systemd_cgroup=systemd, rlimits=clamped(limits))
    sockets = context.runtime_state / "s"
    if gvisor:
        if monitor != CONMON:
            raise InvalidArgument("options.monitor", "must be conmon for gVisor")
        # gVisor uses no module of the node's, and its versions before 2023 refuse capabilities that they do not know
        machine = attrs.evolve(machine, apparmor=False, selinux=False, bounding=machine.bounding - NEW_CAPABILITIES)
        return GvisorPods(RunscRuntime(command, sockets, machine), context, machine)
    return CheckpointedPods(CriuRuntime(command, sockets, machine, context.keeper, monitor=monitor), context, machine)


def _monitor(options: Mapping[str, Any]) -> str:
    monitor = str(options.get("monitor", CONMON))
    if monitor not in {CONMON, KEEPER}:
        raise InvalidArgument("options.monitor", f"must be {CONMON} or {KEEPER}")
    return monitor


def check(options: Mapping[str, Any]) -> Iterable[Finding]:
    """The requirements of pods with these options."""
    yield from findings(Path("/"), str(options.get("runtime", "runc")), _monitor(options))
    for name, hard in too_high(_rlimits(options.get("ulimits", {}))):
        yield Finding(
            what=f"ulimits.{name}",
            ok=False,
            needed=False,
            without=f"containers get {hard}, the limit of this process: raising it needs CAP_SYS_RESOURCE",
            remedy="raise Limit... in crishim's unit, or lower the option",
        )


plugin = Plugin(build=build, check=check, ignores=ignores, supported=NEWEST.supported, needs_node=True)
"""The plug-in `runc`."""


def too_high(limits: Iterable[RLimit]) -> Iterator[tuple[str, int]]:
    """Limits above the hard limits of this process, if it may not raise them: the option's name and this process's limit.

    setrlimit(2): a process without CAP_SYS_RESOURCE may not raise a hard limit, so the runtime would fail.
    """
    if may_raise_limits():
        return
    for name, _, hard in limits:
        own = resource.getrlimit(getattr(resource, name))[1] if hasattr(resource, name) else resource.RLIM_INFINITY
        if own != resource.RLIM_INFINITY and hard > own:
            yield name.removeprefix("RLIMIT_").lower(), own


def clamped(limits: tuple[RLimit, ...]) -> tuple[RLimit, ...]:
    """The limits, lowered to what this process may set."""
    most = {f"RLIMIT_{name.upper()}": hard for name, hard in too_high(limits)}
    return tuple((name, min(soft, most.get(name, soft)), min(hard, most.get(name, hard))) for name, soft, hard in limits)


def _rlimits(wanted: Any) -> tuple[RLimit, ...]:
    if not isinstance(wanted, Mapping):
        raise InvalidArgument("options.ulimits", "must be a table of limits by name")
    limits = []
    for name, value in wanted.items():
        pair = [value, value] if isinstance(value, int) else list(value) if isinstance(value, list | tuple) else []
        if name not in _ULIMITS:
            raise InvalidArgument(f"options.ulimits.{name}", f"is not known; known: {', '.join(sorted(_ULIMITS))}")
        if len(pair) != 2 or not all(isinstance(number, int) and number >= 0 for number in pair) or pair[0] > pair[1]:
            raise InvalidArgument(f"options.ulimits.{name}", "must be a number, or [soft, hard] with soft not above hard")
        limits.append((f"RLIMIT_{name.upper()}", pair[0], pair[1]))
    return tuple(limits)
