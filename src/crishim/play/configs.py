"""Converts `Pod` and `Node` to CRI's requests: PodSandboxConfig, ContainerConfig, ImageSpec (pure).

The rules are the kubelet's own; tests compare the result with a recording of one (`tests/golden/kubelet-1.36.jsonl`).
"""

import json
import posixpath
from typing import Any, Final

import attrs

from crishim.errors import InvalidArgument
from crishim.model.container import ContainerConfig, ContainerMetadata, KeyValue, LinuxContainerConfig, Mount, MountPropagation
from crishim.model.image import ImageSpec
from crishim.model.resources import Resources
from crishim.model.sandbox import DNSConfig, LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata
from crishim.model.security import (
    LinuxContainerSecurityContext,
    LinuxSandboxSecurityContext,
    NamespaceMode,
    NamespaceOption,
    ProfileType,
    SecurityProfile,
    UserNamespace,
)
from crishim.model.values import FrozenDict
from crishim.play.environment import PodFacts, expand
from crishim.play.pod import Handler, Pod, PodContainer, Volume, VolumeKind
from crishim.play.resources import QosClass, container_resources, limits, pod_demand, qos_class

MASKED_PATHS: Final = (
    "/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
    "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
)  # fmt: skip
READONLY_PATHS: Final = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_PROPAGATION: Final = {
    "None": MountPropagation.PRIVATE,
    "HostToContainer": MountPropagation.HOST_TO_CONTAINER,
    "Bidirectional": MountPropagation.BIDIRECTIONAL,
}
_GO_ESCAPES: Final = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


@attrs.frozen(kw_only=True)
class Node:
    """The node of the small kubelet.

    `root` and `logs` are folders, `memory` is bytes, `page_sizes` are huge pages by the kernel's names. An empty `cgroups`
    leaves the cgroup parent to the runtime.
    """

    name: str = "node"
    ips: tuple[str, ...] = ()
    root: str = "/var/lib/kubelet"
    logs: str = "/var/log/pods"
    dns: DNSConfig = DNSConfig()
    memory: int = 8 * 2**30
    page_sizes: tuple[str, ...] = ()
    cgroups: str = "cgroupfs"


@attrs.frozen(kw_only=True)
class Start:
    """The values of one start of a container, beside the manifest.

    `image_id` and `image_user` (a uid, or a name) come from ImageStatus, `ips` from PodSandboxStatus; `token` names the file
    of this start's termination message.
    """

    attempt: int = 0
    image_id: str
    image_user: int | str = 0
    ips: tuple[str, ...] = ()
    token: str


def qos_of(pod: Pod) -> QosClass:
    """The pod's QoS class."""
    return qos_class(one.demand for one in pod.everyone)


def pod_folder(pod: Pod, node: Node) -> str:
    """The kubelet's folder of the pod."""
    return posixpath.join(node.root, "pods", pod.uid)


def log_folder(pod: Pod, node: Node) -> str:
    """The folder of the pod's logs."""
    return posixpath.join(node.logs, f"{pod.namespace}_{pod.name}_{pod.uid}")


def pod_facts(pod: Pod, node: Node, ips: tuple[str, ...]) -> PodFacts:
    """The values of a running pod for its fieldRefs; a pod on the host network has the node's addresses."""
    return PodFacts(
        name=pod.name,
        namespace=pod.namespace,
        uid=pod.uid,
        labels=pod.labels,
        annotations=pod.annotations,
        service_account=pod.service_account,
        node=node.name,
        node_ips=node.ips,
        ips=node.ips if pod.host_network else ips,
    )


def sandbox_config(pod: Pod, node: Node, attempt: int = 0) -> PodSandboxConfig:
    """The configuration for RunPodSandbox, repeated in every CreateContainer."""
    labels = {**pod.labels, **_pod_labels(pod)}
    security, demand = pod.security, pod_demand(
        (one.demand for one in pod.containers), ((one.demand, one.sidecar) for one in pod.inits)
    )  # fmt: skip
    ported = (one for one in pod.everyone if one.sidecar or one in pod.containers)
    return PodSandboxConfig(
        metadata=PodSandboxMetadata(pod.name, pod.namespace, pod.uid, attempt),
        hostname="" if pod.host_network else pod.hostname,
        log_directory=log_folder(pod, node),
        dns_config=_dns(pod, node),
        port_mappings=tuple(port for one in ported for port in one.ports),
        labels=labels,
        annotations=pod.annotations,
        linux=LinuxPodSandboxConfig(
            cgroup_parent=cgroup_parent(pod, node),
            security_context=LinuxSandboxSecurityContext(
                namespace_options=_namespaces(pod),
                selinux_options=security.selinux,
                run_as_user=security.run_as_user,
                run_as_group=security.run_as_group,
                supplemental_groups=_groups(pod),
                supplemental_groups_policy=security.supplemental_groups_policy,
                privileged=any(one.security.privileged for one in pod.everyone),
                seccomp=SecurityProfile(ProfileType.RUNTIME_DEFAULT),
            ),
            sysctls=security.sysctls,
            overhead=Resources(),
            resources=limits(demand),
        ),
    )


