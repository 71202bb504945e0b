"""Containers as plain child processes: no root, no daemon, no image, no isolation. For demonstrations, tests and development.

A container's program is searched on this machine, in the spec's own PATH, and runs as the current user with exactly the spec's
environment, in the spec's working directory if it exists here and else in `/`. The image's files, mounts, users and limits do
not exist; fields of a spec beyond `model.features.PROCESS` are refused by the service, unless the option `unsafe_ignore =
["linux.security_context.run_as_user", ...]` names them (`model.features.Feature` has the names). All pods share the machine's
network: a port forwarded to any of them is the machine's.

Every container and every exec has a session of its own. When the first process exits, or on SIGKILL, all processes in these
sessions and all their descendants are killed. A process that has both left the session and lost its parent is not found; its
end of the container's pipes is ignored after a second.

Containers are children of this process. `close` kills them all. After a crash they keep running, but their output is lost; a
later crishim of the same boot finds them in `runtime_state` by pid and start time, shows them as running, can kill them, and
reports an unknown exit status when they end. Only a container that was started at the moment of the crash, before its pid was
recorded, is not found. Exits that were seen are stored there, too. Containers that were only created are lost.

With the option `monitor = "keeper"` containers are children of the node's keeper instead. They go on however this process ends;
their output is in the log. A later crishim starts those that were only created, attaches to those that run, and reports every
exit status. Execs end.
"""

import os
from collections.abc import Iterable, Mapping
from typing import Any, Final

from crishim.backends.process.backend import ProcessBackend
from crishim.backends.process.ignores import ignores
from crishim.backends.process.images import HostImages
from crishim.errors import InvalidArgument
from crishim.interfaces.backend import Backend, BackendContext
from crishim.interfaces.plugin import Plugin
from crishim.interfaces.seats import Finding
from crishim.model.features import Feature

__all__ = ["HostImages", "ProcessBackend", "plugin"]

_KEEPER: Final = "keeper"
_OPTIONS: Final = frozenset({"monitor", "unsafe_ignore"})


def build(context: BackendContext) -> Backend:
    """The backend. Raises `InvalidArgument` naming an option that is unknown or invalid."""
    if unknown := context.options.keys() - _OPTIONS:
        raise InvalidArgument(f"options.{min(unknown)}", f"is not known; known: {', '.join(sorted(_OPTIONS))}")
    names = context.options.get("unsafe_ignore", ())
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise InvalidArgument("options.unsafe_ignore", "must be a list of strings")
    try:
        ignored = [Feature(name) for name in names]
    except ValueError as error:
        raise InvalidArgument("options.unsafe_ignore", f"{error}; known: {', '.join(sorted(Feature))}") from error
    monitor = context.options.get("monitor", "")
    if monitor not in {"", _KEEPER}:
        raise InvalidArgument("options.monitor", f"must be {_KEEPER} or empty")
    if monitor and context.keeper is None:
        raise InvalidArgument("options.monitor", f"is {_KEEPER}, and this program has none")
    return ProcessBackend(context, ignored, context.keeper if monitor else None)


def check(_: Mapping[str, Any]) -> Iterable[Finding]:
    """Warns that pods are processes of this user, which is not acceptable on a node, where the user is root."""
    root = os.geteuid() == 0
    yield Finding(
        what="isolation",
        ok=False,
        needed=root,
        without=f"pods are plain processes of {'root' if root else 'this user'} on this machine, with all its files",
        remedy="crishim config init writes a configuration with a container runtime",
    )


plugin = Plugin(
    build=build,
    images=HostImages,
    check=check,
    ignores=ignores,
    # a process cannot reap the children of another, and has no end of their pipes
    exam={"restores_exit_after_restart": False, "streams_survive_restart": False},
)
"""The plug-in `process`."""
