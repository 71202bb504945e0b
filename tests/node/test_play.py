"""`crishim play` on runc: a pod from a registry, with a network of its own."""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.backends.runc.world import needs
from tests.node.registry import Layout, serving

BRIDGE = "crishim-play0"
PODS = """
apiVersion: v1
kind: Secret
metadata: {{name: page}}
stringData: {{index.html: "from a secret"}}
---
apiVersion: v1
kind: Pod
metadata: {{name: web}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 10
  hostAliases: [{{ip: 192.0.2.7, hostnames: [alias]}}]
  initContainers:
  - name: side
    image: {image}
    restartPolicy: Always
    command: [sh, -c, "trap 'echo side ends; exit 0' TERM; while :; do sleep 0.1; done"]
  containers:
  - name: main
    image: {image}
    command: [sh, -c, "grep alias /etc/hosts; timeout 4 httpd -f -p 8080 -h /www; echo words > /dev/termination-log"]
    ports: [{{name: http, containerPort: 8080}}]
    startupProbe: {{tcpSocket: {{port: http}}, periodSeconds: 1, failureThreshold: 30}}
    readinessProbe: {{httpGet: {{port: http, path: /index.html}}, periodSeconds: 1}}
    volumeMounts: [{{name: www, mountPath: /www}}]
  volumes: [{{name: www, secret: {{secretName: page}}}}]
"""


def busybox() -> bytes:
    """A layer with busybox under the names that the pod uses."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(str(shutil.which("busybox")), "bin/busybox")
        for name in ("sh", "grep", "timeout", "httpd", "sleep", "echo"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return buffer.getvalue()


def network(folder: Path) -> None:
    """A bridge of its own for the pod."""
    folder.mkdir()
    subnet = f"10.{os.getpid() % 200 + 20}.77.0/24"
    bridge = {
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": subnet}]]},
    }
    (folder / "10-play.conflist").write_text(json.dumps({"cniVersion": "1.0.0", "name": "crishim-play", "plugins": [bridge]}))


def pod_cgroups() -> set[Path]:
    """The cgroups of pods, by the names that a kubelet gives them."""
    return {path for path in Path("/sys/fs/cgroup").glob("**/kubepods*/**/") if "pod" in path.name}


@pytest.mark.node
@needs("runc", "conmon", "skopeo", "docker-registry", "busybox", "ip")
def test_a_pod_is_played_on_runc(tmp_path: Path) -> None:
    """Probes reach the pod's own address, sidecars end last, files of a Secret are served, the last output is logged, and no
    cgroup of the pod is left.
    """
    before = pod_cgroups()
    layout = Layout(tmp_path / "layout")
    layout.image([busybox()], {"Env": ["PATH=/bin"]}, tag="t")
    network(tmp_path / "net")
    try:
        with serving(tmp_path / "registry") as registry:
            image = registry.push(layout, "t", "team/busybox:1")
            (tmp_path / "pods.yaml").write_text(PODS.format(image=image))
            config = tmp_path / "crishim.toml"
            config.write_text(f'[network]\nconfig = "{tmp_path}/net"\n')
            words = ["play", str(tmp_path / "pods.yaml"), "--backend", "runc", "--config", str(config)]
            done = subprocess.run(
                [sys.executable, "-m", "crishim", *words], capture_output=True, text=True, check=False, timeout=120
            )
    finally:
        subprocess.run(["ip", "link", "delete", BRIDGE], check=False, capture_output=True)
    assert 0 == done.returncode, done.stdout + done.stderr
    lines = [line.split(maxsplit=1)[-1].strip() for line in done.stdout.splitlines()]
    assert any(line.startswith("| 192.0.2.7") for line in lines), done.stdout
    assert "main   ready" in lines, done.stdout
    assert "main   exited 0  Completed: words" in lines, done.stdout
    assert lines.index("main   exited 0  Completed: words") < lines.index("side   exited 0  Completed"), done.stdout
    assert "| side ends" in lines, done.stdout
    assert set() == pod_cgroups() - before
