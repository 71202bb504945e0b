"""Converts SandboxSpec, ContainerSpec and ExecSpec to the bodies of the Engine API's create calls (pure).

docs/docker.md has the table of fields. A field that the engine does not support is refused before (see `supported`) or here by
name; only what CRI itself calls a hint is ignored.

A pod's sandbox is its pause container; containers join its network and IPC namespaces. Users are passed as numbers, since the
engine's own look-up supports neither of CRI's two policies for groups: with `UID:GID` it adds no groups.
"""

import json
import posixpath
from collections.abc import Mapping
from typing import Any, Final

import attrs

from crishim.backends.docker.observed import CONTAINER_KIND, HELPER_KIND, KIND, LOG, OWNER, SANDBOX, SANDBOX_KIND, UNIFIED
from crishim.backends.docker.options import OLDEST, EngineFacts, Options
from crishim.errors import InvalidArgument, PullError, PullReason
from crishim.model.container import ContainerSpec, Mount, MountPropagation
from crishim.model.features import Feature
from crishim.model.process import ExecSpec
from crishim.model.resources import Resources
from crishim.model.sandbox import Protocol, SandboxSpec
from crishim.model.security import (
    Capability,
    LinuxContainerSecurityContext,
    LinuxContainerUser,
    LinuxSandboxSecurityContext,
    NamespaceMode,
    ProfileType,
    SELinuxOption,
)
from crishim.model.values import EMPTY, FrozenDict
from crishim.oci.facts import CAPABILITIES, BindSource, Host
from crishim.oci.mounts import check_shared, topmost
from crishim.oci.resources import oom_score_adj

PAUSE_OOM_SCORE_ADJ: Final = -998
PAUSE_CPU_SHARES: Final = 2
DETACH_KEYS: Final = "ctrl-^,ctrl-_,ctrl-^,ctrl-_"
"""An improbable key sequence, since detaching by keys is not wanted and the engine would swallow the keys."""

_KNOWN_TO_ALL: Final = 38
"""Up to CAP_AUDIT_READ: the engine of 20.10 refuses the names of later ones."""

_FIELD: Final = "config.linux.security_context"
_NO_HEALTH: Final = {"Test": ["NONE"]}
_PROTOCOLS: Final = {Protocol.TCP: "tcp", Protocol.UDP: "udp", Protocol.SCTP: "sctp"}
_PROPAGATION: Final = {
    MountPropagation.PRIVATE: "rprivate",
    MountPropagation.HOST_TO_CONTAINER: "rslave",
    MountPropagation.BIDIRECTIONAL: "rshared",
}


@attrs.frozen(kw_only=True)
class Maker:
    """The context of a conversion: the facts of the engine and of the machine, the settings, and the owner's mark."""

    facts: EngineFacts
    host: Host
    options: Options
    owner: str


@attrs.frozen(kw_only=True)
class Found:
    """The looked-up properties of one container: its user, its mounts' sources by container path, its seccomp
    profile's text.
    """

    user: LinuxContainerUser | None = None
    sources: FrozenDict[str, BindSource] = FrozenDict()
    profiles: FrozenDict[str, str] = EMPTY


def supported(facts: EngineFacts) -> frozenset[Feature]:
    """The optional fields that this engine supports."""
    never = {
        Feature.AMBIENT_CAPABILITIES,
        Feature.USER_NAMESPACE,
        Feature.IDMAP_MOUNTS,
        Feature.MOUNT_OPTIONS,
        Feature.HUGEPAGES,
        Feature.CDI_DEVICES,
        Feature.OCI_CHANGES,
    }
    features = frozenset(Feature) - never
    if not facts.recursive_readonly:
        features -= {Feature.RECURSIVE_READONLY_MOUNTS}
    if not facts.cgroup_v2:
        features -= {Feature.UNIFIED}
    if not facts.apparmor:
        features -= {Feature.APPARMOR}
    return features


