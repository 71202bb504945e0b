"""Build the kubelet once: `python -m tests.kubelet.build`. It lies in a cache folder, outside the checkout, by its release.

`program/` is a Go module of one file, whose go.mod names the release of k8s.io/kubernetes and replaces the modules of its
staging folder by their own releases. The Go module proxy gives the sources. It takes some ten minutes on two cores, once.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

SOURCES: Final = Path(__file__).parent / "program"
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "crishim" / "kubelet"
NO_GO: Final = "go, to build the kubelet: apt-get install golang-go, of the release that tests/kubelet/program/go.mod names"


def version() -> str:
    """The release that the module requires, as v1.2.3."""
    found = re.search(r"k8s\.io/kubernetes (v[\d.]+)", (SOURCES / "go.mod").read_text(encoding="utf-8"))
    if found is None:
        raise SystemExit(f"{SOURCES}/go.mod requires no release of k8s.io/kubernetes")
    return found[1]


def cached() -> Path:
    """Where the program is, once it is built. CRISHIM_KUBELET names another that is there already."""
    return Path(os.environ.get("CRISHIM_KUBELET", CACHE / version() / "kubelet"))


def build() -> Path:
    """The program, built where it is not there. Raises SystemExit with the compiler's last lines."""
    program = cached()
    if program.exists():
        return program
    program.parent.mkdir(parents=True, exist_ok=True)
    _, minor, _ = version().split(".")
    names = {"gitVersion": version(), "gitMajor": "1", "gitMinor": minor}
    flags = " ".join(("-s", "-w", *(f"-X k8s.io/component-base/version.{name}={value}" for name, value in names.items())))
    fresh = program.with_name("kubelet.new")
    print(f"kubelet: building {version()}; this takes some ten minutes", flush=True)
    done = subprocess.run(
        ["nice", "go", "build", "-p", "2", "-mod=readonly", "-trimpath", "-ldflags", flags, "-o", fresh, "."],
        cwd=SOURCES,
        env={**os.environ, "CGO_ENABLED": "0"},  # one program for this machine and for the guest
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"the kubelet could not be built:\n{done.stderr[-1500:]}")
    fresh.rename(program)
    return program


def missing() -> list[str]:
    """What the building needs and this machine lacks; nothing where it is built."""
    return [] if cached().exists() or shutil.which("go") else [NO_GO]


if __name__ == "__main__":
    if lacking := missing():
        sys.exit(f"left out: it needs {', '.join(lacking)}")
    print(build())
