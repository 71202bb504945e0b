"""Resources by QoS class, as the kernel has them, and what a container may."""

import json
from pathlib import Path

from crishim.pods.host import cgroup_v2
from tests.kubelet.checks import check
from tests.kubelet.world import MIB, KubeletNode


def memory_limit(folder: Path) -> int:
    """A cgroup's memory limit."""
    return int((folder / ("memory.max" if cgroup_v2() else "memory.limit_in_bytes")).read_text())


def cpu_limit(k: KubeletNode, pod: str, container: str) -> float:
    """How many processors a container's cgroup may use at most."""
    folder = k.cgroup(pod, container, "cpu")
    if cgroup_v2():
        quota, period = (folder / "cpu.max").read_text().split()
    else:
        quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
    return int(quota) / int(period)


def cpu_share(k: KubeletNode, pod: str, container: str) -> int:
    """A container's cpu.shares, or its cpu.weight."""
    return int((k.cgroup(pod, container, "cpu") / ("cpu.weight" if cgroup_v2() else "cpu.shares")).read_text())


def oom_score(k: KubeletNode, pod: str, container: str) -> int:
    """A container's oom_score_adj."""
    return int(k.ran(pod, container, "cat /proc/1/oom_score_adj"))


@check
def guaranteed(k: KubeletNode, pod: str) -> None:
    """A Guaranteed pod's container has its limits of memory and processors, and is killed for want of memory last."""
    limits = {"limits": {"memory": "40Mi", "cpu": "250m"}}
    k.put(pod, k.container("c", "sleep 600", resources=limits))
    k.running(pod, "c")
    assert "Guaranteed" == (k.pod(pod) or {})["status"]["qosClass"]
    assert (40 * MIB, 0.25) == (memory_limit(k.cgroup(pod, "c")), cpu_limit(k, pod, "c"))
    own = int(Path("/proc/self/oom_score_adj").read_text())  # without CAP_SYS_RESOURCE no process gets a lower one than ours
    assert oom_score(k, pod, "c") in {-997, own}


@check
def burstable(k: KubeletNode, pod: str) -> None:
    """A Burstable pod lies among those of its class; its container has the weight of its request, and its limit."""
    resources = {"requests": {"memory": "20Mi", "cpu": "500m"}, "limits": {"memory": "60Mi"}}
    k.put(pod, k.container("c", "sleep 600", resources=resources))
    k.running(pod, "c")
    folder = k.cgroup(pod, "c")
    assert "burstable" in str(folder)
    assert 60 * MIB == memory_limit(folder)
    assert cpu_share(k, pod, "c") in ({20, 59} if cgroup_v2() else {512})  # runtimes before and since runc 1.3.2
    assert 0 < oom_score(k, pod, "c") < 1000


@check
def best_effort(k: KubeletNode, pod: str) -> None:
    """A BestEffort pod lies among those of its class, with the least weight, and is the first to be killed for memory."""
    k.put(pod, k.container("c", "sleep 600"))
    k.running(pod, "c")
    assert "besteffort" in str(k.cgroup(pod, "c"))
    assert (1 if cgroup_v2() else 2) == cpu_share(k, pod, "c")
    assert 1000 == oom_score(k, pod, "c")


@check
def limits_from_inside(k: KubeletNode, pod: str) -> None:
    """A container sees its own limit of memory in its own /sys/fs/cgroup."""
    k.put(pod, k.container("c", "sleep 600", resources={"limits": {"memory": "48Mi", "cpu": "100m"}}))
    k.running(pod, "c")
    file = "memory.max" if cgroup_v2() else "memory/memory.limit_in_bytes"
    assert f"{48 * MIB}\n" == k.ran(pod, "c", f"cat /sys/fs/cgroup/{file}")


@check
def limits_of_a_pod(k: KubeletNode, pod: str) -> None:
    """Limits of a whole pod (PodLevelResources) are those of its cgroup, and its containers have none of their own."""
    k.put(
        pod,
        k.container("a", "sleep 600"),
        k.container("b", "sleep 600"),
        resources={"limits": {"memory": "80Mi", "cpu": "100m"}},
    )
    k.running(pod, "a", "b")
    folder = k.pod_cgroup(k.uid(pod))
    assert 80 * MIB == memory_limit(folder)


