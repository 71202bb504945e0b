"""Test this checkout under QEMU, with Debian's own kernel: `python -m tests.guest.qemu`.

For what User Mode Linux has none of: huge pages, and CRIU beside systemd and cgroup v2. The guest is that of `build.py` with a
few more packages. QEMU emulates its processor: it needs no KVM, boots in a minute, and is some ten times slower than the host.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.guest import build
from tests.guest.machine import Machine, alone
from tests.guest.run import Run, pytest

QEMU: Final = "qemu-system-x86_64"
PACKAGES: Final = ("criu", "initramfs-tools", "linux-image-amd64", "zstd")
FOLDER: Final = build.FOLDER / "qemu"
TESTS: Final = "tests/backends/runc/test_hugepages.py tests/backends/runc/test_checkpoints.py tests/node/test_checkpoints.py"
PART: Final = pytest("qemu", 20, TESTS)


class QemuMachine(Machine):
    """The guest under QEMU, in a folder with `vmlinuz`, `initrd` and `disk`."""

    def _command(self, security: str) -> list[str]:
        words = f"root=/dev/vda rw console=ttyS0 panic=1 lsm=landlock,yama,{security} hugepages=16"
        return [
            *(QEMU, "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3G", "-nic", "none"),
            *("-nographic", "-no-reboot", "-kernel", f"{self.folder}/vmlinuz", "-initrd", f"{self.folder}/initrd"),
            *("-append", words, "-drive", f"file={self.folder}/disk,if=virtio,format=raw,cache=unsafe"),
            *("-fsdev", f"local,id=share,path={self.share},security_model=none"),
            *("-device", "virtio-9p-pci,fsdev=share,mount_tag=share"),
        ]


def make(folder: Path) -> None:
    """The guest of `build.py` with Debian's kernel. Raises as `build.build`."""
    build.build()
    disk, log, wanted = folder / "disk.made", folder / "disk.log", (build.FOLDER / ".disk.made.recipe").read_text()
    wanted = build.recipe(wanted, *PACKAGES)
    folder.mkdir(exist_ok=True)
    if not build.stale(disk, wanted):
        return
    print("guest: Debian's kernel", flush=True)
    with tempfile.TemporaryDirectory(prefix="root", dir=folder) as made:
        root = Path(made, "root")
        build.run("cp", "-a", "--reflink=auto", build.FOLDER / "root", root, log=log)
        build.fetch("chroot", root, "apt-get", "-q", "update", log=log)
        build.fetch("chroot", root, "apt-get", "-qy", "--no-install-recommends", "install", *PACKAGES, log=log)
        build.run("chroot", root, "apt-get", "clean", log=log)
        for name, pattern in (("vmlinuz", "vmlinuz-*"), ("initrd", "initrd.img-*")):
            (found,) = (root / "boot").glob(pattern)
            shutil.copy2(found, folder / name)
        disk.unlink(missing_ok=True)
        build.run("mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-d", root, disk, build.DISK, log=log)
    build.note(disk, wanted)


def main() -> int:
    """Run the tests."""
    lacking = build.missing()
    if shutil.which(QEMU) is None:
        lacking.append(f"{QEMU}: apt-get install qemu-system-x86")
    if lacking:
        print("left out: the guest under QEMU, which needs:", *lacking, sep="\n  ")
        return 0
    with alone():
        make(FOLDER)
    with alone(FOLDER):
        machine = QemuMachine(FOLDER)
        run = Run(machine, None)
        try:
            machine.fresh()
            run.install()
            outcome = run.part(PART)
        finally:
            machine.stop()
    print(outcome.line(PART.name))
    return 1 if outcome.bad else 0


if __name__ == "__main__":
    sys.exit(main())
