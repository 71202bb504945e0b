"""The lifecycle of pods."""

import json
import signal

from tests.kubelet.checks import check
from tests.kubelet.world import NAME, KubeletNode, LeftOut


@check
def a_pod_runs(k: KubeletNode, pod: str) -> None:
    """A static pod's container runs, and what it writes to both of its streams is in its log."""
    k.put(pod, k.container("c", "echo one; echo two >&2; sleep 600"))
    k.running(pod, "c")
    assert ["one", "two"] == sorted(k.says(pod, "c", "two").split())


@check
def init_containers_in_order(k: KubeletNode, pod: str) -> None:
    """Init containers run one after the other, in their order, and the containers after the last of them."""
    _, volume, mount = k.share(pod)
    inits = [k.container(f"i{n}", f"usleep 200000; echo i{n} >> /shared/order", volumeMounts=[mount]) for n in range(3)]
    main = k.container("c", "cat /shared/order; sleep 600", volumeMounts=[mount])
    k.put(pod, main, initContainers=inits, volumes=[volume])
    assert ["i0", "i1", "i2"] == k.says(pod, "c", "i2").split()


@check
def a_failed_init_is_repeated(k: KubeletNode, pod: str) -> None:
    """An init container that fails is started again until it succeeds, and its pod begins then."""
    _, volume, mount = k.share(pod)
    script = "test -e /shared/second && exit 0; touch /shared/second; exit 3"
    k.put(
        pod,
        k.container("c"),
        initContainers=[k.container("i", script, volumeMounts=[mount])],
        restartPolicy="OnFailure",
        volumes=[volume],
    )
    k.running(pod, "c")
    status = k.status(pod, "i")
    assert (1, 0) == (status["restartCount"], status["state"]["terminated"]["exitCode"])


@check
def a_failed_init_fails_the_pod(k: KubeletNode, pod: str) -> None:
    """With restartPolicy Never, an init container that fails makes the pod Failed, and no container is ever started."""
    k.put(pod, k.container("c"), initContainers=[k.container("i", "exit 4")], restartPolicy="Never")
    k.phase(pod, "Failed")
    assert 4 == k.status(pod, "i")["state"]["terminated"]["exitCode"]
    assert "containerID" not in k.status(pod, "c")


@check
def a_sidecar_before_and_beside(k: KubeletNode, pod: str) -> None:
    """A sidecar is started before the container, which waits for its startup probe, and runs concurrently with it."""
    _, volume, mount = k.share(pod)
    probe = {"exec": {"command": ["test", "-e", "/shared/up"]}, "periodSeconds": 1, "failureThreshold": 60}
    beside = "sleep 2; touch /shared/up; trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done"
    sidecar = k.container("s", beside, restartPolicy="Always", startupProbe=probe, volumeMounts=[mount])
    main = k.container("c", "test -e /shared/up && echo it was up; sleep 600", volumeMounts=[mount])
    k.put(pod, main, initContainers=[sidecar], volumes=[volume])
    k.says(pod, "c", "it was up")
    assert "running" in k.status(pod, "s")["state"]


@check
def a_sidecar_ends_last(k: KubeletNode, pod: str) -> None:
    """At the pod's end its sidecar gets its signal when the container has ended."""
    path, volume, mount = k.share(pod)

    def ends(name: str, wait: str) -> str:
        return f"trap 'sleep {wait}; echo {name} >> /shared/ends; exit 0' TERM; while :; do usleep 100000; done"

    sidecar = k.container("s", ends("sidecar", "0"), restartPolicy="Always", volumeMounts=[mount])
    main = k.container("c", ends("container", "1"), volumeMounts=[mount])
    k.put(pod, main, initContainers=[sidecar], volumes=[volume], terminationGracePeriodSeconds=20)
    k.running(pod, "c", "s")
    k.take_away(pod)
    k.until(lambda: (path / "ends").exists() and (path / "ends").read_text().count("\n") > 1, "both have ended", 30)
    assert ["container", "sidecar"] == (path / "ends").read_text().split()


@check
def a_sidecar_does_not_keep_a_job(k: KubeletNode, pod: str) -> None:
    """A pod whose containers have succeeded succeeds although its sidecar runs, and the sidecar is ended."""
    sidecar = k.container("s", restartPolicy="Always")
    k.put(pod, k.container("c", "exit 0"), initContainers=[sidecar], restartPolicy="Never")
    k.phase(pod, "Succeeded")
    assert "terminated" in k.status(pod, "s")["state"]