def image_spec(pod: Pod, image: str) -> ImageSpec:
    """The reference of an image in ImageStatus and PullImage."""
    return ImageSpec(image=image, annotations=pod.annotations, runtime_handler=pod.handler)


def container_config(pod: Pod, one: PodContainer, node: Node, start: Start) -> ContainerConfig:
    """The configuration for CreateContainer. Raises `InvalidArgument` for errors that depend on the image or the
    running pod.
    """
    facts = pod_facts(pod, node, start.ips)
    env = _environment(one, facts)
    message = posixpath.join(pod_folder(pod, node), "containers", one.name, start.token)
    mounts = [_mount(pod, one, node, number) for number in range(len(one.mounts))]
    if facts.ips:
        mounts.append(Mount(container_path="/etc/hosts", host_path=posixpath.join(pod_folder(pod, node), "etc-hosts")))
    if one.message_path:
        mounts.append(Mount(container_path=one.message_path, host_path=message))
    return ContainerConfig(
        metadata=ContainerMetadata(one.name, start.attempt),
        image=ImageSpec(image=start.image_id, user_specified_image=one.image, runtime_handler=pod.handler),
        command=tuple(expand(word, env) for word in one.command),
        args=tuple(expand(word, env) for word in one.args),
        working_dir=one.working_dir,
        envs=tuple(KeyValue(key, value) for key, value in env.items()),
        mounts=tuple(mounts),
        labels={**_pod_labels(pod), "io.kubernetes.container.name": one.name},
        annotations=_annotations(pod, one, start.attempt),
        log_path=posixpath.join(one.name, f"{start.attempt}.log"),
        stdin=one.stdin,
        stdin_once=one.stdin_once,
        tty=one.tty,
        linux=LinuxContainerConfig(
            resources=container_resources(
                one.demand,
                qos_of(pod),
                capacity=node.memory,
                page_sizes=node.page_sizes,
                sidecar_of=[main.demand for main in pod.containers] if one.sidecar else (),
            ),
            security_context=_security(pod, one, start.image_user),
        ),
    )


def volume_path(pod: Pod, volume: Volume, node: Node) -> str:
    """The path of a volume on the host."""
    if volume.kind is VolumeKind.HOST_PATH:
        return volume.host_path
    return posixpath.join(pod_folder(pod, node), "volumes", volume.kind.value, volume.name)


def sub_path(pod: Pod, one: PodContainer, node: Node, number: int) -> str:
    """The path on the host of the container's mount of this number, for a subPath."""
    return posixpath.join(pod_folder(pod, node), "volume-subpaths", one.mounts[number].volume, one.name, str(number))


def _pod_labels(pod: Pod) -> dict[str, str]:
    return {
        "io.kubernetes.pod.name": pod.name,
        "io.kubernetes.pod.namespace": pod.namespace,
        "io.kubernetes.pod.uid": pod.uid,
    }


def _annotations(pod: Pod, one: PodContainer, attempt: int) -> FrozenDict[str, str]:
    annotations = {
        "io.kubernetes.container.hash": one.digest,
        "io.kubernetes.container.restartCount": str(attempt),
        "io.kubernetes.container.terminationMessagePath": one.message_path,
        "io.kubernetes.container.terminationMessagePolicy": "FallbackToLogsOnError" if one.message_from_log else "File",
        "io.kubernetes.pod.terminationGracePeriod": str(pod.grace),
    }
    if one.pre_stop is not None:
        annotations["io.kubernetes.container.preStopHandler"] = _go_json(_handler(one.pre_stop))
    if one.ports:
        ports: list[dict[str, Any]] = []
        for name, port in zip(one.port_names, one.ports, strict=True):
            described = {
                "name": name,
                "hostPort": port.host_port,
                "containerPort": port.container_port,
                "protocol": port.protocol.name,
                "hostIP": port.host_ip,
            }
            ports.append({key: value for key, value in described.items() if value})
        annotations["io.kubernetes.container.ports"] = _go_json(ports)
    return FrozenDict(annotations)


