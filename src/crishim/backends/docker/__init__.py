"""Pods on the Docker Engine, over its API: the engine's own images, and a pause container for each pod.

Options: see `options.Options`. A field that the engine does not support is refused by name; docs/docker.md has the whole
table.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from crishim.backends.docker.backend import DockerBackend
from crishim.backends.docker.convert import supported
from crishim.backends.docker.engine import Engine
from crishim.backends.docker.image_files import PROGRAM
from crishim.backends.docker.images import DockerImages
from crishim.backends.docker.options import EngineFacts, Options, read_options
from crishim.interfaces.backend import Backend, BackendContext
from crishim.interfaces.plugin import Plugin
from crishim.interfaces.seats import Finding, ImageService
from crishim.linux.programs import find_program

__all__ = ["DockerBackend", "DockerImages", "plugin"]


def build(context: BackendContext) -> Backend:
    """The backend. The engine need not be running yet. Raises `InvalidArgument` naming an option."""
    return DockerBackend(context, read_options(context.options))


def images(context: BackendContext) -> ImageService:
    """The engine's images."""
    options = read_options(context.options)
    return DockerImages(Engine(options.socket), context.clock, options)


def check(options: Mapping[str, Any]) -> Iterable[Finding]:
    """The checks of `crishim check`: the engine's socket, and the program for the pause image."""
    socket = Path(str(options.get("socket", Options().socket)))
    try:
        there = socket.is_socket()
    except OSError:
        there = False
    yield Finding(
        what="docker engine",
        ok=there,
        found=str(socket),
        without=f"no pod can run: {socket} is not a socket; the option `socket` names another",
        remedy="apt-get install docker.io",
    )
    if options.get("pause_image"):
        return
    program = find_program(PROGRAM)
    yield Finding(
        what=PROGRAM,
        ok=bool(program),
        found=program,
        without="no pause image can be built; the option `pause_image` must name an existing one",
        remedy="apt-get install catatonit",
    )


_PAUSE: Final = "the pause runs nothing of its own, with the engine's default profiles"
_POD: Final = "the sandbox's option applies to all of its containers"
_OWN: Final = "each container says whose processes it sees"
_NEWEST: Final = EngineFacts(cgroup_v2=True, apparmor=True, recursive_readonly=True)
_SANDBOX: Final = "PodSandboxConfig.linux.security_context"
_CONTAINER: Final = "ContainerConfig.linux.security_context"
_IGNORES: Final = {
    f"{_SANDBOX}.seccomp": _PAUSE,
    f"{_SANDBOX}.seccomp_profile_path": _PAUSE,
    f"{_SANDBOX}.apparmor": _PAUSE,
    f"{_SANDBOX}.supplemental_groups_policy": _PAUSE,
    f"{_SANDBOX}.readonly_rootfs": "the pause's root is read-only always",
    f"{_SANDBOX}.namespace_options.pid=TARGET": _OWN,
    f"{_SANDBOX}.namespace_options.target_id": _OWN,
    f"{_CONTAINER}.namespace_options.network": _POD,
    f"{_CONTAINER}.namespace_options.ipc": _POD,
}

plugin = Plugin(build=build, images=images, check=check, ignores=_IGNORES, supported=supported(_NEWEST), needs_node=True)
"""The plug-in `docker`."""
