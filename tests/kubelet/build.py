"""Build the kubelet, its API server and etcd once: `python -m tests.kubelet.build`.

They lie in a cache folder, outside the checkout, by their release. `program/` is a Go module with a folder for each, whose
go.mod names the release of k8s.io/kubernetes and replaces the modules of its staging folder by their own releases. The Go
module proxy gives the sources. It takes some fifteen minutes on two cores, once.
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
PROGRAMS: Final = ("kubelet", "kube-apiserver", "etcd")
NO_GO: Final = "go, to build the kubelet: apt-get install golang-go, of the release that tests/kubelet/program/go.mod names"


def version() -> str:
    """The release that the module requires, as v1.2.3."""
    found = re.search(r"k8s\.io/kubernetes (v[\d.]+)", (SOURCES / "go.mod").read_text(encoding="utf-8"))
    if found is None:
        raise SystemExit(f"{SOURCES}/go.mod requires no release of k8s.io/kubernetes")
    return found[1]


def cached() -> Path:
    """The folder with the programs, once they are built. CRISHIM_KUBELET names another that has them already."""
    return Path(os.environ.get("CRISHIM_KUBELET", CACHE / version()))


def unbuilt() -> list[str]:
    """The programs that are not built yet."""
    return [name for name in PROGRAMS if not (cached() / name).exists()]


def build() -> Path:
    """The folder with the programs, each built where it is not there. Raises SystemExit with the compiler's last lines."""
    folder = cached()
    folder.mkdir(parents=True, exist_ok=True)
    _, minor, _ = version().split(".")
    names = {"gitVersion": version(), "gitMajor": "1", "gitMinor": minor}
    flags = " ".join(("-s", "-w", *(f"-X k8s.io/component-base/version.{name}={value}" for name, value in names.items())))
    for name in unbuilt():
        fresh = folder / f"{name}.new"
        print(f"kubelet: building {name} of {version()}; this takes some minutes", flush=True)
        done = subprocess.run(
            ["nice", "go", "build", "-p", "2", "-mod=readonly", "-trimpath", "-ldflags", flags, "-o", fresh, f"./{name}"],
            cwd=SOURCES,
            env={**os.environ, "CGO_ENABLED": "0"},  # one program for this machine and for the guest
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{name} could not be built:\n{done.stderr[-1500:]}")
        fresh.rename(folder / name)
    return folder


def missing() -> list[str]:
    """What the building needs and this machine lacks; nothing where all is built."""
    return [] if not unbuilt() or shutil.which("go") else [NO_GO]


if __name__ == "__main__":
    if lacking := missing():
        sys.exit(f"left out: it needs {', '.join(lacking)}")
    print(build())