def sandbox_body(spec: SandboxSpec, image: str, maker: Maker) -> dict[str, Any]:
    """The pause container of a pod."""
    config, security = spec.config, spec.config.linux.security_context
    host = _common_host(maker, config.linux.cgroup_parent)
    host |= {
        "NetworkMode": "host" if spec.host_network else "none" if maker.options.cni else maker.options.network,
        "IpcMode": "host" if spec.namespaces.ipc is NamespaceMode.NODE else "shareable",
        "OomScoreAdj": oom_score_adj(PAUSE_OOM_SCORE_ADJ, maker.host),
        "CpuShares": PAUSE_CPU_SHARES,
        "ReadonlyRootfs": True,
        "SecurityOpt": _sandbox_security(security),
        "Sysctls": dict(config.linux.sysctls),
        "GroupAdd": [str(group) for group in security.supplemental_groups],
        "LogConfig": {"Type": "none"},
    }
    if spec.namespaces.pid is NamespaceMode.NODE:
        host["PidMode"] = "host"
    if spec.host_network:
        host["UTSMode"] = "host"
    if dns := config.dns_config:
        host |= {"Dns": list(dns.servers), "DnsSearch": list(dns.searches), "DnsOptions": list(dns.options)}
    body: dict[str, Any] = {
        "Image": image,
        "Labels": _labels(config.labels, config.annotations, maker, {KIND: SANDBOX_KIND}),
        "Healthcheck": _NO_HEALTH,
        "HostConfig": host,
    }
    if config.hostname and not spec.host_network:
        body["Hostname"] = config.hostname
    if security.run_as_user is not None:
        body["User"] = f"{security.run_as_user}:{security.run_as_group or 0}"
    elif security.run_as_group is not None:
        raise InvalidArgument(f"{_FIELD}.run_as_group", "is set without a user")
    if not maker.options.cni and not spec.host_network:
        body["ExposedPorts"], host["PortBindings"] = _ports(spec)
    return body


def container_body(spec: ContainerSpec, maker: Maker, found: Found) -> dict[str, Any]:
    """A container of a pod."""
    host = _common_host(maker, spec.sandbox.config.linux.cgroup_parent)
    host |= _namespaces(spec)
    host |= container_security(spec, maker, found)
    host |= limits(spec.resources)
    host |= {
        "OomScoreAdj": oom_score_adj(spec.resources.oom_score_adj, maker.host),
        "Devices": [
            {
                "PathOnHost": device.host_path,
                "PathInContainer": device.container_path or device.host_path,
                "CgroupPermissions": device.permissions,
            }
            for device in spec.devices
        ],
        "LogConfig": log_config(spec, maker.options),
        **mounts(spec, maker, found),
    }
    marks = {KIND: CONTAINER_KIND, SANDBOX: spec.sandbox.id, LOG: spec.log_path}
    if spec.resources.unified:
        marks[UNIFIED] = json.dumps(dict(spec.resources.unified))
    body: dict[str, Any] = {
        "Image": spec.image_id,
        "Entrypoint": list(spec.argv),
        "Cmd": [],
        "Env": [f"{key}={value}" for key, value in spec.env.items()],
        "WorkingDir": spec.cwd,
        "OpenStdin": spec.stdin,
        "StdinOnce": spec.stdin_once,
        "Tty": spec.tty,
        "StopSignal": str(spec.stop_signal.number),
        "Labels": _labels(spec.labels, spec.annotations, maker, marks),
        "Healthcheck": _NO_HEALTH,
        "HostConfig": host,
    }
    if found.user is not None:
        body["User"] = f"{found.user.uid}:{found.user.gid}"
        host["GroupAdd"] = [str(group) for group in found.user.supplemental_groups if group != found.user.gid]
    return body


def helper_body(image: str, maker: Maker) -> dict[str, Any]:
    """A container that is never started, for reading an image's files."""
    marks = {OWNER: maker.owner, KIND: HELPER_KIND}
    return {"Image": image, "Entrypoint": ["/none"], "Labels": marks, "HostConfig": {"NetworkMode": "none"}}


def exec_body(spec: ExecSpec, *, stdin: bool) -> dict[str, Any]:
    """An exec. All output is attached: its end is the end of the process."""
    return {
        "AttachStdin": stdin,
        "AttachStdout": True,
        "AttachStderr": not spec.tty,
        "Tty": spec.tty,
        "Cmd": list(spec.argv),
        "Env": ["TERM=xterm"] if spec.tty else [],
        "DetachKeys": DETACH_KEYS,
    }


def limits(resources: Resources) -> dict[str, Any]:
    """Limits for create's HostConfig and update's body. Memory without swap means no additional swap."""
    values = {
        "CpuShares": resources.cpu_shares,
        "CpuQuota": resources.cpu_quota,
        "CpuPeriod": resources.cpu_period,
        "CpusetCpus": resources.cpuset_cpus,
        "CpusetMems": resources.cpuset_mems,
        "Memory": resources.memory_limit_in_bytes,
        "MemorySwap": resources.memory_swap_limit_in_bytes or resources.memory_limit_in_bytes,
    }
    return {name: value for name, value in values.items() if value}


