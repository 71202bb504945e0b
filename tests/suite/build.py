"""Build releases of containerd, and an NRI plugin in Go, once: `python -m tests.suite.build`. They lie in a cache folder.

The Go module proxy gives the sources of containerd, ctr and runc's shim. Each takes some minutes on two cores, once.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

MODULES: Final = {
    "v1.7.35": "github.com/containerd/containerd",
    "v2.2.9": "github.com/containerd/containerd/v2",
    "v2.4.2": "github.com/containerd/containerd/v2",
}
PROGRAMS: Final = ("containerd", "ctr", "containerd-shim-runc-v2")
CACHE: Final = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "crishim" / "containerd"
SOURCES: Final = Path(__file__).parents[1] / "nri" / "program"
PLUGIN: Final = CACHE.with_name("nri") / hashlib.sha256((SOURCES / "main.go").read_bytes()).hexdigest()[:12] / "plugin"


def missing(release: str) -> str:
    """How to get a release; empty if it is there."""
    if all((CACHE / release / name).exists() for name in PROGRAMS):
        return ""
    return f"containerd {release}: python -m tests.suite.build, with go 1.26 (apt-get install golang-go)"


def build(release: str) -> None:
    """Build a release. Raises SystemExit with the compiler's last lines."""
    module, fresh = MODULES[release], CACHE / f"{release}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    print(f"containerd: building {release}; this takes some minutes", flush=True)
    packages = [f"{module}/cmd/{name}" for name in PROGRAMS]
    flags = ("-p", "2", "-trimpath", "-ldflags", f"-s -w -X {module}/version.Version={release}")
    with tempfile.TemporaryDirectory() as folder:
        for command in (
            ("go", "mod", "init", "crishim.test/containerd"),
            ("go", "get", *(f"{package}@{release}" for package in packages)),
            ("nice", "go", "build", *flags, "-o", f"{fresh}/", *packages),
        ):
            environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"}
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"containerd {release} could not be built:\n{done.stderr[-1500:]}")
    fresh.rename(CACHE / release)


def missing_plugin() -> str:
    """How to get the NRI plugin in Go; empty if it is there."""
    return "" if PLUGIN.exists() else "tests/nri/program: python -m tests.suite.build, with go 1.26 (apt-get install golang-go)"


def build_plugin() -> None:
    """Build the NRI plugin of tests/nri/program. Raises SystemExit with the compiler's last lines."""
    PLUGIN.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"}
    command = ["nice", "go", "build", "-p", "2", "-mod=readonly", "-trimpath", "-o", str(PLUGIN), "."]
    done = subprocess.run(command, cwd=SOURCES, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"tests/nri/program could not be built:\n{done.stderr[-1500:]}")


if __name__ == "__main__":
    if not shutil.which("go"):
        sys.exit("left out: it needs go 1.26 (apt-get install golang-go)")
    for name in filter(missing, MODULES):
        build(name)
    build_plugin()
    print(*(CACHE / name for name in MODULES), PLUGIN, sep="\n")
