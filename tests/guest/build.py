"""Make the guest once: `python -m tests.guest.build`. It lies in a cache folder, outside the checkout.

The guest is Debian with systemd, cgroup v2 and AppArmor, or SELinux, under a User Mode Linux kernel: a process of this machine,
which needs neither KVM nor anybody's image. Three parts, each made anew only when its recipe has changed:

- `root/`: Debian's packages by debootstrap and apt, with the project's Python dependencies in /opt/crishim;
- `linux`: the kernel, compiled from Debian's source, since Debian's packaged one lacks PSI, cpusets and NAT. The source is
  unstable's: older kernels of this kind do not run on processors with AMX;
- `disk.made`: the root as an ext4 image, sparse. Each boot works on a copy.

CRISHIM_GUEST names another folder. Making all of it takes some four minutes on two cores, and 3 GB.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
CHECKOUT: Final = HERE.parents[1]
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
FOLDER: Final = Path(os.environ.get("CRISHIM_GUEST", CACHE / "crishim" / "guest"))
MIRROR: Final = "http://deb.debian.org/debian"
SUITE: Final = "trixie"
KERNELS_SUITE: Final = "sid"
DISK: Final = "8G"
MARK: Final = "etc/crishim-guest"
"""The file by which tests know that they are in the guest."""

PACKAGES: Final = (
    *(
        "systemd-sysv",
        "dbus",
        "udev",
        "kmod",
        "procps",
        "psmisc",
        "iproute2",
        "iptables",
        "nftables",
        "uidmap",
        "ca-certificates",
    ),
    *(
        "apparmor",
        "apparmor-utils",
        "busybox-static",
        "catatonit",
        "conmon",
        "containerd",
        "containernetworking-plugins",
        "crun",
    ),
    *("docker-registry", "golang-github-containers-common", "runc", "skopeo", "strace"),
    "sudo",  # by which critest loads profiles of AppArmor
    *("selinux-policy-default", "selinux-utils", "policycoreutils"),
    *("python3", "python3-venv", "nginx-core", "gcc", "libc6-dev", "dpkg-dev"),
)
TOOLS: Final = {
    "debootstrap": "debootstrap",
    "apt-get": "apt",
    "mkfs.ext4": "e2fsprogs",
    "make": "make",
    "gcc": "gcc libc6-dev",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "xz": "xz-utils",
    "dpkg-deb": "dpkg",
    "unshare": "util-linux",
}
"""Programs of this machine that the making needs, and the packages that have them."""


def missing() -> list[str]:
    """What this machine lacks, each with the way to get it."""
    lacking = [f"{tool}: apt-get install {package}" for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if os.geteuid() != 0:
        lacking.append("root")
    if os.uname().machine != "x86_64":
        lacking.append("an x86-64 processor: User Mode Linux has no other")
    if not (FOLDER / "disk.made").exists() and not reachable():
        lacking.append(f"Debian's mirror: {MIRROR} does not answer")
    return lacking


def reachable() -> bool:
    """Whether Debian's mirror answers."""
    try:
        with urllib.request.urlopen(f"{MIRROR}/dists/{SUITE}/Release", timeout=20):
            return True
    except OSError:
        return False


class Unobtainable(Exception):
    """What the guest is made of cannot be downloaded; the text says what, with the end of the log."""


def fetch(*command: str | Path, log: Path) -> None:
    """As `run`, of a command that downloads. Raises `Unobtainable`."""
    try:
        run(*command, log=log)
    except SystemExit as error:
        raise Unobtainable(str(error)) from error


def run(*command: str | Path, folder: Path | None = None, log: Path) -> None:
    """Run a command, with its output behind that of others in `log`. Raises SystemExit with the last of it."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with log.open("ab") as output:
        done = subprocess.run(command, cwd=folder, env=environment, stdout=output, stderr=output, check=False)
    if done.returncode:
        end = log.read_text(encoding="utf-8", errors="replace")[-1500:]
        raise SystemExit(f"{' '.join(map(str, command))} ended with {done.returncode}; {log} ends with:\n{end}")


def recipe(*parts: str) -> str:
    """A short name of what something was made from."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def stale(made: Path, wanted: str) -> bool:
    """Whether something has to be made anew, by the recipe that is noted beside it."""
    note = made.with_name(f".{made.name}.recipe")
    return not made.exists() or not note.exists() or note.read_text(encoding="ascii") != wanted