def log_config(spec: ContainerSpec, options: Options) -> dict[str, Any]:
    """The engine's own copy of the output: limited in size, exact to the byte, and none if no log is requested."""
    if not spec.log_path:
        return {"Type": "none"}
    bounds = {"max-size": options.log_size, "max-file": str(options.log_files), "compress": "false"}
    return {"Type": "local", "Config": bounds}


def cgroup_parent(parent: str, facts: EngineFacts) -> str:
    """HostConfig.CgroupParent: with systemd the slice's own name, else the path."""
    if facts.systemd_cgroup:
        return posixpath.basename(parent) or "system.slice"
    return parent or "/crishim"


def cgroups_path(parent: str, engine_id: str, facts: EngineFacts) -> str:
    """A container's cgroup in the form of linux.cgroupsPath."""
    return f"{parent}:docker:{engine_id}" if facts.systemd_cgroup else posixpath.join(parent, engine_id)


def container_security(spec: ContainerSpec, maker: Maker, found: Found) -> dict[str, Any]:
    """The security settings of HostConfig. Without a security context the engine's own defaults apply."""
    security = spec.security
    if security is None:
        return {}
    host: dict[str, Any] = {
        "Privileged": security.privileged,
        "ReadonlyRootfs": security.readonly_rootfs,
        "SecurityOpt": [
            f"no-new-privileges={'true' if security.no_new_privs else 'false'}",
            *_seccomp(security, found),
            *_apparmor(security),
            *_selinux(security.selinux_options or spec.sandbox.config.linux.security_context.selinux_options),
        ],
        "MaskedPaths": [] if security.privileged else list(security.masked_paths),
        "ReadonlyPaths": [] if security.privileged else list(security.readonly_paths),
    }
    if not security.privileged:
        host |= capabilities(security.capabilities, maker)
    if maker.facts.cgroup_v2:
        host["CgroupnsMode"] = "host" if security.privileged else "private"
    return host


def capabilities(requested: Capability, maker: Maker) -> dict[str, list[str]]:
    """CapAdd and CapDrop. Adding ALL adds what this machine supports; dropping ALL has precedence over adding ALL."""
    adds = [_named(name) for name in requested.add_capabilities]
    drops = [_named(name) for name in requested.drop_capabilities]
    if "ALL" in adds and "ALL" in drops:
        adds = [name for name in adds if name != "ALL"]
    elif "ALL" in adds:
        known = CAPABILITIES if maker.facts.api > OLDEST else CAPABILITIES[:_KNOWN_TO_ALL]
        drops += [name for name in known if name not in maker.host.bounding and name not in drops]
    return {"CapAdd": [name for name in adds if name not in drops], "CapDrop": drops}


def mounts(spec: ContainerSpec, maker: Maker, found: Found) -> dict[str, Any]:
    """HostConfig.Mounts; HostConfig.Binds for mounts that SELinux must relabel, which only that form supports."""
    check_shared(spec)
    entries, binds = [], []
    for number, mount in topmost(spec.mounts):
        field = f"config.mounts[{number}]"
        source = found.sources.get(mount.container_path)
        if source is None or not mount.container_path:
            raise InvalidArgument(f"{field}.host_path" if mount.container_path else f"{field}.container_path", "is empty")
        _check_propagation(mount, source, field)
        if mount.selinux_relabel and maker.facts.selinux:
            binds.append(_relabelled(mount, source.path, field))
        else:
            entries.append(_mount(mount, source.path, maker.facts, field))
    return {"Mounts": entries, "Binds": binds}


def _mount(mount: Mount, source: str, facts: EngineFacts, field: str) -> dict[str, Any]:
    options: dict[str, Any] = {"Propagation": _PROPAGATION[mount.propagation]}
    if mount.recursive_read_only:
        if not mount.readonly or mount.propagation is not MountPropagation.PRIVATE:
            raise PullError(PullReason.RRO_UNSUPPORTED, f"{field}: recursive_read_only needs readonly and private propagation")
        options["ReadOnlyForceRecursive"] = True
    elif mount.readonly and facts.api >= (1, 44):
        options["ReadOnlyNonRecursive"] = True  # the meaning of CRI's plain `readonly` in all runtimes
    entry = {"Type": "bind", "Source": source, "Target": mount.container_path, "BindOptions": options}
    return {**entry, "ReadOnly": mount.readonly or mount.image is not None}


