"""The daemon behind `containerd-shim-crishim-v2`: tasks of containerd's by a runc-compatible command line.

    python -m crishim.backends.runc.shim FOLDER

What a handler of containerd's configures for runc's own shim (BinaryName, Root, SystemdCgroup) counts here, too.
"""

import sys

if __name__ == "__main__":
    sys.modules["ssl"] = None  # type: ignore[assignment]  # asyncio takes it or leaves it; a tenth of our memory would be its

import asyncio
from pathlib import Path

from google.protobuf.message import DecodeError

from crishim._proto import shim_runc_pb2 as runc_pb
from crishim.backends.runc.command import RuntimeCommand
from crishim.backends.runc.runtime import RuncRuntime
from crishim.errors import InvalidArgument
from crishim.interfaces.oci_runtime import OciRuntime
from crishim.linux.children import become_subreaper
from crishim.pods.host import host
from crishim.shimv2.server.daemon import Make
from crishim.shimv2.server.run import serve

_OPTIONS = "containerd.runc.v1.Options"


def runc(folder: Path) -> Make:
    """Gives runc, or what containerd's options name; its state lies below `folder`."""
    made: dict[tuple[str, str, str, bool], RuncRuntime] = {}

    def of(namespace: str, options: tuple[str, bytes]) -> OciRuntime:
        wanted = _wanted(options)
        key = (namespace, wanted.binary_name or "runc", wanted.root, wanted.systemd_cgroup)
        if key not in made:
            program, root = key[1], Path(wanted.root) / namespace if wanted.root else folder / "runc" / namespace
            command = RuntimeCommand(program, root, systemd_cgroup=key[3])
            made[key] = RuncRuntime(command, folder / "s", host(systemd_cgroup=key[3]))
        return made[key]

    return of


def _wanted(options: tuple[str, bytes]) -> runc_pb.Options:
    kind, value = options
    if kind != _OPTIONS:
        return runc_pb.Options()
    try:
        return runc_pb.Options.FromString(value)
    except DecodeError as error:
        raise InvalidArgument("options", f"cannot be read: {error}") from error


def main() -> None:
    """Serve until SIGTERM."""
    folder = Path(sys.argv[1])
    become_subreaper()
    asyncio.run(serve(folder, runc(folder)))


if __name__ == "__main__":
    main()
