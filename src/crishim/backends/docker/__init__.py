"""Pods on the Docker Engine: its own API, its own images, a pause container for each pod.

Options: see `options.Options`. What the engine does not support is refused by name; docs/docker.md has the whole table.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from crishim.backends.docker.backend import DockerBackend
from crishim.backends.docker.engine import Engine
from crishim.backends.docker.image_files import PROGRAM
from crishim.backends.docker.images import DockerImages
from crishim.backends.docker.options import Options, read_options
from crishim.interfaces.backend import Backend, BackendContext
from crishim.interfaces.plugin import Plugin
from crishim.interfaces.seats import Finding, ImageService
from crishim.linux.programs import find_program

__all__ = ["DockerBackend", "DockerImages", "plugin"]


def build(context: BackendContext) -> Backend:
    """The backend. The engine need not be there yet. Raises `InvalidArgument` naming an option."""
    return DockerBackend(context, read_options(context.options))


def images(context: BackendContext) -> ImageService:
    """The engine's images."""
    options = read_options(context.options)
    return DockerImages(Engine(options.socket), context.clock, options)


def check(options: Mapping[str, Any]) -> Iterable[Finding]:
    """What the machine offers: the engine's socket, and the program of which the pause image is made."""
    socket = Path(str(options.get("socket", Options().socket)))
    try:
        there = socket.is_socket()
    except OSError:
        there = False
    yield Finding(
        what="docker engine",
        ok=there,
        found=str(socket),
        without=f"no pod can run: there is no socket {socket}, and no option `socket` that names another",
        remedy="apt-get install docker.io",
    )
    if options.get("pause_image"):
        return
    program = find_program(PROGRAM)
    yield Finding(
        what=PROGRAM,
        ok=bool(program),
        found=program,
        without="no pause image can be made; the option `pause_image` must name one that is there",
        remedy="apt-get install catatonit",
    )


plugin = Plugin(build=build, images=images, check=check, needs_node=True)
