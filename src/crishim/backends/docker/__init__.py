"""Pods on the Docker Engine: its own API, its own images, a pause container for each pod.

Options: see `options.Options`. What the engine does not support is refused by name; docs/docker.md has the whole table.
"""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from crishim.backends.docker.backend import DockerBackend
from crishim.backends.docker.engine import Engine, Options, read_options
from crishim.backends.docker.image_files import PROGRAM
from crishim.backends.docker.images import DockerImages
from crishim.interfaces.backend import Backend, BackendContext
from crishim.interfaces.plugin import Plugin
from crishim.interfaces.seats import Finding, ImageService

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
    yield Finding(
        what="docker engine",
        ok=socket.is_socket(),
        needed=False,
        found=str(socket) if socket.is_socket() else "",
        without="the docker backend has nothing to run pods with, unless its option `socket` names another",
        remedy="apt-get install docker.io",
    )
    program = shutil.which(PROGRAM)
    yield Finding(
        what=PROGRAM,
        ok=program is not None,
        found=program or "",
        without="no pause image can be made; the option `pause_image` must name one that is there",
        remedy="apt-get install catatonit",
    )


plugin = Plugin(build=build, images=images, check=check, needs_node=True)