def note(made: Path, wanted: str) -> None:
    """Note what something was made from: it is whole."""
    made.with_name(f".{made.name}.recipe").write_text(wanted, encoding="ascii")


def make_root(folder: Path) -> str:
    """Debian's packages; the recipe."""
    root, log = folder / "root", folder / "root.log"
    wanted = recipe(SUITE, *PACKAGES)
    if stale(root, wanted):
        print("guest: Debian's packages", flush=True)
        shutil.rmtree(root, ignore_errors=True)
        fetch("debootstrap", "--variant=minbase", "--include=ca-certificates", SUITE, root, MIRROR, log=log)
        refuses = root / "usr/sbin/policy-rc.d"  # by which packages ask whether to start their services
        refuses.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")
        refuses.chmod(0o755)
        fetch("chroot", root, "apt-get", "-q", "update", log=log)
        fetch("chroot", root, "apt-get", "-qy", "--no-install-recommends", "install", *PACKAGES, log=log)
        run("chroot", root, "apt-get", "clean", log=log)
        run("chroot", root, "passwd", "--delete", "root", log=log)
        note(root, wanted)
    return wanted


def make_kernel(folder: Path) -> None:
    """The kernel, from Debian's source."""
    kernel, log, root = folder / "linux", folder / "linux.log", folder / "root"
    fragment = HERE / "kernel.config"
    wanted = recipe(KERNELS_SUITE, fragment.read_text(encoding="utf-8"))
    if not stale(kernel, wanted):
        return
    print("guest: the kernel", flush=True)
    with tempfile.TemporaryDirectory(prefix="kernel", dir=folder) as made:
        work = Path(made)
        source = kernel_source(root, work, log)
        make = ("make", "-s", "ARCH=um", f"-j{os.cpu_count()}")
        run(*make, "x86_64_defconfig", folder=source, log=log)
        run("scripts/kconfig/merge_config.sh", "-m", "-O", ".", ".config", fragment, folder=source, log=log)
        run(*make, "olddefconfig", folder=source, log=log)
        run(*make, "linux", folder=source, log=log)
        run("strip", "-o", kernel, source / "linux", log=log)
    note(kernel, wanted)


def kernel_source(root: Path, work: Path, log: Path) -> Path:
    """The newest kernel's source, unpacked in `work`. The guest's apt fetches it, whose keys are new enough."""
    state = root / "var/lib/kernel-source"
    shutil.rmtree(state, ignore_errors=True)
    (state / "lists/partial").mkdir(parents=True)
    (state / "cache/archives/partial").mkdir(parents=True)
    first = next(
        line for line in (root / "etc/apt/sources.list").read_text(encoding="utf-8").splitlines() if line.startswith("deb ")
    )
    (state / "sources.list").write_text(first.replace(f" {SUITE} ", f" {KERNELS_SUITE} ") + "\n", encoding="utf-8")
    inside = f"/{state.relative_to(root)}"
    options = {
        "Dir::Etc::sourcelist": f"{inside}/sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": f"{inside}/lists",
        "Dir::Cache": f"{inside}/cache",
        "APT::Sandbox::User": "root",
        "Acquire::Check-Valid-Until": "false",  # a mirror that lags has a kernel that is as good
    }
    flags = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    fetch("chroot", root, "apt-get", *flags, "-q", "update", log=log)
    depends: list[str | Path] = ["chroot", root, "apt-cache", *flags, "depends", "linux-source"]
    output = subprocess.run(depends, capture_output=True, text=True, check=True).stdout
    package = next(line.split()[-1] for line in output.splitlines() if "Depends: linux-source-" in line)
    fetch("chroot", root, "sh", "-c", f"cd {inside} && apt-get {' '.join(flags)} download {package}", log=log)
    (archive,) = state.glob(f"{package}_*.deb")
    run("dpkg-deb", "-x", archive, work / "package", log=log)
    run("tar", "-C", work, "-xf", work / "package/usr/src" / f"{package}.tar.xz", log=log)
    shutil.rmtree(state)
    return Path(work, package)


def guest_python(folder: Path) -> str:
    """The version of the guest's Python, as 3.13."""
    return (folder / "root/usr/bin/python3").readlink().name.removeprefix("python")


