"""A node with a kubelet of its own, over a `crishim serve` of the same folder.

The kubelet runs as it does on nodes: standalone, with pods that are manifests in a folder, and later with an API server, from
which it has more pods. The state of both is read from the kubelet's own API. Its paths outside its folder
(/var/lib/kubelet/device-plugins, /var/log/containers) are bound to the folder in a mount namespace, created by `run.py`.
"""

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import signal
import ssl
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

import attrs

from crishim._proto import cri_pb2 as pb
from crishim.interfaces.oci_runtime import FIRST_PROCESS
from crishim.linux.mounts import unmount_below
from crishim.linux.processes import recorded, runs
from crishim.play import CriClient
from crishim.testing.suite.node import free_port
from tests.kubelet import settings
from tests.kubelet.apiserver import NAMESPACE, PODS, ApiServer, Spec
from tests.kubelet.clock import with_clock
from tests.kubelet.settings import NUMBER
from tests.node.registry import File, Layout, Registry, folder, hardlink, serving, tar_of
from tests.node.world import CGROUPS, Node

T = TypeVar("T")

NAME: Final = "node"
HANDLER: Final = "other"
"""A handler of the runtime beside its default, for a RuntimeClass."""

MIB: Final = 1 << 20


class LeftOut(Exception):
    """A check that cannot run here; its text is the reason."""


@contextlib.contextmanager
def images(place: Path) -> Iterator[Registry]:
    """A registry with a busybox under all its names as `test/box:1`, and other images beside it."""
    program = str(shutil.which("busybox"))
    applets = subprocess.run([program, "--list"], capture_output=True, text=True, check=True).stdout.split()
    links = [hardlink(f"bin/{name}", "bin/busybox") for name in applets if name != "busybox"]
    base = tar_of(
        *(folder(name) for name in ("bin", "etc", "proc", "dev", "sys", "var", "mnt")),
        folder("tmp", 0o1777),
        File("etc/passwd", b"root:x:0:0:root:/:/bin/sh\n"),
        File("etc/group", b"root:x:0:\n"),
        File("bin/busybox", Path(program).read_bytes(), mode=0o755),
        *links,
    )
    layout = Layout(place / "layout")
    config = {"Cmd": ["sh"], "Env": ["PATH=/bin"]}
    layout.image([base], config, tag="box")
    layout.image([base, tar_of(File("unused", b"1"))], config, tag="unused")
    layout.image([tar_of(File("file", b"from an image\n"))], tag="data")
    with serving(place / "registry") as registry:
        for name in ("box", "unused", "data"):
            registry.push(layout, name, f"test/{name}:1")
        yield registry


@attrs.frozen
class Reply:
    """What the kubelet's API has answered."""

    status: int
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")


