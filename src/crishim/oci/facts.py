"""What the pure part of this room must be told: of the machine, and of the place that was made for one container."""

import attrs

from crishim.model.security import IDMapping, LinuxContainerUser
from crishim.model.values import EMPTY, FrozenDict

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
"""What a container gets that says nothing of capabilities; the field's own list."""

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
"""Linux's capabilities; the position is the number."""


@attrs.frozen(kw_only=True)
class DeviceNode:
    """A device of the host, and where the container sees it. `kind` is `b` or `c`."""

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
    """The names of the profiles that the kernel has. `problem` says why the default is not among them; empty if it is."""

    loaded: frozenset[str] = frozenset()
    problem: str = ""


@attrs.frozen
class Labels:
    """SELinux labels of a container: its processes', and its files'. Empty for none: what a process then is, policy says."""

    process: str = ""
    mounts: str = ""


@attrs.frozen(kw_only=True)
class Host:
    """The machine. `bounding` are the capabilities that this process may hand on; "all" never means more.

    `apparmor` and `selinux` are whether containers get profiles and labels of it: not where the runtime has no use for them.
    `lowest_oom_score_adj` is what a process without CAP_SYS_RESOURCE can go down to; None where there is no bound.
    `page_sizes` are the huge pages that a cgroup controller limits, by the names of its files; empty without that controller.
    `seccomp_default` is the text of the distribution's default profile in its own format, empty where there is none.
    `rlimits` are (name, soft, hard).
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
    selinux: bool = False
    hostname: str = ""
    devices: tuple[DeviceNode, ...] = ()
    rlimits: tuple[tuple[str, int, int], ...] = ()


@attrs.frozen(kw_only=True)
class NamespacePaths:
    """The namespaces to join; an empty path of network, ipc or uts means the host's, an empty pid a new one.

    `host_pid` means the host's. `user` empty means the host's. Its mappings are here for whoever makes files for the pod:
    config.json must not repeat them for a namespace that is joined (runc 1.2 warns of it, in the container's log).
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
    """A mount whose source was looked up: the host path with links resolved, and how that path's own mount propagates."""

    path: str
    shared: bool = True
    slave: bool = True


@attrs.frozen(kw_only=True)
class Place:
    """What was made for one container: root, user, its pod's files and namespaces, the devices and sources it asked for.

    `sources` maps each mount's container path to its resolved source; `files` maps a container path (`/etc/hosts`, ...) to the
    pod's file for it; `volumes` maps the path of an image's volume to its folder; `profiles` maps a Localhost seccomp reference
    to the text of its file; `apparmor` is the name of the AppArmor profile, empty for none; `labels` are SELinux's.
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
