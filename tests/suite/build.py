"""Build containerd 2 once: `python -m tests.suite.build`. It lies in a cache folder, outside the checkout, by its release.

The Go module proxy gives the sources of containerd, ctr and runc's shim. It takes some minutes on two cores, once.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

VERSION: Final = "v2.4.2"
MODULE: Final = "github.com/containerd/containerd/v2"
PROGRAMS: Final = ("containerd", "ctr", "containerd-shim-runc-v2")
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "crishim" / "containerd"
MISSING: Final = "containerd 2: python -m tests.suite.build, which needs go (apt-get install golang-go, 1.26 or later)"


def cached() -> Path:
    """The folder of the programs, once they are built. CRISHIM_CONTAINERD names another in which they are."""
    return Path(os.environ.get("CRISHIM_CONTAINERD", CACHE / VERSION))


def built() -> bool:
    """Whether all programs are there."""
    return all((cached() / name).exists() for name in PROGRAMS)


def build() -> Path:
    """The folder of the programs, built where they are not there. Raises SystemExit with the compiler's last lines."""
    if built():
        return cached()
    fresh = CACHE / f"{VERSION}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    print(f"containerd: building {VERSION}; this takes some minutes", flush=True)
    flags = ("-trimpath", "-ldflags", f"-s -w -X {MODULE}/version.Version={VERSION}")
    done = subprocess.run(
        ["nice", "go", "install", "-p", "2", *flags, *(f"{MODULE}/cmd/{name}@{VERSION}" for name in PROGRAMS)],
        env={**os.environ, "CGO_ENABLED": "0", "GOBIN": str(fresh), "GOFLAGS": "-buildvcs=false"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"containerd could not be built:\n{done.stderr[-1500:]}")
    fresh.rename(CACHE / VERSION)
    return cached()


if __name__ == "__main__":
    if not built() and not shutil.which("go"):
        sys.exit(f"left out: it needs {MISSING}")
    print(build())
