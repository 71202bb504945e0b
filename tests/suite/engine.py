"""A Docker Engine for the suite: it finds canonical names at the loopback registry, and runs on narrow machines, too.

The engine mirrors Docker Hub alone. So the registries that the suite names are called insecure, and the loopback registry its
proxy: HTTPS fails there at once, and plain HTTP through a proxy is a request that any HTTP server can answer.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from crishim.oci.facts import CAPABILITIES
from crishim.pods.host import host


def runtime_options(folder: Path) -> list[str]:
    """Options for a runtime that fits this machine; none where plain runc does."""
    if host().bounding == frozenset(CAPABILITIES):
        return []
    program = folder / "narrow"
    script = Path(__file__).with_name("narrow_runtime.py")
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -E {script} "$@"\n')
    program.chmod(0o755)
    return [f"--add-runtime=narrow={program}", "--default-runtime=narrow"]


@contextlib.contextmanager
def engine(folder: Path, port: int, registries: Sequence[str]) -> Iterator[str]:
    """An engine whose images come from the registry at `port`; answers the path of its socket."""
    proxy = f"http://127.0.0.1:{port}"
    command = [
        "dockerd",
        f"--host=unix://{folder}/docker.sock",
        f"--data-root={folder}/docker",
        f"--exec-root={folder}/docker-run",
        f"--pidfile={folder}/docker.pid",
        "--bridge=none",
        "--iptables=false",
        *(f"--insecure-registry={registry}" for registry in registries),
        *runtime_options(folder),
    ]
    with (folder / "docker.log").open("wb") as log:
        env = {**os.environ, "HTTP_PROXY": proxy, "HTTPS_PROXY": proxy}
        started = subprocess.Popen(command, stdout=log, stderr=log, env=env)
    try:
        yield f"{folder}/docker.sock"
    finally:
        started.terminate()
        started.wait(60)


def available() -> bool:
    """Whether there is an engine to start."""
    return shutil.which("dockerd") is not None