def dependencies() -> tuple[str, ...]:
    """What the project and its tests need of PyPI."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]

    def expanded(names: list[str]) -> Iterator[str]:
        for name in names:
            own, _, rest = name.partition("[")
            if own == project["name"]:
                for extra in rest.rstrip("]").split(","):
                    yield from expanded(extras[extra])
            else:
                yield name

    return tuple(sorted({*project["dependencies"], *expanded(extras["test"])}))


def make_environment(folder: Path) -> str:
    """The dependencies' wheels, downloaded here and installed in the guest's /opt/crishim; the recipe."""
    root, log, wheels = folder / "root", folder / "wheels.log", folder / "wheels"
    wanted = recipe(guest_python(folder), *dependencies())
    environment = root / "opt/crishim"
    if stale(environment, wanted):
        print("guest: Python's packages", flush=True)
        platforms = [
            f"--platform={name}_x86_64" for name in ("manylinux_2_28", "manylinux_2_17", "manylinux2014", "manylinux_2_5")
        ]
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--only-binary=:all:")
        shutil.rmtree(wheels, ignore_errors=True)
        fetch(*pip, f"--python-version={guest_python(folder)}", *platforms, "--dest", wheels, *dependencies(), log=log)
        shutil.rmtree(environment, ignore_errors=True)
        shutil.copytree(wheels, root / "wheels", dirs_exist_ok=True)
        run("chroot", root, "python3", "-m", "venv", "/opt/crishim", log=log)
        offline = ("env", "-u", "PIP_FIND_LINKS", "/opt/crishim/bin/pip", "install", "--no-index", "--find-links=/wheels")
        run("chroot", root, *offline, *dependencies(), log=log)
        shutil.rmtree(root / "wheels")
        note(environment, wanted)
    return wanted


def settle(root: Path) -> None:
    """The guest's own files: names, no timers, no services but systemd's own and our agent."""
    texts = {
        "etc/hostname": "node\n",
        "etc/hosts": "127.0.0.1 localhost node\n",
        "etc/fstab": "",
        MARK: "",
        "usr/local/sbin/crishim-guest-agent": (HERE / "agent.py").read_text(encoding="utf-8"),
        "etc/systemd/system/crishim-guest-agent.service": (HERE / "agent.service").read_text(encoding="utf-8"),
    }
    for name, text in texts.items():
        (root / name).write_text(text, encoding="utf-8")
    wants = root / "etc/systemd/system"
    for unit in (*wants.glob("timers.target.wants/*"), *wants.glob("multi-user.target.wants/*")):
        if unit.name.split(".")[0] not in {"remote-fs", "systemd-networkd"}:
            unit.unlink()
    (wants / "multi-user.target.wants").mkdir(exist_ok=True)
    (wants / "multi-user.target.wants/crishim-guest-agent.service").symlink_to("../crishim-guest-agent.service")
    for program in ("crishim", "containerd-shim-crishim-v2"):
        link = root / "usr/local/bin" / program
        link.unlink(missing_ok=True)
        link.symlink_to(f"/opt/crishim/bin/{program}")


def label(root: Path, log: Path) -> None:
    """Give the files the labels of Debian's SELinux policy, which the kernel uses where it is booted with SELinux."""
    run("chroot", root, "setfiles", "-F", "/etc/selinux/default/contexts/files/file_contexts", "/", log=log)


def build(folder: Path = FOLDER) -> None:
    """Have the guest in `folder`. Raises `Unobtainable`, and SystemExit where another step fails, with the end of its log."""
    folder.mkdir(parents=True, exist_ok=True)
    packages = make_root(folder)
    environment = make_environment(folder)
    make_kernel(folder)
    disk = folder / "disk.made"
    wanted = recipe(
        packages,
        environment,
        *(path.read_text(encoding="utf-8") for path in (HERE / "agent.py", HERE / "agent.service", HERE / "build.py")),
    )
    if stale(disk, wanted):
        print("guest: the disk", flush=True)
        settle(folder / "root")
        label(folder / "root", folder / "disk.log")
        disk.unlink(missing_ok=True)
        run("mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-d", folder / "root", disk, DISK, log=folder / "disk.log")
        note(disk, wanted)


def main() -> int:
    """Make it."""
    if lacking := missing():
        print("the guest needs:", *lacking, sep="\n  ")
        return 1
    build()
    print(json.dumps({"guest": str(FOLDER)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
