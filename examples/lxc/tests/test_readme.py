"""The commands of the README, in namespaces of their own; needs root, LXC and what a node has."""

import ctypes.util
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from crishim.testing.roots import APPLETS

TOOLS = {
    "crictl": "on PATH; docs/how-to/debug.md says how to get it",
    "docker-registry": "apt-get install docker-registry",
    "skopeo": "apt-get install skopeo",
    "busybox": "apt-get install busybox-static",
    "/usr/lib/cni/bridge": "apt-get install containernetworking-plugins",
}
MISSING = [f"needs {tool}: {remedy}" for tool, remedy in TOOLS.items() if shutil.which(tool) is None]
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run the tests as root"),
    pytest.mark.skipif(ctypes.util.find_library("lxc") is None, reason="needs LXC: apt-get install lxc"),
    pytest.mark.skipif(bool(MISSING), reason="; ".join(MISSING)),
]
README = Path(__file__).parents[1] / "README.md"
PREPARE = """
mount --make-rprivate / && mount --make-rshared / && ip link set lo up
printf 'version: 0.1\nstorage: {filesystem: {rootdirectory: registry}}\nhttp: {addr: "127.0.0.1:5000"}\n' > registry.yml
docker-registry serve registry.yml > registry.log 2>&1 &
REGISTRY=$!
push() { skopeo copy --quiet --dest-tls-verify=false oci:image:latest docker://127.0.0.1:5000/shell:1 2>> registry.log; }
until push; do sleep 0.2; done
echo '{"default": [{"type": "insecureAcceptAnything"}]}' > policy.json
export IMAGE=127.0.0.1:5000/shell:1
"""
END = "\nkill $! $REGISTRY; wait; umount --quiet --recursive state/* 2>/dev/null; true\n"


def write_image(layout: Path) -> None:
    """An OCI layout with an image of busybox."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add(str(shutil.which("busybox")), "bin/busybox")
        for name in [f"bin/{applet}" for applet in APPLETS] + ["bin/pwd", "bin/seq"]:
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        for name in ("tmp", "proc", "sys", "dev"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
    (layout / "blobs" / "sha256").mkdir(parents=True)

    def blob(kind: str, data: bytes) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (layout / "blobs" / "sha256" / digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    diff = f"sha256:{hashlib.sha256(layer.getvalue()).hexdigest()}"
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [diff]}}
    made = blob("config.v1+json", json.dumps(config).encode())
    layers = [blob("layer.v1.tar+gzip", gzip.compress(layer.getvalue()))]
    manifest = blob("manifest.v1+json", json.dumps({"schemaVersion": 2, "config": made, "layers": layers}).encode())
    manifest["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))


def commands() -> Iterator[tuple[str, str]]:
    """The commands of the README's consoles, each with what it prints."""
    for block in re.findall(r"^```console\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL):
        for text in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            lines = text.splitlines()
            more = [line for line in lines[1:] if line.startswith("> ")]
            printed = [line for line in lines[1:] if not line.startswith("> ")]
            yield "\n".join([lines[0], *(line[2:] for line in more)]), "\n".join(printed)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name, since sockets are in it."""
    with tempfile.TemporaryDirectory(prefix="lxc") as name:
        yield Path(name)


def test_the_commands_do_what_the_readme_says(folder: Path) -> None:
    """A container of a pod runs with its host name, folder and limit, and survives a restart of crishim."""
    write_image(folder / "image")
    steps = list(commands())
    script = PREPARE + "".join(f"echo @@@; {command}\n" for command, _ in steps) + f"echo @@@{END}"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["unshare", "--mount", "--net", "bash", "-c", script]
    done = subprocess.run(
        command, cwd=folder, env={"PATH": path, "HOME": str(folder)}, capture_output=True, text=True, timeout=120, check=False
    )
    log = (folder / "serve.log").read_text() if (folder / "serve.log").exists() else ""
    seen = done.stdout.split("@@@\n")[1:]
    for (wanted, expected), printed in zip(steps, seen, strict=False):
        pattern = ".*".join(map(re.escape, expected.split("...")))
        assert re.fullmatch(pattern, printed.strip(), re.DOTALL), f"$ {wanted}\n{printed}\n{done.stderr}\n{log}"
    assert len(steps) + 1 == len(seen), done.stderr
