"""The API server of the kubelet's release, over an etcd of its own.

A kubelet resizes, evicts and mounts config maps only for pods that it gets from an API server. There is neither a scheduler nor
a controller: a pod names its node, and its namespace has the one service account that is created here.
"""

import contextlib
import http.client
import json
import signal
import ssl
import subprocess
import time
from pathlib import Path
from typing import Any, Final

from crishim.testing.suite.node import free_port

Spec = dict[str, Any]

TOKEN: Final = "of-the-tests"
NAMESPACE: Final = "test"
PODS: Final = f"/api/v1/namespaces/{NAMESPACE}/pods"
MERGE: Final = "application/merge-patch+json"
STRATEGIC: Final = "application/strategic-merge-patch+json"


class ApiServer:
    """A running API server and its etcd, in a folder."""

    def __init__(self, place: Path, programs: Path) -> None:
        self.place = place
        self.kubeconfig = place / "kubeconfig"
        self._certificate = place / "apiserver.crt"
        self._programs = programs
        self._port = free_port()
        self._processes: list[subprocess.Popen[bytes]] = []
        place.mkdir(mode=0o700)

    def start(self) -> None:
        """Start both, and return when pods can be created. Raises AssertionError with the end of the log."""
        store, peers = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        self._run("etcd", f"--data-dir={self.place}/etcd", "--unsafe-no-fsync", *_etcd_addresses(store, peers))
        key, tokens = self.place / "key", self.place / "tokens"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        tokens.write_text(f'{TOKEN},tests,1,"system:masters"\n')
        self._run(
            "kube-apiserver",
            *(f"--etcd-servers={store}", "--bind-address=127.0.0.1", f"--secure-port={self._port}"),
            *(f"--cert-dir={self.place}", f"--token-auth-file={tokens}", "--authorization-mode=AlwaysAllow"),
            *(f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}"),
            *("--service-account-issuer=https://node.test", "--service-cluster-ip-range=10.254.0.0/24"),
            *("--advertise-address=192.0.2.1", "--endpoint-reconciler-type=none", "--allow-privileged"),
            "--disable-admission-plugins=TaintNodesByCondition",  # nobody would take the taint of a new node away
        )
        self._write_kubeconfig()
        limit = time.monotonic() + 180
        while not self._ready():
            ended = [process for process in self._processes if process.poll() is not None]
            if ended or time.monotonic() > limit:
                raise AssertionError(f"the API server does not answer:\n{self.log()[-2000:]}")
            time.sleep(0.2)
        self.create("/api/v1/namespaces", NAMESPACE, "v1", "Namespace")
        accounts = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
        self.create(accounts, "default", "v1", "ServiceAccount", automountServiceAccountToken=False)

    def close(self) -> None:
        """End both."""
        for process in reversed(self._processes):
            process.send_signal(signal.SIGKILL)
            process.wait()
        self._processes.clear()

    def log(self) -> str:
        """What both have logged."""
        return (self.place / "log").read_text(errors="replace")

    def call(self, method: str, path: str, body: Spec | None = None, *, kind: str = "application/json") -> Spec:
        """A call's answer. Raises AssertionError for one that is refused."""
        context = ssl.create_default_context(cafile=str(self._certificate))
        connection = http.client.HTTPSConnection("127.0.0.1", self._port, timeout=60, context=context)
        with contextlib.closing(connection):
            headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": kind}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            reply = connection.getresponse()
            text = reply.read().decode()
        assert reply.status < http.HTTPStatus.BAD_REQUEST, f"{method} {path}: {text}"
        return dict(json.loads(text))

    def create(self, path: str, name: str, version: str, kind: str, **fields: Any) -> Spec:
        """Create an object of a kind."""
        return self.call("POST", path, {"apiVersion": version, "kind": kind, "metadata": {"name": name}, **fields})

    def delete(self, path: str) -> None:
        """Delete an object, which may be gone already."""
        with contextlib.suppress(AssertionError):
            self.call("DELETE", path)

    def pods(self) -> list[Spec]:
        """All pods that are not static ones' mirrors."""
        items = self.call("GET", PODS)["items"]
        return [pod for pod in items if "kubernetes.io/config.mirror" not in pod["metadata"].get("annotations", {})]

    def _run(self, name: str, *arguments: str) -> None:
        with (self.place / "log").open("ab") as log:
            command = [str(self._programs / name), *arguments]
            self._processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    def _ready(self) -> bool:
        with contextlib.suppress(AssertionError, OSError, http.client.HTTPException):
            self.call("GET", "/api/v1/namespaces/default")
            return True
        return False

    def _write_kubeconfig(self) -> None:
        cluster = {"server": f"https://127.0.0.1:{self._port}", "certificate-authority": str(self._certificate)}
        text = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "one", "cluster": cluster}],
            "users": [{"name": "one", "user": {"token": TOKEN}}],
            "contexts": [{"name": "one", "context": {"cluster": "one", "user": "one"}}],
            "current-context": "one",
        }
        self.kubeconfig.write_text(json.dumps(text))


def _etcd_addresses(clients: str, peers: str) -> tuple[str, ...]:
    return (
        *(f"--listen-client-urls={clients}", f"--advertise-client-urls={clients}"),
        *(f"--listen-peer-urls={peers}", f"--initial-advertise-peer-urls={peers}", f"--initial-cluster=default={peers}"),
    )