class KubeletNode:
    """The node: server, kubelet, manifests, and questions to the kubelet's API."""

    def __init__(self, node: Node, programs: Path, registry: Registry) -> None:
        self.node = node
        self.registry = registry
        self.images = f"{registry.address}/test"
        self.place = node.place / "kubelet"
        self.manifests = self.place / "manifests"
        self.logs = self.place / "pod-logs"
        self.shared = self.place / "shared"
        self.port, self.read_only, self.health, self.metrics = (free_port() for _ in range(4))
        self._programs = programs
        self._process: subprocess.Popen[bytes] | None = None
        self._server: ApiServer | None = None
        for path in (self.manifests, self.logs, self.shared, self.place / "pki"):
            path.mkdir(parents=True)
        config = node.place / "crishim.toml"
        text = config.read_text().replace('"" = "runc"\n', f'"" = "runc"\n{HANDLER} = "runc"\n')
        config.write_text(f'metrics_address = "127.0.0.1:{self.metrics}"\n{text}')
        (self.place / "resolv.conf").write_text("nameserver 127.0.0.53\nsearch node.test\n")

    # What runs

    def start(self, **changed: Any) -> None:
        """Start the kubelet, with settings that are `changed`, and return when it says that it is healthy.

        A kubelet ends at once where no runtime answers.
        """
        self.ask(lambda client: client.version())
        self._make_cgroup()
        (self.place / "config.json").write_text(json.dumps({**settings.settings(self), **changed}, indent=1))
        command = [f"{self._programs}/kubelet", f"--config={self.place}/config.json", f"--root-dir={self.place}/root", "--v=2"]
        if self._server is not None:
            command.append(f"--kubeconfig={self._server.kubeconfig}")
        with (self.place / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*with_clock(self.place), *command, f"--cert-dir={self.place}/pki", f"--hostname-override={NAME}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        process = self._process

        def healthy() -> bool:
            if process.poll() is not None:
                raise AssertionError(f"the kubelet has ended:\n{self.log()[-3000:]}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                return self.get("/healthz").status == http.HTTPStatus.OK
            return False

        self.until(healthy, "the kubelet is healthy", 120)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the kubelet; containers keep running."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None

    def mount_namespaces(self) -> set[Path]:
        """Those of this process and of the kubelet, which are one or have the same mounts but for a clock."""
        assert self._process is not None
        return {Path(f"/proc/{pid}/ns/mnt").readlink() for pid in ("self", self._process.pid)}

    def join(self) -> None:
        """Start an API server, and the kubelet anew with it."""
        self.stop()
        server = ApiServer(self.place / "server", self._programs)
        self._server = server
        server.start()
        self.start()
        self.until(lambda: server.call("GET", "/api/v1/nodes")["items"], "the node is registered", 120)

    @property
    def server(self) -> ApiServer:
        """The API server, which the kubelet has joined."""
        assert self._server is not None
        return self._server

    def log(self) -> str:
        """What the kubelet has logged."""
        return (self.place / "log").read_text(errors="replace")

    # Pods

    def put(self, name: str, *containers: Spec, labels: Mapping[str, str] | None = None, **spec: Any) -> None:
        """Have a pod of this specification, or another in place of the one of that name."""
        hidden = self.place / f"{name}.json"
        hidden.write_text(json.dumps(_manifest(name, containers, labels, spec)))
        hidden.rename(self.manifests / f"{name}.json")

    def order(self, name: str, *containers: Spec, labels: Mapping[str, str] | None = None, **spec: Any) -> None:
        """Have the API server give the node a pod. It is called as a static pod of that name is."""
        self.server.call("POST", PODS, _manifest(f"{name}-{NAME}", containers, labels, {"nodeName": NAME, **spec}))

    def clean(self, name: str) -> None:
        """Have the pods of a check no more: that of its name, and others named NAME--MORE."""

        def own(pod: str) -> bool:
            return pod.startswith(name) and pod.removeprefix(name)[:2] in {"", "--"}

        for path in self.manifests.glob("*.json"):
            if own(path.stem):
                path.unlink()
        for pod in [] if self._server is None else self._server.pods():
            if own(pod["metadata"]["name"].removesuffix(f"-{NAME}")):
                self.cancel(pod["metadata"]["name"].removesuffix(f"-{NAME}"))

    def cancel(self, name: str) -> None:
        """Delete a pod of the API server."""
        self.server.delete(f"{PODS}/{name}-{NAME}")

    def take_away(self, name: str) -> None:
        """Have a pod no more, and return when it is stopped. The kubelet shows it no more from the first moment on."""
        (self.manifests / f"{name}.json").unlink(missing_ok=True)
        self.until(lambda: self.pod(name) is None, f"pod {name} is taken away", 60)
        self.until(lambda: pb.SANDBOX_READY not in self.sandboxes(name), f"pod {name} is stopped", 60)

    def pod_folders(self) -> list[Path]:
        """The folders that the kubelet has for pods, each named by its pod's uid."""
        return list((self.place / "root/pods").glob("*"))

    def sandboxes(self, name: str) -> list[int]:
        """The states of the sandboxes that the runtime has of a pod."""
        pods = self.ask(lambda client: client.list_sandboxes({}))
        return [pod.state for pod in pods if pod.metadata.name == f"{name}-{NAME}"]

    def signal(self, container: str, number: int) -> None:
        """Send a signal to a container's first process from the host, and return when it has ended."""
        process = recorded(self.node.run / "backends/runc/containers" / container / FIRST_PROCESS)
        assert process is not None
        os.kill(process.pid, number)
        self.until(lambda: not runs(process), "the process has ended", 30)

    def container(self, name: str, *script: str, image: str = "box:1", **more: Any) -> Spec:
        """A container that runs a script of the shell; without one it waits for its end."""
        text = "\n".join(script) or "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done"
        return {"name": name, "image": f"{self.images}/{image}", "command": ["sh", "-c", text], **more}

    def share(self, name: str) -> tuple[Path, Spec, Spec]:
        """A folder of the host that a pod can have at /shared: the folder, the volume, and the mount."""
        path = self.shared / name
        path.mkdir(exist_ok=True)
        path.chmod(0o777)
        return path, {"name": "shared", "hostPath": {"path": str(path)}}, {"name": "shared", "mountPath": "/shared"}

    def pod(self, name: str) -> Spec | None:
        """What the kubelet knows of a pod; None where it knows none."""
        pods = json.loads(self.get("/pods").body)["items"] or []
        return next((pod for pod in pods if pod["metadata"]["name"] == f"{name}-{NAME}"), None)

    def status(self, name: str, container: str) -> Spec:
        """A container's status; empty before there is one."""
        status = (self.pod(name) or {}).get("status", {})
        for kind in ("initContainerStatuses", "containerStatuses"):
            for one in status.get(kind) or []:
                if one["name"] == container:
                    return dict(one)
        return {}

    def phase(self, name: str, wanted: str, seconds: float = 60) -> Spec:
        """The pod, once it is in a phase."""

        def reached() -> Spec | None:
            pod = self.pod(name)
            return pod if pod and pod["status"].get("phase") == wanted else None

        return self.until(reached, f"pod {name} is {wanted}", seconds, name)

    def running(self, name: str, *containers: str) -> None:
        """Return when these containers run."""
        for container in containers:
            self.state(name, container, "running")

    def ready(self, name: str, container: str, wanted: bool = True) -> None:
        """Return when a container is ready, or not ready."""
        self.until(lambda: self.status(name, container).get("ready") is wanted, f"{name}/{container} ready: {wanted}", 60, name)

    def state(self, name: str, container: str, kind: str, seconds: float = 60) -> Spec:
        """A container's state, once it is of a kind: waiting, running or terminated."""

        def reached() -> Spec | None:
            state = self.status(name, container).get("state", {})
            return dict(state[kind] or {"": ""}) if kind in state else None

        return self.until(reached, f"{name}/{container} is {kind}", seconds, name)

    def waits(self, name: str, container: str, *reasons: str) -> None:
        """Return when a container waits for one of these reasons."""

        def waiting() -> bool:
            return self.status(name, container).get("state", {}).get("waiting", {}).get("reason") in reasons

        self.until(waiting, f"{name}/{container} waits: {reasons}", 60, name)

    def restarted(self, name: str, container: str, times: int = 1) -> Spec:
        """A container's status, once it was restarted that often."""

        def reached() -> Spec | None:
            status = self.status(name, container)
            return status if status.get("restartCount", 0) >= times else None

        return self.until(reached, f"{name}/{container} is restarted", 60, name)

    def id_of(self, name: str, container: str) -> str:
        """A container's id, as the runtime has it."""
        return str(self.status(name, container).get("containerID", "")).partition("://")[2]

    def uid(self, name: str) -> str:
        """A pod's uid."""
        pod = self.pod(name)
        assert pod is not None
        return str(pod["metadata"]["uid"])

    def logged(self, name: str, container: str, **query: Any) -> str:
        """A container's log, through the kubelet."""
        reply = self.get(f"/containerLogs/test/{name}-{NAME}/{container}", **query)
        return reply.text if reply.status == http.HTTPStatus.OK else ""

    def says(self, name: str, container: str, text: str, seconds: float = 60) -> str:
        """A container's log, once it has a text."""

        def found() -> str:
            log = self.logged(name, container)
            return log if text in log else ""

        return self.until(found, f"{name}/{container} logs {text!r}", seconds, name)

    def ran(self, name: str, container: str, command: str) -> str:
        """What a command prints in a container, run through the kubelet, which parts it at its blanks."""
        reply = self.request("POST", f"/run/test/{name}-{NAME}/{container}", cmd=command)
        assert reply.status == http.HTTPStatus.OK, reply.text
        return reply.text

    def ask(self, question: Callable[[CriClient], Awaitable[T]]) -> T:
        """The runtime's answer to a question, once its server answers."""

        async def request() -> T:
            async with self.node.client() as client:
                return await question(client)

        return asyncio.run(request())

    # The API

    def get(self, path: str, **query: Any) -> Reply:
        """Read from the kubelet's authenticated port."""
        return self.request("GET", path, **query)

    def request(self, method: str, path: str, **query: Any) -> Reply:
        """Ask the kubelet's authenticated port."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=self.tls())
        return _request(connection, method, path, query)

    def get_read_only(self, path: str) -> Reply:
        """Read from the kubelet's port without authentication."""
        return _request(http.client.HTTPConnection("127.0.0.1", self.read_only, timeout=60), "GET", path, {})

    def metrics_of(self, name: str) -> dict[str, float]:
        """Values of a metric of the server's, by their labels."""
        text = _request(http.client.HTTPConnection("127.0.0.1", self.metrics, timeout=60), "GET", "/metrics", {}).text
        lines = (line.rpartition(" ") for line in text.splitlines() if line.startswith(f"{name}{{"))
        return {labels.removeprefix(name): float(value) for labels, _, value in lines}

    def tls(self) -> ssl.SSLContext:
        """The kubelet's certificate is its own; it is the one of our folder."""
        context = ssl.create_default_context(cafile=str(self.place / "pki/kubelet.crt"))
        context.check_hostname = False
        return context

    def until(self, condition: Callable[[], T | None], sentence: str, seconds: float = 60, pod: str = "") -> T:
        """What the condition gives, once it is true. Raises AssertionError with the sentence, and the status of a pod."""
        limit = time.monotonic() + seconds
        while True:
            if found := condition():
                return found
            if time.monotonic() > limit:
                status = json.dumps((self.pod(pod) or {}).get("status")) if pod else ""
                raise AssertionError(f"not within {seconds:.0f} s: {sentence}. {status}")
            time.sleep(0.2)

    # The cgroups of this node's pods

    def pod_cgroup(self, uid: str, controller: str = "memory") -> Path:
        """A pod's cgroup, of a controller where each has a hierarchy."""
        base = CGROUPS / controller if (CGROUPS / controller).is_dir() else CGROUPS
        marks = (f"pod{uid}", f"pod{uid.replace('-', '_')}.slice")
        found = [Path(top, name) for top, names, _ in os.walk(base) for name in names if name.endswith(marks)]
        assert found, f"no cgroup of pod {uid} below {base}"
        return min(found, key=lambda path: len(path.parts))

    def cgroup(self, name: str, container: str, controller: str = "memory") -> Path:
        """A container's cgroup."""
        pod, number = self.pod_cgroup(self.uid(name), controller), self.id_of(name, container)
        return pod / (f"crishim-{number}.scope" if self.node.systemd else number)

    def _make_cgroup(self) -> None:
        """The root of what the kubelet makes, so that it touches no other cgroup of this machine."""
        if self.node.systemd:
            unit = f"crinode{NUMBER}.slice"
            processors = Path("/sys/devices/system/cpu/online").read_text().strip()
            subprocess.run(["systemctl", "start", unit], check=True)
            have = ("CPUWeight=100", f"AllowedCPUs={processors}", "TasksAccounting=yes", "MemoryAccounting=yes")
            subprocess.run(["systemctl", "set-property", "--runtime", unit, *have], check=True)  # a controller for each
            return
        for controller in CGROUPS.iterdir():
            if controller.is_dir() and not controller.is_symlink() and controller.name != "unified":
                (controller / f"crinode{NUMBER}").mkdir(exist_ok=True)

    def left(self) -> set[str]:
        """What is on this machine because of pods; not the groups of their classes, which are the kubelet's."""
        folders = {str(path) for path in self.pod_folders()}
        groups = {line for line in self.node.traces() if line.startswith("cgroup")}
        pods = {str(path) for path in CGROUPS.rglob("*pod????????[-_]????*") if f"crinode{NUMBER}" in str(path)}
        return (self.node.traces() - groups) | folders | pods

    def close(self) -> None:
        """Have every pod gone, then kubelet and servers, and what they leave in the folder."""
        for manifest in self.manifests.glob("*.json"):
            manifest.unlink()
        self.stop()
        if self._server is not None:
            self._server.close()
        self.node.close()
        unmount_below(self.place)
        if self.node.systemd:
            subprocess.run(["systemctl", "revert", f"crinode{NUMBER}.slice"], check=False, capture_output=True)
        for _ in range(50):  # slices and cgroups go from their leaves
            left = [path for path in CGROUPS.rglob(f"*crinode{NUMBER}*") if path.is_dir()]
            for top in left:
                for path in sorted(top.rglob("*/"), key=lambda one: -len(one.parts)):
                    with contextlib.suppress(OSError):
                        path.rmdir()
                with contextlib.suppress(OSError):
                    top.rmdir()
            if not left:
                break
            time.sleep(0.1)


def _manifest(name: str, containers: Sequence[Spec], labels: Mapping[str, str] | None, spec: Mapping[str, Any]) -> Spec:
    metadata = {"name": name, "namespace": NAMESPACE, "labels": dict(labels or {})}
    spec = {"terminationGracePeriodSeconds": 2, **spec, "containers": list(containers)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _request(connection: http.client.HTTPConnection, method: str, path: str, query: Mapping[str, Any]) -> Reply:
    with contextlib.closing(connection):
        connection.request(method, f"{path}?{urlencode(query, doseq=True)}" if query else path)
        reply = connection.getresponse()
        return Reply(reply.status, reply.read())