@check
def restarts_with_back_off(k: KubeletNode, pod: str) -> None:
    """A container that exits repeatedly is restarted with back-off, and the status has its last exit."""
    k.put(pod, k.container("c", "usleep 100000; exit 7"))
    k.restarted(pod, "c", 2)
    k.waits(pod, "c", "CrashLoopBackOff")
    last = k.status(pod, "c")["lastState"]["terminated"]
    assert (7, "Error") == (last["exitCode"], last["reason"])


@check
def the_log_before_a_restart(k: KubeletNode, pod: str) -> None:
    """The log of a container before its restart is there to read."""
    _, volume, mount = k.share(pod)
    script = "if test -e /shared/again; then echo second; sleep 600; fi; touch /shared/again; echo first; exit 1"
    k.put(pod, k.container("c", script, volumeMounts=[mount]), volumes=[volume])
    k.says(pod, "c", "second")
    assert ("first\n", "second\n") == (k.logged(pod, "c", previous="true"), k.logged(pod, "c"))


@check
def how_containers_end(k: KubeletNode, pod: str) -> None:
    """Each container's exit code is in the status: 0 is Completed, all else Error."""
    ends = {"zero": 0, "three": 3, "most": 255}
    k.put(pod, *(k.container(name, f"exit {code}") for name, code in ends.items()), restartPolicy="Never")
    k.phase(pod, "Failed")
    found = {name: k.status(pod, name)["state"]["terminated"] for name in ends}
    assert ends == {name: end["exitCode"] for name, end in found.items()}
    assert {"zero": "Completed", "three": "Error", "most": "Error"} == {name: end["reason"] for name, end in found.items()}


@check
def want_of_memory(k: KubeletNode, pod: str) -> None:
    """A container that uses more memory than its limit is OOMKilled, and nothing else of its pod is."""
    limits = {"limits": {"memory": "24Mi", "cpu": "200m"}}
    eats = k.container("c", "exec dd if=/dev/zero of=/dev/null bs=200M count=1", resources=limits)
    k.put(pod, eats, k.container("other", resources=limits), restartPolicy="Never")
    end = k.state(pod, "c", "terminated")
    assert ("OOMKilled", 137) == (end["reason"], end["exitCode"])
    assert "running" in k.status(pod, "other")["state"]


@check
def termination_messages(k: KubeletNode, pod: str) -> None:
    """A termination message is read from the container's file, or from the end of its log if that is configured."""
    by_file = k.container("file", "echo -n what happened > /end/message", terminationMessagePath="/end/message")
    by_log = k.container("log", "echo from the log; exit 1", terminationMessagePolicy="FallbackToLogsOnError")
    k.put(pod, by_file, by_log, restartPolicy="Never")
    k.phase(pod, "Failed")
    messages = [k.status(pod, name)["state"]["terminated"]["message"] for name in ("file", "log")]
    assert ["what happened", "from the log\n"] == messages


@check
def a_post_start_hook(k: KubeletNode, pod: str) -> None:
    """A postStart hook runs in the container, which is not running for the kubelet before it has ended."""
    hook = {"postStart": {"exec": {"command": ["sh", "-c", "sleep 1; echo hooked > /tmp/hook"]}}}
    k.put(pod, k.container("c", "sleep 600", lifecycle=hook))
    k.running(pod, "c")
    assert "hooked\n" == k.ran(pod, "c", "cat /tmp/hook")


@check
def a_failed_post_start_hook(k: KubeletNode, pod: str) -> None:
    """A postStart hook that fails ends its container, which is started again."""
    k.put(pod, k.container("c", lifecycle={"postStart": {"exec": {"command": ["sh", "-c", "exit 5"]}}}))
    k.restarted(pod, "c")


@check
def a_pre_stop_hook(k: KubeletNode, pod: str) -> None:
    """A preStop hook runs to its end before the container gets its signal."""
    path, volume, mount = k.share(pod)
    hook = {"preStop": {"exec": {"command": ["sh", "-c", "sleep 1; echo hook >> /shared/ends"]}}}
    script = "trap 'echo signal >> /shared/ends; exit 0' TERM; while :; do usleep 100000; done"
    main = k.container("c", script, lifecycle=hook, volumeMounts=[mount])
    k.put(pod, main, volumes=[volume], terminationGracePeriodSeconds=20)
    k.running(pod, "c")
    k.take_away(pod)
    assert ["hook", "signal"] == (path / "ends").read_text().split()


