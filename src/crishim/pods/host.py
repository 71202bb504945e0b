"""Reads the facts of this machine that `crishim.oci` needs as arguments."""

import os
import platform
from pathlib import Path

from crishim.model.runtime import CgroupDriver
from crishim.oci.facts import CAPABILITIES, DeviceNode, Host
from crishim.pods.apparmor import loaded_profiles

__all__ = ["cgroup_v2", "host"]

SELINUX = Path("/sys/fs/selinux")
SECCOMP_DEFAULT = Path("/usr/share/containers/seccomp.json")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
_SYS_RESOURCE = 24
_LARGE = ((2**30, "GB"), (2**20, "MB"), (2**10, "KB"))


def host(*, systemd_cgroup: bool = False, rlimits: tuple[tuple[str, int, int], ...] = (), selinux: Path = SELINUX) -> Host:
    """This machine, as it is now. `selinux`: where the SELinux file system is mounted on a machine that has one."""
    bounding = _bounding()
    own_score = int(Path("/proc/self/oom_score_adj").read_text(encoding="ascii"))
    release = platform.release().split(".")
    return Host(
        cgroup_v2=cgroup_v2(),
        systemd_cgroup=systemd_cgroup,
        swap=_swap(),
        page_sizes=frozenset(page_sizes() if Path("/sys/fs/cgroup/hugetlb").exists() or "hugetlb" in _controllers() else ()),
        bounding=frozenset(name for number, name in enumerate(CAPABILITIES) if bounding >> number & 1),
        lowest_oom_score_adj=None if may_raise_limits() else own_score,
        seccomp_default=_read(SECCOMP_DEFAULT),
        architecture=architecture(),
        kernel=(int(release[0]), int(release[1])),
        apparmor=_read(Path("/sys/module/apparmor/parameters/enabled")).startswith("Y"),
        apparmor_profiles=_profiles(),
        selinux=has_selinux(selinux),
        hostname=platform.node(),
        devices=host_devices(),
        rlimits=rlimits,
    )


def architecture() -> str:
    """The machine's architecture, by Go's name."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def has_selinux(folder: Path = SELINUX) -> bool:
    """Whether the kernel runs SELinux, by the file system that it has then."""
    try:
        return (folder / "enforce").exists()
    except PermissionError:
        return True  # policy hides it from domains of servers, such as crio_t


def page_sizes(folder: Path = Path("/sys/kernel/mm/hugepages")) -> tuple[str, ...]:
    """The sizes of huge pages, smallest first, as cgroup files name them (`2MB`)."""
    names = (path.name for path in folder.glob("hugepages-*kB")) if folder.is_dir() else ()
    sizes = sorted(int(name.removeprefix("hugepages-").removesuffix("kB")) * 1024 for name in names)
    return tuple(next(f"{size // unit}{name}" for unit, name in _LARGE if size >= unit) for size in sizes)


def cgroup_v2() -> bool:
    """Whether /sys/fs/cgroup is the unified hierarchy."""
    return Path("/sys/fs/cgroup/cgroup.controllers").exists()


def cgroup_driver() -> CgroupDriver:
    """Which cgroup driver this machine needs: systemd if it is process 1 and owns the unified hierarchy, else cgroupfs.

    Limits that a runtime writes below a slice of systemd are overwritten by systemd's next change of that slice.
    """
    systemd = Path("/run/systemd/system").is_dir()  # sd_booted(3)
    return CgroupDriver.SYSTEMD if systemd and cgroup_v2() else CgroupDriver.CGROUPFS


def host_devices() -> tuple[DeviceNode, ...]:
    """Every device node below /dev that a privileged container gets."""
    skipped = {"pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"}
    found = []
    for folder, folders, files in os.walk("/dev"):
        folders[:] = [name for name in folders if name not in skipped]
        for name in files:
            path = os.path.join(folder, name)  # noqa: PTH118 - a walk over names
            if name != "console" and (node := device_node(path, path)) is not None:
                found.append(node)
    return tuple(found)


def device_node(source: str, path: str, access: str = "rwm") -> DeviceNode | None:
    """The node at `source`, as it appears at `path`; None if it is not a device."""
    try:
        status = Path(source).stat()
    except OSError:
        return None
    kind = {0o020000: "c", 0o060000: "b"}.get(status.st_mode & 0o170000)
    if kind is None:
        return None
    return DeviceNode(
        path=path,
        kind=kind,
        major=os.major(status.st_rdev),
        minor=os.minor(status.st_rdev),
        mode=status.st_mode & 0o7777,
        uid=status.st_uid,
        gid=status.st_gid,
        access=access,
    )


def _bounding() -> int:
    return _status("CapBnd")


def may_raise_limits() -> bool:
    """Whether this process has CAP_SYS_RESOURCE: it may raise hard limits, and lower oom_score_adj."""
    return bool(_status("CapEff") >> _SYS_RESOURCE & 1)


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field):
            return int(line.split()[1], 16)
    return 0


def _profiles() -> frozenset[str]:
    try:
        return loaded_profiles()
    except OSError:
        return frozenset()


def _swap() -> bool:
    return cgroup_v2() or Path("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists()


def _controllers() -> str:
    return _read(Path("/sys/fs/cgroup/cgroup.controllers"))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
