"""Arguments of the pure functions in this package: facts of the machine, and what was prepared for one container."""

import attrs

from crishim.model.security import IDMapping, LinuxContainerUser
from crishim.model.values import EMPTY, FrozenDict

__all__ = ["AppArmor", "DeviceNode", "Host"]

DEFAULT_CAPABILITIES: tuple[str, ...] = (
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)
"""The capabilities of a container whose configuration names none; the list of containerd and CRI-O."""

CAPABILITIES: tuple[str, ...] = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)
"""Linux's capabilities, by number."""

NEW_CAPABILITIES = frozenset({"CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE"})
"""Those since Linux 5.8, which CAP_SYS_ADMIN includes."""


@attrs.frozen(kw_only=True)
class DeviceNode:
    """A device of the host, and its path in the container. `kind` is `b` or `c`."""

    path: str
    kind: str
    major: int
    minor: int
    mode: int = 0o666
    uid: int = 0
    gid: int = 0
    access: str = "rwm"


@attrs.frozen(kw_only=True)
class AppArmor:
    """The names of the profiles in the kernel. `problem`: why the default profile is not among them, else empty."""

    loaded: frozenset[str] = frozenset()
    problem: str = ""


@attrs.frozen
class Labels:
    """SELinux labels of a container's processes and files. Empty for none: the policy's default then applies."""

    process: str = ""
    mounts: str = ""


@attrs.frozen(kw_only=True)
class Host:
    """The machine. `bounding`: the capabilities of this process's bounding set, which limit "ALL".

    `apparmor` and `selinux`: whether containers get profiles and labels; False if the runtime does not use them.
    `apparmor_profiles`: the names of the profiles that the kernel had when it was asked.
    `lowest_oom_score_adj`: the lower bound for a process without CAP_SYS_RESOURCE; None without a bound.
    `page_sizes`: the huge pages that a cgroup controller limits, by the names of its files; empty without that controller.
    `seccomp_default`: the text of the distribution's default profile in the container engines' format, empty if there is none.
    `rlimits`: (name, soft, hard).
    """

    cgroup_v2: bool = False
    systemd_cgroup: bool = False
    swap: bool = True
    page_sizes: frozenset[str] = frozenset({"2MB", "1GB"})
    bounding: frozenset[str] = frozenset(CAPABILITIES)
    lowest_oom_score_adj: int | None = None
    seccomp_default: str = ""
    architecture: str = "amd64"
    kernel: tuple[int, int] = (5, 10)
    apparmor: bool = False
    apparmor_profiles: frozenset[str] = frozenset()
    selinux: bool = False
    hostname: str = ""
    devices: tuple[DeviceNode, ...] = ()
    rlimits: tuple[tuple[str, int, int], ...] = ()


@attrs.frozen(kw_only=True)
class NamespacePaths:
    """The namespaces to join. An empty path means the host's for network, ipc, uts and user, and a new one for pid.

    `host_pid`: the host's PID namespace. The mappings of `user` are for code that creates files for the pod: config.json must
    not repeat them for a namespace that is joined (runc 1.2 warns of it, in the container's log).
    """

    network: str = ""
    ipc: str = ""
    uts: str = ""
    pid: str = ""
    host_pid: bool = False
    user: str = ""
    uids: tuple[IDMapping, ...] = ()
    gids: tuple[IDMapping, ...] = ()


@attrs.frozen(kw_only=True)
class BindSource:
    """The source of a mount: the host path with links resolved, and the propagation of the mount that contains it."""

    path: str
    shared: bool = True
    slave: bool = True


@attrs.frozen(kw_only=True)
class Place:
    """What was prepared for one container: root, user, the pod's files and namespaces, devices and mount sources.

    `sources`: each mount's container path -> its resolved source. `files`: container path (`/etc/hosts`, ...) -> the pod's
    file. `volumes`: the path of an image's volume -> its folder. `profiles`: a Localhost seccomp reference -> the text of its
    file. `apparmor`: the name of the AppArmor profile, empty for none. `labels`: SELinux labels.
    """

    rootfs: str
    user: LinuxContainerUser
    namespaces: NamespacePaths = NamespacePaths()
    files: FrozenDict[str, str] = EMPTY
    volumes: FrozenDict[str, str] = EMPTY
    devices: tuple[DeviceNode, ...] = ()
    sources: FrozenDict[str, BindSource] = FrozenDict()
    profiles: FrozenDict[str, str] = EMPTY
    apparmor: str = ""
    labels: Labels = Labels()
    cgroups_path: str = ""
    annotations: FrozenDict[str, str] = EMPTY
    sysctls: FrozenDict[str, str] = EMPTY