@check
def a_pre_stop_hook_by_http(k: KubeletNode, pod: str) -> None:
    """A preStop hook by HTTP reaches the container's server in its pod's network."""
    path, volume, mount = k.share(pod)
    cgi = r"mkdir -p /tmp/w/cgi-bin; printf '#!/bin/sh\necho asked >> /shared/asked\necho; echo ok\n' > /tmp/w/cgi-bin/stop"
    script = f"{cgi}; chmod +x /tmp/w/cgi-bin/stop; exec httpd -f -p 8080 -h /tmp/w"
    hook = {"preStop": {"httpGet": {"path": "/cgi-bin/stop", "port": 8080}}}
    probe = {"tcpSocket": {"port": 8080}, "periodSeconds": 1}
    k.put(pod, k.container("c", script, lifecycle=hook, readinessProbe=probe, volumeMounts=[mount]), volumes=[volume])
    k.ready(pod, "c")
    k.take_away(pod)
    assert "asked\n" == (path / "asked").read_text()


@check
def who_ignores_its_signal(k: KubeletNode, pod: str) -> None:
    """A container that ignores its signal is killed after the pod's grace period."""
    k.put(pod, k.container("c", "trap '' TERM; while :; do sleep 1; done"), terminationGracePeriodSeconds=1)
    k.running(pod, "c")
    k.take_away(pod)


@check
def a_stop_signal_of_its_own(k: KubeletNode, pod: str) -> None:
    """A container whose stop signal is SIGUSR1 gets that at its pod's end (ContainerStopSignals)."""
    path, volume, mount = k.share(pod)
    traps = (f"trap 'echo {name} > /shared/got; exit 0' {name}" for name in ("USR1", "TERM"))
    script = "; ".join((*traps, "while :; do usleep 100000; done"))
    main = k.container("c", script, lifecycle={"stopSignal": "SIGUSR1"}, volumeMounts=[mount])
    k.put(pod, main, volumes=[volume], os={"name": "linux"}, terminationGracePeriodSeconds=20)
    k.running(pod, "c")
    assert "SIGUSR1" == k.status(pod, "c").get("stopSignal")
    k.take_away(pod)
    assert "USR1\n" == (path / "got").read_text()


@check
def a_changed_manifest(k: KubeletNode, pod: str) -> None:
    """A changed manifest replaces its pod: the new one has another uid and runs what is new."""
    k.put(pod, k.container("c", "echo old; sleep 600"))
    k.says(pod, "c", "old")
    before = k.uid(pod)
    k.put(pod, k.container("c", "echo new; sleep 600"))
    k.says(pod, "c", "new")
    assert before != k.uid(pod)


@check
def a_pod_taken_away(k: KubeletNode, pod: str) -> None:
    """A pod whose manifest is gone leaves no cgroup, no log, no folder and no volume."""
    k.put(pod, k.container("c", volumeMounts=[{"name": "v", "mountPath": "/v"}]), volumes=[{"name": "v", "emptyDir": {}}])
    k.running(pod, "c")
    uid = k.uid(pod)
    group = k.pod_cgroup(uid)
    k.take_away(pod)
    left = (group, k.logs / f"test_{pod}-{NAME}_{uid}", k.place / "root/pods" / uid)
    k.until(lambda: not any(path.exists() for path in left), f"{left} are gone", 90)


@check
def a_deadline(k: KubeletNode, pod: str) -> None:
    """A pod that is beyond its activeDeadlineSeconds is ended and Failed."""
    k.put(pod, k.container("c"), activeDeadlineSeconds=3)
    assert "DeadlineExceeded" == k.phase(pod, "Failed")["status"]["reason"]


@check
def an_image_that_is_not_there(k: KubeletNode, pod: str) -> None:
    """A container whose image does not exist waits with ErrImagePull or ImagePullBackOff, and others of its pod run."""
    k.put(pod, k.container("c", image="nothing:1"), k.container("other"))
    k.running(pod, "other")
    k.waits(pod, "c", "ErrImagePull", "ImagePullBackOff")


