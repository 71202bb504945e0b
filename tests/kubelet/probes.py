"""Probes of every kind. Their periods are the shortest that there are."""

import contextlib
from collections.abc import Iterator
from concurrent import futures
from typing import Final

import grpc

from tests.kubelet.apiserver import Spec
from tests.kubelet.checks import check
from tests.kubelet.world import KubeletNode

QUICK: Final = {"periodSeconds": 1, "failureThreshold": 1}
SERVE: Final = "mkdir -p /tmp/w; echo ok > /tmp/w/ok; exec httpd -f -p 8080 -h /tmp/w"
SERVING: Final = b"\x08\x01"
"""grpc.health.v1.HealthCheckResponse with the status SERVING."""


def exec_probe(*command: str, **more: int) -> Spec:
    """A probe by a command."""
    return {"exec": {"command": list(command)}, **QUICK, **more}


@check
def readiness_by_exec(k: KubeletNode, pod: str) -> None:
    """A container is ready as long as its readiness command ends with 0, and it is not restarted for that."""
    path, volume, mount = k.share(pod)
    main = k.container("c", volumeMounts=[mount], readinessProbe=exec_probe("test", "-e", "/shared/ready"))
    k.put(pod, main, volumes=[volume])
    k.running(pod, "c")
    k.ready(pod, "c", wanted=False)
    (path / "ready").touch()
    k.ready(pod, "c")
    (path / "ready").unlink()
    k.ready(pod, "c", wanted=False)
    assert 0 == k.status(pod, "c")["restartCount"]


@check
def liveness_by_exec(k: KubeletNode, pod: str) -> None:
    """A container whose liveness command fails is ended and started again."""
    path, volume, mount = k.share(pod)
    (path / "alive").touch()
    main = k.container("c", volumeMounts=[mount], livenessProbe=exec_probe("test", "-e", "/shared/alive"))
    k.put(pod, main, volumes=[volume])
    k.running(pod, "c")
    (path / "alive").unlink()
    k.restarted(pod, "c")


@check
def a_probe_that_takes_too_long(k: KubeletNode, pod: str) -> None:
    """A liveness command that does not end within its timeout counts as failed, and is killed in the container."""
    script = "exec sleep 4567"
    k.put(pod, k.container("c"), k.container("slow", livenessProbe=exec_probe("sh", "-c", script, timeoutSeconds=1)))
    k.restarted(pod, "slow")
    k.until(lambda: "4567" not in k.ran(pod, "slow", "ps"), "no command of the probe goes on", 30, pod)


@check
def readiness_by_http(k: KubeletNode, pod: str) -> None:
    """A readiness probe by HTTP asks the container's server at the pod's address; a 404 is a failure."""
    path, volume, mount = k.share(pod)
    probe = {"httpGet": {"path": "/ready", "port": 8080}, **QUICK}
    main = k.container("c", "exec httpd -f -p 8080 -h /shared", readinessProbe=probe, volumeMounts=[mount])
    k.put(pod, main, volumes=[volume])
    k.running(pod, "c")
    k.ready(pod, "c", wanted=False)
    (path / "ready").write_text("yes")
    k.ready(pod, "c")


@check
def liveness_by_http(k: KubeletNode, pod: str) -> None:
    """A container whose server refuses the liveness probe is restarted."""
    k.put(pod, k.container("c", SERVE, livenessProbe={"httpGet": {"path": "/nothing", "port": 8080}, **QUICK}))
    k.restarted(pod, "c")


@check
def readiness_by_tcp(k: KubeletNode, pod: str) -> None:
    """A TCP probe succeeds when something listens on the port of the pod's address, by the port's name as well."""
    _, volume, mount = k.share(pod)
    script = "until test -e /shared/go; do usleep 100000; done; mkdir /tmp/w; exec httpd -f -p 8080 -h /tmp/w"
    ports = [{"name": "web", "containerPort": 8080}]
    probe = {"tcpSocket": {"port": "web"}, **QUICK}
    k.put(pod, k.container("c", script, readinessProbe=probe, ports=ports, volumeMounts=[mount]), volumes=[volume])
    k.running(pod, "c")
    k.ready(pod, "c", wanted=False)
    (k.shared / pod / "go").touch()
    k.ready(pod, "c")


@check
def readiness_by_grpc(k: KubeletNode, pod: str) -> None:
    """A gRPC probe asks the health service on the pod's address, for a pod on the host's network the host's."""
    with health_service() as port:
        probe = {"grpc": {"port": port, "service": "of-ours"}, **QUICK}
        k.put(pod, k.container("c", readinessProbe=probe), hostNetwork=True)
        k.ready(pod, "c")


@check
def a_startup_probe_first(k: KubeletNode, pod: str) -> None:
    """Liveness is not probed before the startup probe has succeeded: a slow start causes no restart."""
    startup = exec_probe("test", "-e", "/tmp/up", failureThreshold=60)
    script = "sleep 3; touch /tmp/up; trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done"
    k.put(pod, k.container("c", script, startupProbe=startup, livenessProbe=exec_probe("test", "-e", "/tmp/up")))
    k.ready(pod, "c")
    assert 0 == k.status(pod, "c")["restartCount"]


@check
def a_startup_probe_that_fails(k: KubeletNode, pod: str) -> None:
    """A container whose startup probe never succeeds is restarted."""
    k.put(pod, k.container("c", startupProbe=exec_probe("false")))
    k.restarted(pod, "c")


@contextlib.contextmanager
def health_service() -> Iterator[int]:
    """grpc.health.v1.Health on every address of this machine, which says SERVING; its port."""
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: SERVING)
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": handler}),))
    port = server.add_insecure_port("0.0.0.0:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None)