def _relabelled(mount: Mount, source: str, field: str) -> str:
    if ":" in source + mount.container_path:
        raise InvalidArgument(f"{field}.selinux_relabel", "is not possible for a path with a colon")
    access = "ro" if mount.readonly else "rw"
    return f"{source}:{mount.container_path}:{access},{_PROPAGATION[mount.propagation]},Z"


def _check_propagation(mount: Mount, source: BindSource, field: str) -> None:
    if mount.propagation is MountPropagation.BIDIRECTIONAL and not source.shared:
        raise InvalidArgument(f"{field}.propagation", f"{source.path} is not on a shared mount")
    if mount.propagation is MountPropagation.HOST_TO_CONTAINER and not (source.shared or source.slave):
        raise InvalidArgument(f"{field}.propagation", f"{source.path} is on neither a shared nor a slave mount")


def _common_host(maker: Maker, parent: str) -> dict[str, Any]:
    host: dict[str, Any] = {"CgroupParent": cgroup_parent(parent, maker.facts), "RestartPolicy": {"Name": "no"}}
    return {**host, "Runtime": maker.options.runtime} if maker.options.runtime else host


def _namespaces(spec: ContainerSpec) -> dict[str, str]:
    options = spec.security.namespace_options if spec.security else spec.sandbox.namespaces
    pod = f"container:{spec.sandbox.id}"
    modes = {"NetworkMode": pod, "IpcMode": "host" if spec.sandbox.namespaces.ipc is NamespaceMode.NODE else pod}
    if spec.sandbox.host_network:
        modes["UTSMode"] = "host"
    match options.pid:
        case NamespaceMode.NODE:
            modes["PidMode"] = "host"
        case NamespaceMode.TARGET:
            modes["PidMode"] = f"container:{options.target_id}"
        case NamespaceMode.POD:
            modes["PidMode"] = pod
    return modes


def _labels(
    labels: Mapping[str, str], annotations: Mapping[str, str], maker: Maker, marks: Mapping[str, str]
) -> dict[str, str]:
    return {**labels, **{f"annotation.{key}": value for key, value in annotations.items()}, OWNER: maker.owner, **marks}


def _sandbox_security(security: LinuxSandboxSecurityContext) -> list[str]:
    """Security options of the pause container, which runs no code of the pod: the engine's default profiles."""
    return ["no-new-privileges=true", *_selinux(security.selinux_options)]


def _seccomp(security: LinuxContainerSecurityContext, found: Found) -> list[str]:
    profile = security.seccomp
    if security.privileged or profile is None or profile.profile_type is ProfileType.UNCONFINED:
        return ["seccomp=unconfined"]
    if profile.profile_type is ProfileType.RUNTIME_DEFAULT:
        return []
    text = found.profiles.get(profile.localhost_ref, "")
    try:
        return [f"seccomp={json.dumps(json.loads(text), separators=(',', ':'))}"]
    except ValueError as error:
        raise InvalidArgument(
            f"{_FIELD}.seccomp.localhost_ref", f"{profile.localhost_ref!r} is not a profile: {error}"
        ) from error


def _apparmor(security: LinuxContainerSecurityContext) -> list[str]:
    profile = security.apparmor
    if profile is None or profile.profile_type is ProfileType.RUNTIME_DEFAULT:
        return []
    if profile.profile_type is ProfileType.UNCONFINED:
        return ["apparmor=unconfined"]
    return [f"apparmor={profile.localhost_ref}"]


def _selinux(option: SELinuxOption | None) -> list[str]:
    parts = {"user": option.user, "role": option.role, "type": option.type, "level": option.level} if option else {}
    return [f"label={name}:{value}" for name, value in parts.items() if value]


def _named(name: str) -> str:
    upper = name.upper()
    return upper if upper == "ALL" or upper.startswith("CAP_") else f"CAP_{upper}"


def _ports(spec: SandboxSpec) -> tuple[dict[str, Any], dict[str, Any]]:
    exposed: dict[str, Any] = {}
    bound: dict[str, Any] = {}
    for mapping in spec.config.port_mappings:
        port = f"{mapping.container_port}/{_PROTOCOLS[mapping.protocol]}"
        exposed[port] = {}
        if mapping.host_port:
            bound.setdefault(port, []).append({"HostIp": mapping.host_ip, "HostPort": str(mapping.host_port)})
    return exposed, bound
