"""The main() of an author's shim: `run`.

The same program is launcher and daemon. containerd runs it as a shim's binary; the launcher passes the request to the daemon,
and starts the program itself as the daemon with the arguments `daemon FOLDER` if none runs.
"""

import asyncio
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crishim.shimv2.server import launcher

if TYPE_CHECKING:
    from crishim.interfaces.oci_runtime import OciRuntime
    from crishim.shimv2.server.daemon import Make

DAEMON = "daemon"


def run(
    make: "Callable[[Path], OciRuntime]", name: str, argv: Sequence[str] | None = None, *, scope: str = launcher.NODE
) -> None:
    """Run as containerd's shim `name` (`io.containerd.mine.v2`) over the runtimes that `make` returns, and exit.

    `make` is called once for each namespace of containerd, with a folder for the runtime's state, which a reboot clears. The
    daemon's sockets and its log are in /run/crishim/NAME; `CRISHIM_SHIM_STATE` names another folder. With the scope `sandbox`
    each pod has a daemon of its own, in a folder of its own; `CRISHIM_SHIM_SCOPE` names another scope.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == [DAEMON]:
        folder = Path(words[1])
        asyncio.run(serve(folder, for_namespaces(make, folder)))
        sys.exit(0)
    program = [sys.executable, str(Path(sys.argv[0]).resolve()), DAEMON]
    sys.exit(launcher.run(words, name, program, default=f"/run/crishim/{name}", scope=scope))


def for_namespaces(make: "Callable[[Path], OciRuntime]", folder: Path) -> "Make":
    """One runtime for each of containerd's namespaces; the options are ignored."""
    runtimes: dict[str, OciRuntime] = {}

    def of(namespace: str, _: tuple[str, bytes]) -> "OciRuntime":
        if namespace not in runtimes:
            own = folder / "runtimes" / namespace
            own.mkdir(parents=True, exist_ok=True, mode=0o711)
            runtimes[namespace] = make(own)
        return runtimes[namespace]

    return of


async def serve(folder: Path, make: "Make") -> None:
    """Run the daemon until SIGTERM or SIGINT. It leaves tasks running, which containerd ends. `folder` is absolute.

    A daemon of the scope `sandbox` also ends when it is unused, and removes its folder.
    """
    from crishim.linux.children import watch_by_pidfd
    from crishim.shimv2.server.daemon import ShimServer
    from crishim.system import SystemClock

    os.chdir("/")  # the working folder is a bundle, which will be removed
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    watch_by_pidfd()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    server = ShimServer(folder, make, SystemClock())
    alone = os.environ.get(launcher.SCOPE) == launcher.SANDBOX
    async with server.serving():
        unused = asyncio.create_task(server.unused()) if alone else None
        if unused is not None:
            unused.add_done_callback(lambda _: ended.set())
        await ended.wait()
        if unused is not None and unused.done():  # before the connections are closed: a client may then kill this process
            _discard(folder)


def _discard(folder: Path) -> None:
    """Remove a state folder, at once out of the way of the next daemon's."""
    shutil.rmtree(folder.rename(folder.with_name(f".{folder.name}.{os.getpid()}")), ignore_errors=True)
