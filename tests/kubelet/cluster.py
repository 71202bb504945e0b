"""What a kubelet does only to pods of an API server: config maps, secrets, resizes, evictions, handlers, debug containers."""

import base64
import functools
import json
import signal
from pathlib import Path

from crishim.pods.host import cgroup_v2
from tests.kubelet.apiserver import MERGE, NAMESPACE, PODS, STRATEGIC, Spec
from tests.kubelet.checks import check_with_server, check_with_server_alone
from tests.kubelet.limits import cpu_limit, memory_limit
from tests.kubelet.world import HANDLER, MIB, NAME, KubeletNode, LeftOut

CONFIG_MAPS = f"/api/v1/namespaces/{NAMESPACE}/configmaps"
SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"


def resize(k: KubeletNode, pod: str, resources: Spec) -> None:
    """Ask for other resources of container c, in place."""
    body = {"spec": {"containers": [{"name": "c", "resources": resources}]}}
    k.server.call("PATCH", f"{PODS}/{pod}-{NAME}/resize", body, kind=STRATEGIC)


def condition(k: KubeletNode, pod: str, kind: str) -> Spec:
    """A condition of a pod's status; empty where it has none of that kind."""
    status = k.server.call("GET", f"{PODS}/{pod}-{NAME}")["status"]
    return next((one for one in status.get("conditions", []) if one["type"] == kind), {})


def has_limits(k: KubeletNode, pod: str, limits: Spec) -> bool:
    """Whether container c has these limits, as the kubelet has them from the runtime."""
    return bool(limits == k.status(pod, "c").get("resources", {}).get("limits"))


def has_event(k: KubeletNode, pod: str, *words: str) -> bool:
    """Whether the message of one of the pod's events has all these words."""
    events = k.server.call("GET", f"/api/v1/namespaces/{NAMESPACE}/events")["items"]
    texts = [one["message"] for one in events if one["involvedObject"]["name"] == f"{pod}-{NAME}"]
    return any(all(word in text for word in words) for text in texts)


@check_with_server
def a_resize(k: KubeletNode, pod: str) -> None:
    """A running container's limits of memory and processors change in place, up and down: same container, no restart."""
    k.order(pod, k.container("c", "sleep 600", resources={"limits": {"memory": "40Mi", "cpu": "100m"}}))
    k.running(pod, "c")
    before = k.id_of(pod, "c")
    for memory, cpu in ((64, 200), (48, 50)):
        wanted = {"memory": f"{memory}Mi", "cpu": f"{cpu}m"}
        resize(k, pod, {"requests": wanted, "limits": wanted})
        reached = functools.partial(has_limits, k, pod, wanted)
        k.until(reached, f"the status has {wanted}", 60, pod)
        assert (memory * MIB, cpu / 1000) == (memory_limit(k.cgroup(pod, "c")), cpu_limit(k, pod, "c"))
        assert memory * MIB == memory_limit(k.pod_cgroup(k.uid(pod)))
    k.until(lambda: not condition(k, pod, "PodResizeInProgress"), "no resize is in progress", 60)
    assert (before, 0) == (k.id_of(pod, "c"), k.status(pod, "c")["restartCount"])


@check_with_server
def a_resize_below_what_is_used(k: KubeletNode, pod: str) -> None:
    """A memory limit below what a container uses is not set, the pod's condition says so, and the container goes on."""
    eats = "(head -c 60m /dev/zero; sleep 600) | tail -n 1"
    k.order(pod, k.container("c", eats, resources={"limits": {"memory": "120Mi"}}))
    k.running(pod, "c")
    current = "memory.current" if cgroup_v2() else "memory.usage_in_bytes"
    k.until(lambda: int((k.cgroup(pod, "c") / current).read_text()) > 60 * MIB, "the memory is used", 60)
    resize(k, pod, {"requests": {"memory": "30Mi"}, "limits": {"memory": "30Mi"}})
    k.until(lambda: condition(k, pod, "PodResizeInProgress").get("reason") == "Error", "the resize is refused", 90, pod)
    assert 120 * MIB == memory_limit(k.cgroup(pod, "c"))
    assert 0 == k.status(pod, "c")["restartCount"]
    assert "running" in k.status(pod, "c")["state"]


@check_with_server
def a_resize_by_restart(k: KubeletNode, pod: str) -> None:
    """A container whose resizePolicy is RestartContainer is started again with its new limit."""
    policy = [{"resourceName": "memory", "restartPolicy": "RestartContainer"}]
    limits = {"memory": "40Mi", "cpu": "50m"}
    k.order(pod, k.container("c", resizePolicy=policy, resources={"limits": limits}))
    k.running(pod, "c")
    wanted = {**limits, "memory": "56Mi"}
    resize(k, pod, {"requests": wanted, "limits": wanted})
    k.restarted(pod, "c")
    k.running(pod, "c")
    assert 56 * MIB == memory_limit(k.cgroup(pod, "c"))


