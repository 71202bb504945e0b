"""Containers as plain child processes: no root, no daemon, no image, no isolation. For demonstrations, tests and development.

What a container is here. Its program is looked for on this machine, in the spec's own PATH, and runs as our own user with
the spec's environment, exactly, in the spec's folder if this machine has it and else in `/`. The image's files, mounts, users
and limits are not there; what a spec asks for beyond `model.supported.PROCESS` is refused by the service, unless the option
`unsafe_ignore = ["linux.security_context.run_as_user", ...]` names it (`model.supported.Feature` has the names). All pods share
the machine's network: a port forwarded to any of them is the machine's.

Every container and every exec is a session of its own. When the first process ends, or on SIGKILL, everything in these
sessions and everything that still descends from them is killed. What has both left the session and lost its parent by then is
out of reach; its hold on the container's pipes is cut after a second.

Restarts. Containers are children of this process. `close` kills them all. After a crash they go on, but what they write has
nowhere to go; a later crishim of the same boot finds them in `runtime_state` by pid and start time, shows them running, can
kill them, and tells an unknown exit when they end. Only what was started in the very moment of the crash, between its start
and the writing of its number, stays unknown. Exits that were seen are kept there, too. Containers that were only created are
gone.
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

_OPTIONS: Final = frozenset({"unsafe_ignore"})


def build(context: BackendContext) -> Backend:
    """The backend. Raises `InvalidArgument` naming an option that it does not know or cannot read."""
    if unknown := context.options.keys() - _OPTIONS:
        raise InvalidArgument(f"options.{min(unknown)}", f"is not known; known: {', '.join(sorted(_OPTIONS))}")
    names = context.options.get("unsafe_ignore", ())
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise InvalidArgument("options.unsafe_ignore", "must be a list of texts")
    try:
        ignored = [Feature(name) for name in names]
    except ValueError as error:
        raise InvalidArgument("options.unsafe_ignore", f"{error}; known: {', '.join(sorted(Feature))}") from error
    return ProcessBackend(context, ignored)


def check(_: Mapping[str, Any]) -> Iterable[Finding]:
    """That pods are processes of this user, which a node of root's must not be."""
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
    exam={"restores_exit_after_restart": False},  # nobody can collect a child that is not theirs
)