@check
def killed_from_outside(k: KubeletNode, pod: str) -> None:
    """A container that is killed from outside is restarted, and the status has 137 for its last exit."""
    k.put(pod, k.container("c"))
    k.running(pod, "c")
    k.signal(k.id_of(pod, "c"), signal.SIGKILL)
    status = k.restarted(pod, "c")
    assert 137 == status["lastState"]["terminated"]["exitCode"]
    k.running(pod, "c")


@check
def one_process_namespace(k: KubeletNode, pod: str) -> None:
    """With shareProcessNamespace, a container sees the processes of the other."""
    k.put(pod, k.container("a", "sleep 4321"), k.container("b"), shareProcessNamespace=True)
    k.running(pod, "a", "b")
    assert "sleep 4321" in k.ran(pod, "b", "ps")


@check
def the_hosts_network(k: KubeletNode, pod: str) -> None:
    """A pod on the host's network sees the host's interfaces."""
    k.put(pod, k.container("c", "sleep 600"), hostNetwork=True)
    k.running(pod, "c")
    assert k.node.bridge in k.ran(pod, "c", "ip link")


@check
def a_pods_network(k: KubeletNode, pod: str) -> None:
    """A pod's address in the status is that of its interface, and what the container is given for status.podIP."""
    env = [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]
    k.put(pod, k.container("c", "echo ip=$IP; sleep 600", env=env))
    log = k.says(pod, "c", "ip=").strip()
    address = (k.pod(pod) or {})["status"]["podIP"]
    assert f"ip={address}" == log
    assert f"inet {address}/" in k.ran(pod, "c", "ip -4 addr")


@check
def two_pods_talk(k: KubeletNode, pod: str) -> None:
    """A pod reaches the server of another by its address."""
    script = "mkdir /tmp/w; echo hello > /tmp/w/index.html; exec httpd -f -p 8080 -h /tmp/w"
    k.put(pod, k.container("c", script))
    k.running(pod, "c")
    address = (k.pod(pod) or {})["status"]["podIP"]
    k.put(f"{pod}--2", k.container("c", f"until wget -q -O - http://{address}:8080/; do usleep 500000; done; sleep 600"))
    assert "hello\n" in k.says(f"{pod}--2", "c", "hello")


@check
def names_of_the_pod(k: KubeletNode, pod: str) -> None:
    """Hostname, host aliases and the resolver's file are what the manifest says."""
    dns = {"nameservers": ["10.9.8.7"], "searches": ["a.test"], "options": [{"name": "ndots", "value": "3"}]}
    aliases = [{"ip": "10.1.2.3", "hostnames": ["alias.test"]}]
    k.put(pod, k.container("c", "sleep 600"), hostname="called", hostAliases=aliases, dnsPolicy="None", dnsConfig=dns)
    k.running(pod, "c")
    assert "called\n" == k.ran(pod, "c", "hostname")
    assert "10.1.2.3\talias.test" in k.ran(pod, "c", "cat /etc/hosts")
    assert ["search a.test", "nameserver 10.9.8.7", "options ndots:3"] == k.ran(pod, "c", "cat /etc/resolv.conf").splitlines()


@check
def a_user_namespace(k: KubeletNode, pod: str) -> None:
    """A pod with hostUsers: false has root of a range of the node's ids that no other has."""
    k.put(pod, k.container("c", "cat /proc/self/uid_map; sleep 600"), hostUsers=False)

    def found() -> str:
        refused = [line for line in k.log().splitlines() if "user namespace" in line.lower() and pod in line]
        return k.logged(pod, "c") or (f"refused: {refused[-1]}" if refused else "")

    said = k.until(found, "the pod runs or is refused", 60, pod)
    if said.startswith("refused: "):
        raise LeftOut("user namespaces: the OCI runtime of this machine maps no ids of mounts (runc 1.2 does)")
    inside, outside, count = said.split()
    assert ("0", "65536") == (inside, count)
    assert 0 < int(outside)


@check
def what_the_kubelet_lists(k: KubeletNode, pod: str) -> None:
    """The kubelet's list of what the runtime runs has a running pod with its container and its image."""
    k.put(pod, k.container("c"))
    k.running(pod, "c")

    def listed() -> bool:
        pods = json.loads(k.get("/runningpods/").body)["items"] or []
        specs = [one["spec"]["containers"] or [] for one in pods if one["metadata"]["name"] == f"{pod}-{NAME}"]
        return [["c"]] == [[container["name"] for container in spec] for spec in specs]

    k.until(listed, "the pod is among the running ones", 30)
