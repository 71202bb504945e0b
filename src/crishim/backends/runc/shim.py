"""The daemon behind `containerd-shim-crishim-v2`: tasks of containerd over a runc-compatible command line.

    python -m crishim.backends.runc.shim FOLDER

With `-info` instead of a folder it prints the runtime's features, which containerd 2 asks for once for each handler: those of
the program that the options on stdin name.

A handler's options in containerd are those of runc's own shim: BinaryName, Root, SystemdCgroup. IoUid and IoGid, the owner of
pipes that a shim creates, are accepted without effect: containerd's pipes are used; so are TaskApiAddress and TaskApiVersion,
with which containerd 2 finds a sandbox's shim. Any other key is refused by its name.
"""

import sys

if __name__ == "__main__":
    sys.modules["ssl"] = None  # type: ignore[assignment]  # optional for asyncio; it would be a tenth of our memory

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any as AnyValue
from typing import Final

from google.protobuf.any_pb2 import Any

from crishim import __version__
from crishim._proto import shim_types_pb2 as types_pb
from crishim.backends.runc.command import RuntimeCommand
from crishim.backends.runc.runtime import RuncRuntime
from crishim.errors import CrishimError, InvalidArgument
from crishim.interfaces.oci_runtime import OciRuntime
from crishim.linux.children import become_subreaper
from crishim.pods.host import host
from crishim.shimv2.server.daemon import Make
from crishim.shimv2.server.launcher import NAME, STATE
from crishim.shimv2.server.options import read_options, start_options
from crishim.shimv2.server.run import serve

_FEATURES: Final = "types.containerd.io/opencontainers/runtime-spec/1/features/Features"

_KEYS: Final[Mapping[str, type]] = {
    "BinaryName": str,
    "Root": str,
    "SystemdCgroup": bool,
    "IoUid": int,
    "IoGid": int,
    "TaskApiAddress": str,
    "TaskApiVersion": int,
}


def runc(folder: Path) -> Make:
    """A factory of runtimes: runc, or the program in containerd's options; their state is below `folder`."""
    runtimes: dict[tuple[str, str, str, bool], RuncRuntime] = {}

    def of(namespace: str, options: tuple[str, bytes]) -> OciRuntime:
        wanted = _checked(read_options(options))
        program, systemd = str(wanted.get("BinaryName", "runc")), bool(wanted.get("SystemdCgroup", False))
        own = str(wanted.get("Root", ""))
        key = (namespace, program, own, systemd)
        if key not in runtimes:
            root = Path(own) / namespace if own else folder / "runc" / namespace
            command = RuntimeCommand(program, root, systemd_cgroup=systemd)
            runtimes[key] = RuncRuntime(command, folder / "s", host(systemd_cgroup=systemd))
        return runtimes[key]

    return of


def _checked(wanted: Mapping[str, AnyValue]) -> Mapping[str, AnyValue]:
    for name, given in wanted.items():
        if name not in _KEYS:
            raise InvalidArgument(f"options.{name}", f"is not one of {', '.join(_KEYS)}")
        if type(given) is not _KEYS[name]:
            raise InvalidArgument(f"options.{name}", f"{given!r} is not a {_KEYS[name].__name__}")
    return wanted


async def information(stdin: bytes) -> bytes:
    """containerd.types.RuntimeInfo, with the features of the program in the options."""
    program = str(read_options(start_options(stdin)).get("BinaryName", "runc"))
    info = types_pb.RuntimeInfo(name=NAME, version=types_pb.RuntimeVersion(version=__version__))
    with contextlib.suppress(CrishimError):  # a program that is missing is reported at its use
        if features := await RuntimeCommand(program, Path(STATE, "runc")).own_features():
            info.features.CopyFrom(Any(type_url=_FEATURES, value=features))
    return info.SerializeToString()


def main() -> None:
    """Serve until SIGTERM, or print the features."""
    if sys.argv[1] == "-info":
        sys.stdout.buffer.write(asyncio.run(information(sys.stdin.buffer.read())))
        return
    folder = Path(sys.argv[1])
    become_subreaper()
    asyncio.run(serve(folder, runc(folder)))


if __name__ == "__main__":
    main()