@check_with_server
def a_resize_of_a_pod(k: KubeletNode, pod: str) -> None:
    """The limits of a whole pod change in place, and the runtime gets them by UpdatePodSandboxResources."""
    limits = {"memory": "80Mi", "cpu": "100m"}
    k.order(pod, k.container("c", "sleep 600"), resources={"requests": limits, "limits": limits})
    k.running(pod, "c")
    before = k.id_of(pod, "c")
    wanted = {"memory": "96Mi", "cpu": "150m"}
    body = {"spec": {"resources": {"requests": wanted, "limits": wanted}}}
    k.server.call("PATCH", f"{PODS}/{pod}-{NAME}/resize", body, kind=STRATEGIC)
    k.until(lambda: memory_limit(k.pod_cgroup(k.uid(pod))) == 96 * MIB, "the pod's cgroup has the limit", 60, pod)
    k.until(lambda: not condition(k, pod, "PodResizeInProgress"), "no resize is in progress", 60)
    assert (before, 0) == (k.id_of(pod, "c"), k.status(pod, "c")["restartCount"])
    assert "UpdatePodSandboxResources" in " ".join(k.metrics_of("crishim_rpcs_total"))


@check_with_server
def config_maps(k: KubeletNode, pod: str) -> None:
    """A config map is a volume, a part of one, and environment; its changes reach the volume of a running container."""
    k.server.create(CONFIG_MAPS, pod, "v1", "ConfigMap", data={"one": "first", "two": "second"})
    mounts = [{"name": "v", "mountPath": "/v"}, {"name": "v", "mountPath": "/part", "subPath": "two"}]
    env = [{"name": "ONE", "valueFrom": {"configMapKeyRef": {"name": pod, "key": "one"}}}]
    script = "echo $ONE $two $(cat /v/one /part); sleep 600"
    main = k.container("c", script, volumeMounts=mounts, env=env, envFrom=[{"configMapRef": {"name": pod}}])
    k.order(pod, main, volumes=[{"name": "v", "configMap": {"name": pod}}])
    assert "first second firstsecond\n" == k.says(pod, "c", "\n")
    k.server.call("PATCH", f"{CONFIG_MAPS}/{pod}", {"data": {"one": "changed", "two": "changed"}}, kind=MERGE)
    k.until(lambda: k.ran(pod, "c", "cat /v/one /v/two") == "changedchanged", "the volume changes", 120, pod)
    assert "second" == k.ran(pod, "c", "cat /part")


@check_with_server
def secrets(k: KubeletNode, pod: str) -> None:
    """A secret is a volume on a tmpfs, with the mode that is requested, and environment; a pod that lacks one waits for it."""
    mounts = [{"name": "v", "mountPath": "/v"}]
    env = [{"name": "WORD", "valueFrom": {"secretKeyRef": {"name": pod, "key": "word"}}}]
    script = "stat -L -c %a /v/word; cat /v/word; echo \" $WORD\"; grep ' /v ' /proc/mounts; sleep 600"
    volumes = [{"name": "v", "secret": {"secretName": pod, "defaultMode": 0o400}}]
    k.order(pod, k.container("c", script, volumeMounts=mounts, env=env), volumes=volumes)
    k.waits(pod, "c", "ContainerCreating")
    k.server.create(SECRETS, pod, "v1", "Secret", stringData={"word": "hidden"})
    mode, words, mount = k.says(pod, "c", "/v tmpfs", 150).splitlines()
    assert ("400", "hidden hidden") == (mode, words)
    assert "tmpfs" == mount.split()[2]


