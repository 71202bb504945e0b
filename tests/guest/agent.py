"""Runs in the guest, as a service of systemd: executes what the host lays into the shared folder.

`in/NAME` is a script for bash. Its output goes to `out/NAME` as it is written, and its exit code to `out/NAME.code` at the end.
`out/up` is made when the guest takes scripts. The shared folder is the host's, named on the kernel's command line.
"""

import contextlib
import os
import subprocess
import time
from pathlib import Path

SHARE = Path("/share")


def mount() -> None:
    """Mount the host's folder."""
    words = dict(word.partition("=")[::2] for word in Path("/proc/cmdline").read_text(encoding="utf-8").split())
    SHARE.mkdir(exist_ok=True)
    if "share" not in words:  # under QEMU
        subprocess.run(["modprobe", "9pnet_virtio"], check=True)
        subprocess.run(["mount", "-t", "9p", "-o", "trans=virtio,version=9p2000.L", "share", SHARE], check=True)
        return
    options = f"hostfs={words['share']}"
    if Path("/sys/fs/selinux/enforce").exists():
        options += ",context=system_u:object_r:tmp_t:s0"  # what has no label may be used by nobody
    subprocess.run(["mount", "-t", "hostfs", "-o", options, "none", SHARE], check=True)


def start(script: Path) -> subprocess.Popen[bytes]:
    """Run a script that the host has laid here."""
    mine = SHARE / "out" / f"{script.name}.script"
    script.rename(mine)
    with (SHARE / "out" / script.name).open("wb") as output:
        return subprocess.Popen(["bash", mine], cwd="/root", stdin=subprocess.DEVNULL, stdout=output, stderr=output)


def main() -> None:
    """Serve."""
    if not os.path.ismount(SHARE):
        mount()
    running: dict[str, subprocess.Popen[bytes]] = {}
    (SHARE / "out" / "up").touch()
    while True:
        for script in sorted((SHARE / "in").iterdir()):
            if not script.name.startswith("."):
                running[script.name] = start(script)
        for name in [name for name, process in running.items() if process.poll() is not None]:
            code = SHARE / "out" / f".{name}.code"
            code.write_text(str(running.pop(name).returncode), encoding="ascii")
            with contextlib.suppress(OSError):
                code.rename(SHARE / "out" / f"{name}.code")
        time.sleep(0.1)


if __name__ == "__main__":
    main()
