"""Users, capabilities, security profiles and namespaces, as CRI has them."""

import enum

import attrs

__all__ = [
    "Capability",
    "IDMapping",
    "LinuxContainerSecurityContext",
    "LinuxContainerUser",
    "LinuxSandboxSecurityContext",
    "NamespaceMode",
    "NamespaceOption",
    "ProfileType",
    "SELinuxOption",
    "SecurityProfile",
    "SupplementalGroupsPolicy",
    "UserNamespace",
]


class NamespaceMode(enum.IntEnum):
    """Whose namespace is used: the pod's, the container's own, the node's, or another container's."""

    POD = 0
    CONTAINER = 1
    NODE = 2
    TARGET = 3


class SupplementalGroupsPolicy(enum.IntEnum):
    """Whether the groups that the image's /etc/group gives the user are added (`MERGE`) or not (`STRICT`)."""

    MERGE = 0
    STRICT = 1


class ProfileType(enum.IntEnum):
    """The kind of a seccomp or AppArmor profile."""

    RUNTIME_DEFAULT = 0
    UNCONFINED = 1
    LOCALHOST = 2


@attrs.frozen
class IDMapping:
    """`length` ids from `container_id` inside a user namespace map to ids from `host_id` outside."""

    host_id: int
    container_id: int
    length: int


@attrs.frozen
class UserNamespace:
    """The user namespace of a pod: NODE for none, POD with exactly one mapping of uids and one of gids."""

    mode: NamespaceMode = NamespaceMode.POD
    uids: tuple[IDMapping, ...] = ()
    gids: tuple[IDMapping, ...] = ()


@attrs.frozen
class NamespaceOption:
    """The namespaces of a sandbox or container. `target_id` goes with pid mode TARGET."""

    network: NamespaceMode = NamespaceMode.POD
    pid: NamespaceMode = NamespaceMode.POD
    ipc: NamespaceMode = NamespaceMode.POD
    target_id: str = ""
    userns_options: UserNamespace | None = None


@attrs.frozen
class SELinuxOption:
    """The four parts of an SELinux label; the host chooses empty parts."""

    user: str = ""
    role: str = ""
    type: str = ""
    level: str = ""


@attrs.frozen
class SecurityProfile:
    """A seccomp or AppArmor profile. `localhost_ref` is set with LOCALHOST only: a path (seccomp) or a name (AppArmor),
    without CRI's prefix `localhost/`.
    """

    profile_type: ProfileType = ProfileType.RUNTIME_DEFAULT
    localhost_ref: str = ""


@attrs.frozen
class Capability:
    """Linux capabilities to add and drop; names with or without `CAP_`, and the word `ALL`."""

    add_capabilities: tuple[str, ...] = ()
    drop_capabilities: tuple[str, ...] = ()
    add_ambient_capabilities: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class LinuxSandboxSecurityContext:
    """The security context of the sandbox itself. A privileged container needs a privileged sandbox."""

    namespace_options: NamespaceOption = NamespaceOption()
    selinux_options: SELinuxOption | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    readonly_rootfs: bool = False
    supplemental_groups: tuple[int, ...] = ()
    supplemental_groups_policy: SupplementalGroupsPolicy = SupplementalGroupsPolicy.MERGE
    privileged: bool = False
    seccomp: SecurityProfile | None = None
    apparmor: SecurityProfile | None = None


@attrs.frozen(kw_only=True)
class LinuxContainerSecurityContext:
    """The security context of a container. Empty `masked_paths` mask nothing: the client sends the usual list itself.

    `run_as_username` has precedence over `run_as_user`. A missing `seccomp` means unconfined, a missing `apparmor` the
    runtime's default.
    """

    capabilities: Capability = Capability()
    privileged: bool = False
    namespace_options: NamespaceOption = NamespaceOption()
    selinux_options: SELinuxOption | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_username: str = ""
    readonly_rootfs: bool = False
    supplemental_groups: tuple[int, ...] = ()
    supplemental_groups_policy: SupplementalGroupsPolicy = SupplementalGroupsPolicy.MERGE
    no_new_privs: bool = False
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    seccomp: SecurityProfile | None = None
    apparmor: SecurityProfile | None = None


@attrs.frozen
class LinuxContainerUser:
    """The user that a container's first process actually runs as. The primary group is among `supplemental_groups`."""

    uid: int
    gid: int
    supplemental_groups: tuple[int, ...] = ()