def _handler(handler: Handler) -> dict[str, Any]:
    if handler.kind == "sleep":
        return {"sleep": {"seconds": handler.seconds}}
    if handler.kind == "exec":
        return {"exec": {"command": list(handler.command)}}
    request = {
        "path": handler.url_path,
        "port": handler.port,
        "host": handler.host,
        "scheme": handler.scheme,
        "httpHeaders": [{"name": name, "value": value} for name, value in handler.headers],
    }
    return {"httpGet": {name: value for name, value in request.items() if value}}


def _go_json(value: object) -> str:
    """JSON as Go encodes it: no spaces, and `<`, `>`, `&` escaped."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return "".join(_GO_ESCAPES.get(letter, letter) for letter in text)


def _environment(one: PodContainer, facts: PodFacts) -> dict[str, str]:
    env: dict[str, str] = {}
    for variable in one.env:
        field = facts.field(variable.field, f"{variable.path}.valueFrom.fieldRef.fieldPath") if variable.field else None
        value = variable.value if variable.literal else expand(variable.value, env)
        env[variable.name] = value if field is None else field
    return env


def _mount(pod: Pod, one: PodContainer, node: Node, number: int) -> Mount:
    mount = one.mounts[number]
    (volume,) = (volume for volume in pod.volumes if volume.name == mount.volume)
    return Mount(
        container_path=mount.container_path,
        host_path=sub_path(pod, one, node, number) if mount.sub_path else volume_path(pod, volume, node),
        readonly=mount.readonly or volume.kind.from_manifest,
        propagation=_PROPAGATION[mount.propagation],
    )


def _security(pod: Pod, one: PodContainer, image_user: int | str) -> LinuxContainerSecurityContext:
    own, shared = one.security, pod.security
    user = own.run_as_user if own.run_as_user is not None else shared.run_as_user
    name = ""
    if user is None and isinstance(image_user, int):
        user = image_user
    elif user is None:
        name = str(image_user)
    non_root = own.run_as_non_root if own.run_as_non_root is not None else shared.run_as_non_root
    if non_root and not user:
        why = f"the image's user {name!r} is not a number" if name else "the container would run as root"
        raise InvalidArgument(f"{one.path}.securityContext.runAsNonRoot", f"is set, but {why}")
    return LinuxContainerSecurityContext(
        capabilities=own.capabilities,
        privileged=own.privileged,
        namespace_options=_namespaces(pod),
        selinux_options=own.selinux or shared.selinux,
        run_as_user=user,
        run_as_username=name,
        run_as_group=own.run_as_group if own.run_as_group is not None else shared.run_as_group,
        readonly_rootfs=own.readonly_rootfs,
        supplemental_groups=_groups(pod),
        supplemental_groups_policy=shared.supplemental_groups_policy,
        no_new_privs=not own.allow_escalation,
        masked_paths=() if own.unmasked_proc else MASKED_PATHS,
        readonly_paths=() if own.unmasked_proc else READONLY_PATHS,
        seccomp=own.seccomp or shared.seccomp or SecurityProfile(ProfileType.UNCONFINED),
        apparmor=own.apparmor or shared.apparmor,
    )


def _groups(pod: Pod) -> tuple[int, ...]:
    first = () if pod.security.fs_group is None else (pod.security.fs_group,)
    return (*first, *pod.security.supplemental_groups)


def _namespaces(pod: Pod) -> NamespaceOption:
    pid = NamespaceMode.NODE if pod.host_pid else NamespaceMode.POD if pod.share_pid else NamespaceMode.CONTAINER
    return NamespaceOption(
        network=NamespaceMode.NODE if pod.host_network else NamespaceMode.POD,
        pid=pid,
        ipc=NamespaceMode.NODE if pod.host_ipc else NamespaceMode.POD,
        userns_options=UserNamespace(NamespaceMode.NODE),
    )


def _dns(pod: Pod, node: Node) -> DNSConfig:
    own = pod.dns
    if pod.dns_policy == "None":
        return own
    options = {option.partition(":")[0]: option for option in (*node.dns.options, *own.options)}
    return DNSConfig(
        servers=tuple(dict.fromkeys((*node.dns.servers, *own.servers))),
        searches=tuple(dict.fromkeys((*node.dns.searches, *own.searches))),
        options=tuple(options.values()),
    )


def cgroup_parent(pod: Pod, node: Node) -> str:
    """The pod's cgroup by the kubelet's naming; a path of slices for systemd, empty if the runtime chooses."""
    qos = qos_of(pod).value
    if not node.cgroups:
        return ""
    if node.cgroups == "systemd":
        parts = ["kubepods", *([qos] if qos else []), f"pod{pod.uid.replace('-', '_')}"]
        slices = ["-".join(parts[: end + 1]) + ".slice" for end in range(len(parts))]
        return "/" + "/".join(slices)
    return posixpath.join("/kubepods", qos, f"pod{pod.uid}")
