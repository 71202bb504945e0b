"""The optional fields of a spec that a backend may support."""

import enum

__all__ = ["OCI", "PROCESS", "VM", "Feature"]


class Feature(enum.StrEnum):
    """An optional field of a spec; each is named by its CRI path.

    A request that sets a field which the backend does not support is refused with `InvalidArgument`, naming the field. Only
    `OCI_CHANGES` is no field of CRI: see `ContainerSpec.oci_changes`.
    """

    USER = "linux.security_context.run_as_user"
    SUPPLEMENTAL_GROUPS = "linux.security_context.supplemental_groups"
    STRICT_GROUPS = "linux.security_context.supplemental_groups_policy"
    CAPABILITIES = "linux.security_context.capabilities"
    AMBIENT_CAPABILITIES = "linux.security_context.capabilities.add_ambient_capabilities"
    PRIVILEGED = "linux.security_context.privileged"
    READONLY_ROOTFS = "linux.security_context.readonly_rootfs"
    NO_NEW_PRIVS = "linux.security_context.no_new_privs"
    MASKED_PATHS = "linux.security_context.masked_paths"
    SECCOMP = "linux.security_context.seccomp"
    APPARMOR = "linux.security_context.apparmor"
    SELINUX = "linux.security_context.selinux_options"
    HOST_NETWORK = "linux.security_context.namespace_options.network"
    HOST_PID = "linux.security_context.namespace_options.pid=NODE"
    TARGET_PID = "linux.security_context.namespace_options.pid=TARGET"
    HOST_IPC = "linux.security_context.namespace_options.ipc"
    USER_NAMESPACE = "linux.security_context.namespace_options.userns_options"
    SYSCTLS = "linux.sysctls"
    HOST_PORTS = "port_mappings.host_port"
    MOUNTS = "mounts"
    READONLY_MOUNTS = "mounts.readonly"
    RECURSIVE_READONLY_MOUNTS = "mounts.recursive_read_only"
    MOUNT_PROPAGATION = "mounts.propagation"
    BIDIRECTIONAL_MOUNTS = "mounts.propagation=PROPAGATION_BIDIRECTIONAL"
    IDMAP_MOUNTS = "mounts.uidMappings"
    IMAGE_MOUNTS = "mounts.image"
    MOUNT_OPTIONS = "mounts.mount_options"
    DEVICES = "devices"
    CDI_DEVICES = "CDI_devices"
    MEMORY_LIMIT = "linux.resources.memory_limit_in_bytes"
    CPU_QUOTA = "linux.resources.cpu_quota"
    CPUSET = "linux.resources.cpuset_cpus"
    HUGEPAGES = "linux.resources.hugepage_limits"
    UNIFIED = "linux.resources.unified"
    STDIN = "stdin"
    TTY = "tty"
    OCI_CHANGES = "oci_changes"


PROCESS: frozenset[Feature] = frozenset({Feature.HOST_NETWORK, Feature.HOST_PID, Feature.HOST_IPC, Feature.STDIN, Feature.TTY})
"""What a plain child process supports."""

OCI: frozenset[Feature] = frozenset(Feature) - {
    Feature.RECURSIVE_READONLY_MOUNTS,
    Feature.IDMAP_MOUNTS,
    Feature.USER_NAMESPACE,
}
"""What an OCI runtime of any version supports, run as pods."""

VM: frozenset[Feature] = OCI - {
    Feature.HOST_NETWORK,
    Feature.HOST_PID,
    Feature.HOST_IPC,
    Feature.TARGET_PID,
    Feature.APPARMOR,
    Feature.SELINUX,
    Feature.MOUNT_PROPAGATION,
    Feature.BIDIRECTIONAL_MOUNTS,
    Feature.HUGEPAGES,
    Feature.UNIFIED,
    Feature.CDI_DEVICES,
}
"""What a container in a virtual machine supports."""

USUAL_MOUNTS: frozenset[str] = frozenset(
    {"/etc/hosts", "/dev/termination-log", "/var/run/secrets/kubernetes.io/serviceaccount"}
)
"""The mounts that the kubelet adds to every pod, which do not count as `MOUNTS`."""

USUAL_UNIFIED: frozenset[str] = frozenset({"memory.oom.group"})
"""The key of `UNIFIED` that the kubelet sets in every container on cgroup v2 (kuberuntime_container_linux.go), which does not
count.

Without it a kill for want of memory ends one process instead of all.
"""