@check
def processes_of_a_pod(k: KubeletNode, pod: str) -> None:
    """The kubelet's limit of processes is that of the pod's cgroup, and counts those of its containers."""
    k.put(pod, k.container("c", "sleep 600 & sleep 600"))
    k.running(pod, "c")
    folder = k.pod_cgroup(k.uid(pod), "pids")
    assert "500" == (folder / "pids.max").read_text().strip()
    assert 3 <= int((folder / "pids.current").read_text())


@check
def capabilities(k: KubeletNode, pod: str) -> None:
    """A container has the capabilities that are left after what it drops and adds."""
    security = {"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}
    k.put(pod, k.container("c", "sleep 600", securityContext=security))
    k.running(pod, "c")
    lines = dict(line.split(":\t") for line in k.ran(pod, "c", "cat /proc/1/status").splitlines() if ":\t" in line)
    assert 1 << 10 == int(lines["CapEff"], 16) == int(lines["CapBnd"], 16)


@check
def no_new_privileges(k: KubeletNode, pod: str) -> None:
    """A container with allowPrivilegeEscalation false and seccomp's RuntimeDefault runs with both."""
    security = {"allowPrivilegeEscalation": False, "seccompProfile": {"type": "RuntimeDefault"}}
    k.put(pod, k.container("c", "sleep 600", securityContext=security))
    k.running(pod, "c")
    status = k.ran(pod, "c", "cat /proc/1/status")
    assert "NoNewPrivs:\t1\n" in status
    assert "Seccomp:\t2\n" in status


@check
def a_root_to_read(k: KubeletNode, pod: str) -> None:
    """A container with readOnlyRootFilesystem cannot write its root, but its volumes."""
    script = "touch /x 2>/dev/null || echo refused; touch /v/x && echo written; sleep 600"
    mounts = [{"name": "v", "mountPath": "/v"}]
    main = k.container("c", script, volumeMounts=mounts, securityContext={"readOnlyRootFilesystem": True})
    k.put(pod, main, volumes=[{"name": "v", "emptyDir": {}}])
    assert "refused\nwritten\n" in k.says(pod, "c", "written\n")


@check
def not_as_root(k: KubeletNode, pod: str) -> None:
    """A container whose image runs as root is not started with runAsNonRoot."""
    k.put(pod, k.container("c", "sleep 600", securityContext={"runAsNonRoot": True}))
    k.waits(pod, "c", "CreateContainerConfigError")


@check
def sysctls(k: KubeletNode, pod: str) -> None:
    """A safe sysctl is set in the pod's own network, and not on the host."""
    path = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
    before = Path(path).read_text()
    sysctl = [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "81"}]
    k.put(pod, k.container("c", "sleep 600"), securityContext={"sysctls": sysctl})
    k.running(pod, "c")
    assert ("81\n", before) == (k.ran(pod, "c", f"cat {path}"), Path(path).read_text())


@check
def privileged(k: KubeletNode, pod: str) -> None:
    """A privileged container sees the devices of the host."""
    k.put(pod, k.container("c", "sleep 600", securityContext={"privileged": True}))
    k.running(pod, "c")
    assert {"kmsg", "loop-control"} & {path.name for path in Path("/dev").iterdir()} <= set(k.ran(pod, "c", "ls /dev").split())
    assert "Seccomp:\t0\n" in k.ran(pod, "c", "cat /proc/1/status")


@check
def resources_in_the_status(k: KubeletNode, pod: str) -> None:
    """The status has the resources that the runtime says a container has."""
    k.put(pod, k.container("c", "sleep 600", resources={"limits": {"memory": "44Mi", "cpu": "300m"}}))

    def shown() -> str:
        return json.dumps(k.status(pod, "c").get("resources", {}).get("limits"), sort_keys=True)

    k.running(pod, "c")
    k.until(lambda: shown() == '{"cpu": "300m", "memory": "44Mi"}', f"limits in the status: {shown()}", 30, pod)
