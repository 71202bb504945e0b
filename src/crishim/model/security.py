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
    """The first id outside."""
    container_id: int
    """The first id inside."""
    length: int
    """The number of ids."""


@attrs.frozen
class UserNamespace:
    """The user namespace of a pod."""

    mode: NamespaceMode = NamespaceMode.POD
    """NODE for none, POD for one of the pod's."""
    uids: tuple[IDMapping, ...] = ()
    """Exactly one mapping with POD."""
    gids: tuple[IDMapping, ...] = ()
    """Exactly one mapping with POD."""


@attrs.frozen
class NamespaceOption:
    """The namespaces of a sandbox or container."""

    network: NamespaceMode = NamespaceMode.POD
    """POD or NODE."""
    pid: NamespaceMode = NamespaceMode.POD
    """POD, CONTAINER, NODE or TARGET."""
    ipc: NamespaceMode = NamespaceMode.POD
    """POD or NODE."""
    target_id: str = ""
    """The container whose PID namespace is used with TARGET."""
    userns_options: UserNamespace | None = None
    """The user namespace; None for the node's."""


@attrs.frozen
class SELinuxOption:
    """The four parts of an SELinux label; the host chooses empty parts."""

    user: str = ""
    """The SELinux user."""
    role: str = ""
    """The SELinux role."""
    type: str = ""
    """The SELinux type."""
    level: str = ""
    """The MLS and MCS level."""


@attrs.frozen
class SecurityProfile:
    """A seccomp or AppArmor profile."""

    profile_type: ProfileType = ProfileType.RUNTIME_DEFAULT
    """RUNTIME_DEFAULT, UNCONFINED or LOCALHOST."""
    localhost_ref: str = ""
    """With LOCALHOST an absolute path (seccomp) or the name of a loaded profile (AppArmor), without CRI's prefix `localhost/`.
    """


@attrs.frozen
class Capability:
    """Linux capabilities to add and drop; names with or without `CAP_`, and the word `ALL`."""

    add_capabilities: tuple[str, ...] = ()
    """Added to the runtime's default set."""
    drop_capabilities: tuple[str, ...] = ()
    """Dropped from it; `ALL` is dropped before the others are added."""
    add_ambient_capabilities: tuple[str, ...] = ()
    """Added, and in the ambient set, too."""


@attrs.frozen(kw_only=True)
class LinuxSandboxSecurityContext:
    """The security context of the sandbox itself. A privileged container needs a privileged sandbox."""

    namespace_options: NamespaceOption = NamespaceOption()
    """The pod's namespaces."""
    selinux_options: SELinuxOption | None = None
    """The label of the pod's processes; None for the host's choice."""
    run_as_user: int | None = None
    """The uid of the sandbox's own process; None for the default."""
    run_as_group: int | None = None
    """Its gid; None for the default."""
    readonly_rootfs: bool = False
    """Whether the sandbox's own root file system is read-only."""
    supplemental_groups: tuple[int, ...] = ()
    """Gids."""
    supplemental_groups_policy: SupplementalGroupsPolicy = SupplementalGroupsPolicy.MERGE
    """Whether the groups of the image's /etc/group are added."""
    privileged: bool = False
    """Whether privileged containers may run in it."""
    seccomp: SecurityProfile | None = None
    """The profile of the sandbox's own process; None for unconfined."""
    apparmor: SecurityProfile | None = None
    """The profile of the sandbox's own process; None for the runtime's default."""


@attrs.frozen(kw_only=True)
class LinuxContainerSecurityContext:
    """The security context of a container."""

    capabilities: Capability = Capability()
    """Changes to the default set of capabilities."""
    privileged: bool = False
    """Whether the container has all capabilities and all devices of the host."""
    namespace_options: NamespaceOption = NamespaceOption()
    """The container's namespaces; network and ipc are the pod's."""
    selinux_options: SELinuxOption | None = None
    """The label of the container's processes; None for the host's choice."""
    run_as_user: int | None = None
    """A uid; None for the image's user."""
    run_as_group: int | None = None
    """A gid, with a user only; None for the user's own."""
    run_as_username: str = ""
    """A name in the image's /etc/passwd; has precedence over `run_as_user`."""
    readonly_rootfs: bool = False
    """Whether the root file system is mounted read-only."""
    supplemental_groups: tuple[int, ...] = ()
    """Gids."""
    supplemental_groups_policy: SupplementalGroupsPolicy = SupplementalGroupsPolicy.MERGE
    """Whether the groups of the image's /etc/group are added."""
    no_new_privs: bool = False
    """Whether the bit of that name is set, so that no program gains privileges by setuid or file capabilities."""
    masked_paths: tuple[str, ...] = ()
    """Absolute paths that cannot be read; empty masks nothing: the client sends the usual list itself."""
    readonly_paths: tuple[str, ...] = ()
    """Absolute paths that cannot be written."""
    seccomp: SecurityProfile | None = None
    """None for unconfined."""
    apparmor: SecurityProfile | None = None
    """None for the runtime's default."""


@attrs.frozen
class LinuxContainerUser:
    """The user that a container's first process actually runs as."""

    uid: int
    """The uid."""
    gid: int
    """The primary gid."""
    supplemental_groups: tuple[int, ...] = ()
    """Gids, the primary one among them."""
