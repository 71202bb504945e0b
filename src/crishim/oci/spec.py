"""ContainerSpec + Host + Place -> config.json, as a plain dictionary (OCI runtime specification 1.0.2).

Each field of the spec is converted here. A field that cannot be granted raises `InvalidArgument` naming it.
"""

from typing import Any

from crishim.model.container import ContainerSpec
from crishim.model.values import FrozenDict
from crishim.oci.facts import Host, NamespacePaths, Place
from crishim.oci.mounts import check_shared, mounts, rootfs_propagation
from crishim.oci.resources import device_nodes, device_rules, oom_score_adj, resources
from crishim.oci.security import (
    capabilities,
    masked_paths,
    privileged,
    seccomp_profile,
)

OCI_VERSION = "1.0.2"


def config(spec: ContainerSpec, host: Host, place: Place) -> dict[str, Any]:
    """The container's config.json."""
    masked, readonly = masked_paths(spec)
    check_shared(spec, (*masked, *readonly))
    all_devices = (*place.devices, *(host.devices if privileged(spec) else ()))
    linux: dict[str, Any] = {
        "namespaces": namespaces(place.namespaces, host, privileged=privileged(spec)),
        "resources": {**resources(spec.resources, host), "devices": device_rules(place.devices, everything=privileged(spec))},
        "maskedPaths": masked,
        "readonlyPaths": readonly,
        "cgroupsPath": place.cgroups_path,
    }
    if all_devices:
        linux["devices"] = device_nodes(all_devices)
    if (profile := seccomp_profile(spec, dict(place.profiles), host)) is not None:
        linux["seccomp"] = profile
    if propagation := rootfs_propagation(spec):
        linux["rootfsPropagation"] = propagation
    if place.labels.mounts:
        linux["mountLabel"] = place.labels.mounts
    if place.sysctls:
        linux["sysctl"] = dict(place.sysctls)
    result: dict[str, Any] = {
        "ociVersion": OCI_VERSION,
        "process": _process(spec, host, place),
        "root": {"path": place.rootfs, "readonly": spec.security is not None and spec.security.readonly_rootfs},
        "mounts": mounts(spec, place, cgroup_v2=host.cgroup_v2),
        "linux": linux,
        "annotations": {**annotations(spec), **place.annotations},
    }
    return result


def _process(spec: ContainerSpec, host: Host, place: Place) -> dict[str, Any]:
    user = place.user
    env = spec.env if "HOSTNAME" in spec.env or not host.hostname else FrozenDict({**spec.env, "HOSTNAME": host.hostname})
    process: dict[str, Any] = {
        "terminal": spec.tty,
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.supplemental_groups)},
        "args": list(spec.argv),
        "env": [f"{key}={value}" for key, value in env.items()],
        "cwd": spec.cwd,
        "capabilities": capabilities(spec, host),
        "noNewPrivileges": spec.security is not None and spec.security.no_new_privs,
        "oomScoreAdj": oom_score_adj(spec.resources.oom_score_adj, host),
    }
    if host.rlimits:
        process["rlimits"] = [{"type": kind, "soft": soft, "hard": hard} for kind, soft, hard in host.rlimits]
    if place.apparmor:
        process["apparmorProfile"] = place.apparmor
    if place.labels.process:
        process["selinuxLabel"] = place.labels.process
    return process


def namespaces(paths: NamespacePaths, host: Host, *, privileged: bool) -> list[dict[str, str]]:
    """linux.namespaces: always a new mount namespace; the pod's by path; the host's by omission."""
    result: list[dict[str, str]] = [{"type": "mount"}]
    for kind, path in (("network", paths.network), ("ipc", paths.ipc), ("uts", paths.uts), ("user", paths.user)):
        if path:
            result.append({"type": kind, "path": path})
    if paths.pid:
        result.append({"type": "pid", "path": paths.pid})
    elif not paths.host_pid:
        result.append({"type": "pid"})
    if host.cgroup_v2 and not privileged:
        result.append({"type": "cgroup"})
    return result


def annotations(spec: ContainerSpec) -> dict[str, str]:
    """The pod's annotations that runtimes with pod support (kata, gVisor) read, under containerd's names."""
    metadata = spec.sandbox.config.metadata
    return {
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.container-name": spec.metadata.name,
        "io.kubernetes.cri.image-name": spec.image.user_specified_image or spec.image.image,
        "io.kubernetes.cri.sandbox-id": spec.sandbox.id,
        "io.kubernetes.cri.sandbox-name": metadata.name,
        "io.kubernetes.cri.sandbox-namespace": metadata.namespace,
        "io.kubernetes.cri.sandbox-uid": metadata.uid,
    }


def process_of(config: dict[str, Any], argv: tuple[str, ...], *, terminal: bool) -> dict[str, Any]:
    """The process of an exec: the container's process with another command. A terminal adds TERM."""
    process = {**config["process"], "args": list(argv), "terminal": terminal}
    if terminal and not any(variable.startswith("TERM=") for variable in process["env"]):
        process["env"] = [*process["env"], "TERM=xterm"]
    return process
