"""This machine as a `Node`."""

import asyncio
import contextlib
import posixpath
import re
import socket
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Final

from crishim.errors import CrishimError
from crishim.linux.cgroups import Cgroups, stop_unit
from crishim.model.sandbox import DNSConfig
from crishim.play.configs import Node
from crishim.pods.host import page_sizes

_NOWHERE: Final = ("192.0.2.1", 9)  # an address for documentation; looking up a route to it sends nothing
_TRIES: Final = 50
_PAUSE: Final = 0.02


def this_node(folder: Path, *, cgroups: str = "") -> Node:
    """This machine, with the kubelet's folders below `folder`; an unknown cgroup driver is cgroupfs."""
    return Node(
        name=socket.gethostname().lower(),
        ips=_addresses(),
        root=str(folder / "kubelet"),
        logs=str(folder / "logs"),
        dns=resolver(_text(Path("/etc/resolv.conf"))),
        memory=memory_total(_text(Path("/proc/meminfo"))) or Node().memory,
        page_sizes=page_sizes(),
        cgroups=cgroups or "cgroupfs",
    )


@contextlib.asynccontextmanager
async def pod_cgroups(parents: Iterable[str], cgroups: Cgroups) -> AsyncIterator[None]:
    """Removes pods' cgroups at the end, as the kubelet does: no runtime removes them.

    Those above them, which another kubelet may use, are removed if they did not exist before. One that is in use is left.
    """
    lineages = {folder for parent in parents for folder in _lineage(parent)}
    made = [folder for folder in sorted(lineages, key=len, reverse=True) if not cgroups.exists(folder)]
    try:
        yield
    finally:
        for folder in made:
            await _remove(folder, cgroups)


async def _remove(folder: str, cgroups: Cgroups) -> None:
    """Remove a cgroup, once systemd has removed the scopes of ended containers from it."""
    for _ in range(_TRIES):
        if not cgroups.exists(folder):
            return
        if cgroups.unused(folder):
            break
        await asyncio.sleep(_PAUSE)
    else:
        return
    if folder.endswith(".slice"):
        with contextlib.suppress(CrishimError):  # not root
            await stop_unit(posixpath.basename(folder))
    else:
        await asyncio.to_thread(cgroups.remove, folder)


def _lineage(folder: str) -> list[str]:
    """A cgroup and those above it, without the root."""
    names = folder.strip("/").split("/") if folder else []
    return ["/" + "/".join(names[: end + 1]) for end in range(len(names))]


def resolver(text: str) -> DNSConfig:
    """The configuration in a resolv.conf; the last search line counts."""
    words = [line.split() for line in text.splitlines()]
    searches = [line[1:] for line in words if line[:1] == ["search"]]
    return DNSConfig(
        servers=tuple(line[1] for line in words if line[:1] == ["nameserver"] and len(line) > 1),
        searches=tuple(searches[-1]) if searches else (),
        options=tuple(option for line in words if line[:1] == ["options"] for option in line[1:]),
    )


def memory_total(text: str) -> int:
    """The bytes of memory in a /proc/meminfo; 0 if it has none."""
    match = re.search(r"^MemTotal:\s+(\d+) kB$", text, re.MULTILINE)
    return int(match.group(1)) * 1024 if match else 0


def _addresses() -> tuple[str, ...]:
    """The source address of a packet to another network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_NOWHERE)
        except OSError:
            return ()
        return (str(probe.getsockname()[0]),)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