@check_with_server
def projected_volumes(k: KubeletNode, pod: str) -> None:
    """A projected volume has a config map, a secret, the pod's name and a token of its service account side by side."""
    k.server.create(CONFIG_MAPS, pod, "v1", "ConfigMap", data={"map": "of a map"})
    k.server.create(SECRETS, pod, "v1", "Secret", stringData={"secret": "of a secret"})
    sources: list[Spec] = [
        {"configMap": {"name": pod}},
        {"secret": {"name": pod}},
        {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
        {"serviceAccountToken": {"path": "token", "audience": "somebody", "expirationSeconds": 600}},
    ]
    mounts = [{"name": "v", "mountPath": "/v", "readOnly": True}]
    main = k.container("c", "sleep 600", volumeMounts=mounts)
    k.order(pod, main, volumes=[{"name": "v", "projected": {"sources": sources}}])
    k.running(pod, "c")
    assert f"of a mapof a secret{pod}-{NAME}" == k.ran(pod, "c", "cat /v/map /v/secret /v/name")
    claims = k.ran(pod, "c", "cat /v/token").split(".")[1]
    token = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    assert ["somebody"] == token["aud"]
    assert f"{pod}-{NAME}" == token["kubernetes.io"]["pod"]["name"]


@check_with_server
def more_than_its_limit_of_storage(k: KubeletNode, pod: str) -> None:
    """A pod whose container writes more than its limit of ephemeral storage is evicted: ended, Failed, with the reason."""
    script = "dd if=/dev/zero of=/file bs=1M count=9; sync; sleep 600"
    k.order(pod, k.container("c", script, resources={"limits": {"ephemeral-storage": "4Mi"}}))
    status = k.phase(pod, "Failed", 120)["status"]
    assert "Evicted" == status["reason"]
    assert "ephemeral local storage usage exceeds the total limit of containers 4Mi" in status["message"]
    assert_ended(k, pod)


@check_with_server
def more_than_a_volumes_limit(k: KubeletNode, pod: str) -> None:
    """A pod that writes more than an emptyDir's sizeLimit is evicted."""
    script = "dd if=/dev/zero of=/v/file bs=1M count=9; sync; sleep 600"
    main = k.container("c", script, volumeMounts=[{"name": "v", "mountPath": "/v"}])
    k.order(pod, main, volumes=[{"name": "v", "emptyDir": {"sizeLimit": "4Mi"}}])
    status = k.phase(pod, "Failed", 120)["status"]
    assert "Evicted" == status["reason"]
    assert 'Usage of EmptyDir volume "v" exceeds the limit "4Mi"' in status["message"]
    assert_ended(k, pod)


def assert_ended(k: KubeletNode, pod: str) -> None:
    """An evicted pod's container has ended by a signal of its pod's end."""
    end = k.state(pod, "c", "terminated")
    assert end["exitCode"] in {128 + signal.SIGTERM, 128 + signal.SIGKILL}


@check_with_server
def a_runtime_class(k: KubeletNode, pod: str) -> None:
    """A pod of a RuntimeClass gets its handler and has its overhead in the pod's cgroup; an unknown one is refused by name."""
    classes = "/apis/node.k8s.io/v1/runtimeclasses"
    overhead = {"podFixed": {"memory": "10Mi", "cpu": "10m"}}
    k.server.create(classes, pod, "node.k8s.io/v1", "RuntimeClass", handler=HANDLER, overhead=overhead)
    k.server.create(classes, f"{pod}--unknown", "node.k8s.io/v1", "RuntimeClass", handler="unknown")
    limits = {"limits": {"memory": "40Mi", "cpu": "50m"}}
    k.order(pod, k.container("c", "sleep 600", resources=limits), runtimeClassName=pod)
    k.order(f"{pod}--unknown", k.container("c"), runtimeClassName=f"{pod}--unknown")
    k.running(pod, "c")
    assert (50 * MIB, 40 * MIB) == (memory_limit(k.pod_cgroup(k.uid(pod))), memory_limit(k.cgroup(pod, "c")))
    pods = k.ask(lambda client: client.list_sandboxes({}))
    assert [HANDLER] == [one.runtime_handler for one in pods if one.metadata.name == f"{pod}-{NAME}"]

    k.until(lambda: has_event(k, f"{pod}--unknown", "unknown", "handler"), "an event names the handler", 60)


@check_with_server
def no_user_namespace(k: KubeletNode, pod: str) -> None:
    """Where the OCI runtime maps no ids of mounts, a pod with hostUsers: false has an event that names this, and no sandbox."""

    def handlers() -> list[Spec]:
        return list(k.server.call("GET", f"/api/v1/nodes/{NAME}")["status"].get("runtimeHandlers", []))

    if all(one["features"].get("userNamespaces") for one in k.until(handlers, "the node has its handlers", 90)):
        raise LeftOut("the refusal of user namespaces: the OCI runtime of this machine has them")
    k.order(pod, k.container("c"), hostUsers=False)
    k.until(lambda: has_event(k, pod, "user namespaces"), "an event names user namespaces", 60)
    assert [] == k.sandboxes(pod)


@check_with_server
def a_debug_container(k: KubeletNode, pod: str) -> None:
    """An ephemeral container joins a running pod, and sees the processes of the container that it is for."""
    k.order(pod, k.container("c", "exec sleep 4567"), k.container("other", "exec sleep 6789"))
    k.running(pod, "c", "other")
    debug = {**k.container("debug", "ps; echo seen; sleep 600"), "targetContainerName": "c"}
    body = {"spec": {"ephemeralContainers": [debug]}}
    k.server.call("PATCH", f"{PODS}/{pod}-{NAME}/ephemeralcontainers", body, kind=STRATEGIC)
    seen = k.says(pod, "debug", "seen\n")
    assert ("sleep 4567" in seen, "sleep 6789" in seen) == (True, False)
    assert "sleep 600" in k.ran(pod, "c", "ps")


@check_with_server
def a_deletion(k: KubeletNode, pod: str) -> None:
    """A deleted pod gets its grace period, and is gone from the API server once the runtime has ended it."""
    path, volume, mount = k.share(pod)
    script = "trap 'sleep 1; echo ended > /shared/end; exit 0' TERM; while :; do usleep 100000; done"
    k.order(pod, k.container("c", script, volumeMounts=[mount]), volumes=[volume], terminationGracePeriodSeconds=20)
    k.running(pod, "c")
    k.cancel(pod)
    k.until(lambda: f"{pod}-{NAME}" not in {one["metadata"]["name"] for one in k.server.pods()}, "the pod is gone", 60)
    assert "ended\n" == (path / "end").read_text()


@check_with_server
def the_node(k: KubeletNode, pod: str) -> None:
    """The node is Ready, and has the runtime's name and version, its handlers, and what they support."""

    def ready() -> Spec | None:
        status = dict(k.server.call("GET", f"/api/v1/nodes/{NAME}")["status"])
        found = {one["type"]: one["status"] for one in status["conditions"]}
        return status if found.get("Ready") == "True" else None

    status = k.until(ready, "the node is Ready", 90)
    version = k.ask(lambda client: client.version())
    name = f"{version.runtime_name}://{version.runtime_version}"
    assert name == status["nodeInfo"]["containerRuntimeVersion"]
    assert {"", HANDLER} == {one.get("name", "") for one in status["runtimeHandlers"]}
    assert status["features"]["supplementalGroupsPolicy"]


@check_with_server_alone
def eviction_for_memory(k: KubeletNode, pod: str) -> None:
    """A node short of memory evicts the pod that uses more than it requested, with the sum in its message, and no other.

    Its pods have 512 MiB together, of which 200 are to be free: so the machine itself is never short of memory.
    """
    total = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal:")).split()[1]
    k.order(f"{pod}--stays", k.container("c", resources={"requests": {"memory": "20Mi"}}))
    k.running(f"{pod}--stays", "c")
    before = k.id_of(f"{pod}--stays", "c")
    k.stop()
    reserved = {"memory": f"{int(total) - 512 * 1024}Ki"}
    k.start(systemReserved=reserved, evictionHard={"memory.available": "200Mi"})
    try:
        k.order(pod, k.container("c", "(head -c 380m /dev/zero; sleep 600) | tail -n 1"))
        status = k.phase(pod, "Failed", 120)["status"]
        assert "Evicted" == status["reason"]
        assert "The node was low on resource: memory" in status["message"]
        assert "Container c was using" in status["message"]
        assert_ended(k, pod)
        k.running(f"{pod}--stays", "c")
        assert (before, 0) == (k.id_of(f"{pod}--stays", "c"), k.status(f"{pod}--stays", "c")["restartCount"])
    finally:
        k.stop()
        k.start()


@check_with_server_alone
def both_servers_are_killed(k: KubeletNode, pod: str) -> None:
    """Kubelet, runtime's server and all are killed with pods of the API server running: the next ones go on with the same."""
    k.order(pod, k.container("c"))
    k.running(pod, "c")
    before = k.id_of(pod, "c")
    k.stop(signal.SIGKILL)
    k.node.kill()
    k.node.start()
    k.start()
    k.running(pod, "c")
    assert (before, 0) == (k.id_of(pod, "c"), k.status(pod, "c")["restartCount"])
    k.order(f"{pod}--new", k.container("c"))
    k.running(f"{pod}--new", "c")


@check_with_server_alone
def nothing_is_left_of_the_cluster(k: KubeletNode, pod: str) -> None:
    """When all pods of the API server are deleted, no container, mount, address, process or folder of any is left."""
    for one in k.server.pods():
        k.cancel(one["metadata"]["name"].removesuffix(f"-{NAME}"))
    k.until(lambda: not k.server.pods(), "the API server has no pod", 120)
    k.until(lambda: not k.ask(lambda client: client.list_sandboxes({})), "the runtime has no pod", 120)
    k.until(lambda: not k.pod_folders(), "the kubelet has removed the pods' folders", 120)
    k.stop()
    left = k.left()
    assert not left, left
