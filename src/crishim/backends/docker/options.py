"""The options of this backend in `crishim.toml`, and the facts of an engine (pure)."""

import re
from collections.abc import Mapping
from typing import Any, Final

import attrs

from crishim.errors import InvalidArgument

CNI: Final = "cni"

_SIZE: Final = re.compile(r"\d+[kmg]")
_UNITS: Final = {"k": 10, "m": 20, "g": 30}


@attrs.frozen(kw_only=True)
class Options:
    """The options of one docker backend.

    `network` is `cni` (this node's CNI plugins connect the pods) or the name of a network of the engine, for instance
    `bridge`. `runtime` names one of the engine's runtimes; empty for its default. `pause_image` replaces the one that is built
    from catatonit. `log_size` and `log_files` limit the engine's own copy of each container's output. A pull for which the
    engine reports no progress for `pull_stall` seconds is cancelled.
    """

    socket: str = "/run/docker.sock"
    network: str = CNI
    runtime: str = ""
    pause_image: str = ""
    log_size: str = "16m"
    log_files: int = 3
    pull_stall: int = 300

    @property
    def log_bytes(self) -> int:
        """The size of one file of the engine's copy."""
        return int(self.log_size[:-1]) << _UNITS[self.log_size[-1]]

    @property
    def cni(self) -> bool:
        """Whether the node's CNI plugins connect the pods."""
        return self.network == CNI


def read_options(given: Mapping[str, Any]) -> Options:
    """Parse the options. Raises `InvalidArgument` naming an unknown or invalid one."""
    kinds = {field.name: type(field.default) for field in attrs.fields(Options)}
    for name, value in given.items():
        if name not in kinds:
            raise InvalidArgument(f"options.{name}", f"is not known; known: {', '.join(sorted(kinds))}")
        if type(value) is not kinds[name]:
            raise InvalidArgument(f"options.{name}", f"must be of type {kinds[name].__name__}")
    options = Options(**given)
    if not _SIZE.fullmatch(options.log_size):
        raise InvalidArgument("options.log_size", "must be a number and k, m or g")
    for name in ("log_files", "pull_stall"):
        if getattr(options, name) < 1:
            raise InvalidArgument(f"options.{name}", "must be at least 1")
    if not options.network:
        raise InvalidArgument("options.network", f"must be {CNI!r} or the name of a network of the engine")
    return options


OLDEST: Final = (1, 41)
NEWEST: Final = (1, 51)
"""The supported versions of the API: Debian 12's engine has the first."""


@attrs.frozen(kw_only=True)
class EngineFacts:
    """The facts of an engine: GET /version and /info."""

    version: str = ""
    api: tuple[int, int] = OLDEST
    systemd_cgroup: bool = False
    cgroup_v2: bool = False
    apparmor: bool = False
    selinux: bool = False
    recursive_readonly: bool = False
    runtimes: frozenset[str] = frozenset()
    root: str = ""
