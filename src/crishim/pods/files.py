"""The files of a pod that its containers share: hostname, hosts, resolv.conf, and /dev/shm."""

import os
from pathlib import Path
from typing import Final

from crishim.linux.mounts import MS_NODEV, MS_NOEXEC, MS_NOSUID, mount
from crishim.model.sandbox import DNSConfig, SandboxSpec
from crishim.model.security import NamespaceMode
from crishim.model.values import FrozenDict

_SHM_SIZE: Final = "size=65536k"


def resolv_conf(dns: DNSConfig) -> str:
    """The text for a pod's DNS: search, nameserver and options lines."""
    lines = []
    if dns.searches:
        lines.append("search " + " ".join(dns.searches))
    lines.extend(f"nameserver {server}" for server in dns.servers)
    if dns.options:
        lines.append("options " + " ".join(dns.options))
    return "".join(f"{line}\n" for line in lines)


def hosts(hostname: str, ips: tuple[str, ...]) -> str:
    """A pod's /etc/hosts, for containers that do not mount another one."""
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
    lines.extend(f"{ip}\t{hostname}" for ip in ips if hostname)
    return "".join(f"{line}\n" for line in lines)


def make(folder: Path, spec: SandboxSpec, node_name: str) -> None:
    """Write the files of a pod into `folder` and mount its /dev/shm there. They are owned by the pod's root user."""
    folder.mkdir(parents=True, mode=0o711)
    config = spec.config
    hostname = config.hostname or node_name
    (folder / "hostname").write_text(f"{hostname}\n", encoding="utf-8")
    own = hosts(hostname, spec.ips)
    (folder / "hosts").write_text(_node_file("/etc/hosts", own) if spec.host_network else own, encoding="utf-8")
    empty = config.dns_config is None or config.dns_config == DNSConfig()
    dns = _node_file("/etc/resolv.conf", "") if empty or config.dns_config is None else resolv_conf(config.dns_config)
    (folder / "resolv.conf").write_text(dns, encoding="utf-8")
    owner = owner_of(spec)
    for name in ("hostname", "hosts", "resolv.conf"):
        (folder / name).chmod(0o644)
        os.chown(folder / name, *owner)
    if spec.namespaces.ipc is not NamespaceMode.NODE:
        (folder / "shm").mkdir()
        mount("shm", folder / "shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, f"mode=1777,{_SHM_SIZE}")
        os.chown(folder / "shm", *owner)


def owner_of(spec: SandboxSpec) -> tuple[int, int]:
    """Uid and gid of the pod's root on the node."""
    userns = spec.namespaces.userns_options
    if userns is None or userns.mode is not NamespaceMode.POD:
        return 0, 0
    return userns.uids[0].host_id, userns.gids[0].host_id


def files_of(folder: Path, spec: SandboxSpec) -> FrozenDict[str, str]:
    """Paths of files in a container, and the source of each on the node."""
    shm = "/dev/shm" if spec.namespaces.ipc is NamespaceMode.NODE else str(folder / "shm")  # noqa: S108
    return FrozenDict(
        {
            "/dev/shm": shm,  # noqa: S108
            "/etc/hostname": str(folder / "hostname"),
            "/etc/hosts": str(folder / "hosts"),
            "/etc/resolv.conf": str(folder / "resolv.conf"),
        }
    )


def _node_file(path: str, otherwise: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return otherwise
