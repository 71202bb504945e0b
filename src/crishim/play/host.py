"""This machine as a `Node`."""

import re
import socket
from pathlib import Path
from typing import Final

from crishim.model.sandbox import DNSConfig
from crishim.play.configs import Node

_NOWHERE: Final = ("192.0.2.1", 9)  # an address for documentation; looking up a route to it sends nothing
_LARGE: Final = ((2**30, "GB"), (2**20, "MB"), (2**10, "KB"))


def this_node(folder: Path, *, cgroups: str = "") -> Node:
    """This machine, with the kubelet's folders below `folder`; an unknown cgroup driver is cgroupfs."""
    return Node(
        name=socket.gethostname().lower(),
        ips=_addresses(),
        root=str(folder / "kubelet"),
        logs=str(folder / "logs"),
        dns=resolver(_text(Path("/etc/resolv.conf"))),
        memory=memory_total(_text(Path("/proc/meminfo"))) or Node().memory,
        page_sizes=_page_sizes(Path("/sys/kernel/mm/hugepages")),
        cgroups=cgroups or "cgroupfs",
    )


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


def _page_sizes(folder: Path) -> tuple[str, ...]:
    """The sizes of huge pages, smallest first, as cgroup files name them."""
    names = (path.name for path in folder.glob("hugepages-*kB")) if folder.is_dir() else ()
    sizes = sorted(int(name.removeprefix("hugepages-").removesuffix("kB")) * 1024 for name in names)
    return tuple(next(f"{size // unit}{name}" for unit, name in _LARGE if size >= unit) for size in sizes)


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
