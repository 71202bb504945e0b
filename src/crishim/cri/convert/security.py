"""Security contexts: users, capabilities, profiles and namespaces.

Two deprecated string fields are read where the profile messages are absent: "runtime/default" and "docker/default" are the
runtime's profile, "unconfined" is none, "localhost/" precedes a file or the name of a loaded profile, and the empty string is
unset. They are never written.
"""

from collections.abc import Iterable

from crishim._proto import cri_pb2 as pb
from crishim.cri.convert.common import MAX_ID, between, decode_enum, encode_int64, ids, not_empty
from crishim.errors import InvalidArgument
from crishim.model.security import (
    Capability,
    IDMapping,
    LinuxContainerSecurityContext,
    LinuxContainerUser,
    LinuxSandboxSecurityContext,
    NamespaceMode,
    NamespaceOption,
    ProfileType,
    SecurityProfile,
    SELinuxOption,
    SupplementalGroupsPolicy,
    UserNamespace,
)


def decode_id_mappings(messages: Iterable[pb.IDMapping]) -> tuple[IDMapping, ...]:
    """Ranges of ids."""
    return tuple(
        IDMapping(host_id=message.host_id, container_id=message.container_id, length=message.length) for message in messages
    )


def encode_id_mappings(mappings: Iterable[IDMapping]) -> list[pb.IDMapping]:
    """Ranges of ids."""
    return [
        pb.IDMapping(host_id=mapping.host_id, container_id=mapping.container_id, length=mapping.length) for mapping in mappings
    ]


def decode_user_namespace(message: pb.UserNamespace, path: str) -> UserNamespace:
    """A pod's user namespace.

    NODE has no mappings. POD has exactly one of uids and one of gids, which contain container id 0. The other modes are
    refused.
    """
    mode = decode_enum(NamespaceMode, message.mode, f"{path}.mode")
    uids, gids = decode_id_mappings(message.uids), decode_id_mappings(message.gids)
    if mode not in {NamespaceMode.POD, NamespaceMode.NODE}:
        raise InvalidArgument(f"{path}.mode", "must be POD or NODE")
    for name, mappings in (("uids", uids), ("gids", gids)):
        if mode is NamespaceMode.NODE and mappings:
            raise InvalidArgument(f"{path}.{name}", "must be empty with mode NODE")
        if mode is NamespaceMode.POD and len(mappings) != 1:
            raise InvalidArgument(f"{path}.{name}", "must have exactly one mapping")
        if any(mapping.container_id or not mapping.length for mapping in mappings):
            raise InvalidArgument(f"{path}.{name}", "must map container id 0")
    return UserNamespace(mode=mode, uids=uids, gids=gids)


def encode_user_namespace(userns: UserNamespace) -> pb.UserNamespace:
    """A pod's user namespace."""
    return pb.UserNamespace(
        mode=pb.NamespaceMode.ValueType(userns.mode),
        uids=encode_id_mappings(userns.uids),
        gids=encode_id_mappings(userns.gids),
    )


def decode_namespaces(message: pb.NamespaceOption, path: str) -> NamespaceOption:
    """The namespace modes. Network and IPC are the pod's or the node's; pid mode TARGET names another container."""
    network = decode_enum(NamespaceMode, message.network, f"{path}.network")
    pid = decode_enum(NamespaceMode, message.pid, f"{path}.pid")
    ipc = decode_enum(NamespaceMode, message.ipc, f"{path}.ipc")
    for name, mode in (("network", network), ("ipc", ipc)):
        if mode not in {NamespaceMode.POD, NamespaceMode.NODE}:
            raise InvalidArgument(f"{path}.{name}", "must be POD or NODE")
    if pid is NamespaceMode.TARGET:
        not_empty(message.target_id, f"{path}.target_id")
    userns = message.userns_options if message.HasField("userns_options") else None
    return NamespaceOption(
        network=network,
        pid=pid,
        ipc=ipc,
        target_id=message.target_id,
        userns_options=None if userns is None else decode_user_namespace(userns, f"{path}.userns_options"),
    )


def encode_namespaces(options: NamespaceOption) -> pb.NamespaceOption:
    """The namespace modes."""
    userns = options.userns_options
    return pb.NamespaceOption(
        network=pb.NamespaceMode.ValueType(options.network),
        pid=pb.NamespaceMode.ValueType(options.pid),
        ipc=pb.NamespaceMode.ValueType(options.ipc),
        target_id=options.target_id,
        userns_options=None if userns is None else encode_user_namespace(userns),
    )


def decode_selinux(message: pb.SELinuxOption) -> SELinuxOption:
    """The four parts of an SELinux label."""
    return SELinuxOption(user=message.user, role=message.role, type=message.type, level=message.level)


def encode_selinux(label: SELinuxOption) -> pb.SELinuxOption:
    """The four parts of an SELinux label."""
    return pb.SELinuxOption(user=label.user, role=label.role, type=label.type, level=label.level)


def decode_profile(message: pb.SecurityProfile, path: str) -> SecurityProfile:
    """A security profile. `localhost_ref` is required with type Localhost and refused otherwise; a prefix `localhost/` is
    removed.

    Some clients write the prefix of the string form here too: critest does, and containerd and CRI-O accept it.
    """
    profile_type = decode_enum(ProfileType, message.profile_type, f"{path}.profile_type")
    reference = message.localhost_ref.removeprefix("localhost/")
    if profile_type is ProfileType.LOCALHOST:
        not_empty(reference, f"{path}.localhost_ref")
    elif message.localhost_ref:
        raise InvalidArgument(f"{path}.localhost_ref", "is set without profile type Localhost")
    return SecurityProfile(profile_type=profile_type, localhost_ref=reference)


def encode_profile(profile: SecurityProfile) -> pb.SecurityProfile:
    """A profile."""
    return pb.SecurityProfile(
        profile_type=pb.SecurityProfile.ProfileType.ValueType(profile.profile_type),
        localhost_ref=profile.localhost_ref,
    )


def decode_profile_text(text: str, field: str) -> SecurityProfile | None:
    """A profile in its deprecated string form (see the module's docstring); None for the empty string."""
    if not text:
        return None
    if text in {"runtime/default", "docker/default"}:
        return SecurityProfile(ProfileType.RUNTIME_DEFAULT)
    if text == "unconfined":
        return SecurityProfile(ProfileType.UNCONFINED)
    word, _, reference = text.partition("/")
    if word == "localhost" and reference:
        return SecurityProfile(ProfileType.LOCALHOST, reference)
    raise InvalidArgument(field, f"{text!r} is no security profile")


def decode_capabilities(message: pb.Capability) -> Capability:
    """Changes to the default capabilities."""
    return Capability(
        add_capabilities=tuple(message.add_capabilities),
        drop_capabilities=tuple(message.drop_capabilities),
        add_ambient_capabilities=tuple(message.add_ambient_capabilities),
    )


def encode_capabilities(capabilities: Capability) -> pb.Capability | None:
    """Changes to the default capabilities; None if there are none."""
    if capabilities == Capability():
        return None
    return pb.Capability(
        add_capabilities=capabilities.add_capabilities,
        drop_capabilities=capabilities.drop_capabilities,
        add_ambient_capabilities=capabilities.add_ambient_capabilities,
    )


def encode_user(user: LinuxContainerUser) -> pb.LinuxContainerUser:
    """The user that a process runs as."""
    return pb.LinuxContainerUser(uid=user.uid, gid=user.gid, supplemental_groups=user.supplemental_groups)


def decode_sandbox_context(message: pb.LinuxSandboxSecurityContext, path: str) -> LinuxSandboxSecurityContext:
    """A sandbox's security context. A group without a user is refused, as for containers."""
    user = message.run_as_user.value if message.HasField("run_as_user") else None
    group = message.run_as_group.value if message.HasField("run_as_group") else None
    if user is not None:
        between(user, 0, MAX_ID, f"{path}.run_as_user")
    if group is not None:
        between(group, 0, MAX_ID, f"{path}.run_as_group")
        if user is None:
            raise InvalidArgument(f"{path}.run_as_group", "is set without a user")
    return LinuxSandboxSecurityContext(
        namespace_options=decode_namespaces(message.namespace_options, f"{path}.namespace_options"),
        selinux_options=decode_selinux(message.selinux_options) if message.HasField("selinux_options") else None,
        run_as_user=user,
        run_as_group=group,
        readonly_rootfs=message.readonly_rootfs,
        supplemental_groups=ids(message.supplemental_groups, f"{path}.supplemental_groups"),
        supplemental_groups_policy=decode_enum(
            SupplementalGroupsPolicy, message.supplemental_groups_policy, f"{path}.supplemental_groups_policy"
        ),
        privileged=message.privileged,
        seccomp=decode_profile(message.seccomp, f"{path}.seccomp")
        if message.HasField("seccomp")
        else decode_profile_text(message.seccomp_profile_path, f"{path}.seccomp_profile_path"),
        apparmor=decode_profile(message.apparmor, f"{path}.apparmor") if message.HasField("apparmor") else None,
    )


def encode_sandbox_context(context: LinuxSandboxSecurityContext) -> pb.LinuxSandboxSecurityContext:
    """A sandbox's security context."""
    return pb.LinuxSandboxSecurityContext(
        namespace_options=encode_namespaces(context.namespace_options),
        selinux_options=encode_selinux(context.selinux_options) if context.selinux_options else None,
        run_as_user=encode_int64(context.run_as_user),
        run_as_group=encode_int64(context.run_as_group),
        readonly_rootfs=context.readonly_rootfs,
        supplemental_groups=context.supplemental_groups,
        supplemental_groups_policy=pb.SupplementalGroupsPolicy.ValueType(context.supplemental_groups_policy),
        privileged=context.privileged,
        seccomp=encode_profile(context.seccomp) if context.seccomp else None,
        apparmor=encode_profile(context.apparmor) if context.apparmor else None,
    )


def decode_container_context(message: pb.LinuxContainerSecurityContext, path: str) -> LinuxContainerSecurityContext:
    """A container's security context. The user is checked together with the image, when the container is resolved."""
    return LinuxContainerSecurityContext(
        capabilities=decode_capabilities(message.capabilities),
        privileged=message.privileged,
        namespace_options=decode_namespaces(message.namespace_options, f"{path}.namespace_options"),
        selinux_options=decode_selinux(message.selinux_options) if message.HasField("selinux_options") else None,
        run_as_user=message.run_as_user.value if message.HasField("run_as_user") else None,
        run_as_group=message.run_as_group.value if message.HasField("run_as_group") else None,
        run_as_username=message.run_as_username,
        readonly_rootfs=message.readonly_rootfs,
        supplemental_groups=ids(message.supplemental_groups, f"{path}.supplemental_groups"),
        supplemental_groups_policy=decode_enum(
            SupplementalGroupsPolicy, message.supplemental_groups_policy, f"{path}.supplemental_groups_policy"
        ),
        no_new_privs=message.no_new_privs,
        masked_paths=tuple(message.masked_paths),
        readonly_paths=tuple(message.readonly_paths),
        seccomp=decode_profile(message.seccomp, f"{path}.seccomp")
        if message.HasField("seccomp")
        else decode_profile_text(message.seccomp_profile_path, f"{path}.seccomp_profile_path"),
        apparmor=decode_profile(message.apparmor, f"{path}.apparmor")
        if message.HasField("apparmor")
        else decode_profile_text(message.apparmor_profile, f"{path}.apparmor_profile"),
    )


def encode_container_context(context: LinuxContainerSecurityContext) -> pb.LinuxContainerSecurityContext:
    """A container's security context."""
    return pb.LinuxContainerSecurityContext(
        capabilities=encode_capabilities(context.capabilities),
        privileged=context.privileged,
        namespace_options=encode_namespaces(context.namespace_options),
        selinux_options=encode_selinux(context.selinux_options) if context.selinux_options else None,
        run_as_user=encode_int64(context.run_as_user),
        run_as_group=encode_int64(context.run_as_group),
        run_as_username=context.run_as_username,
        readonly_rootfs=context.readonly_rootfs,
        supplemental_groups=context.supplemental_groups,
        supplemental_groups_policy=pb.SupplementalGroupsPolicy.ValueType(context.supplemental_groups_policy),
        no_new_privs=context.no_new_privs,
        masked_paths=context.masked_paths,
        readonly_paths=context.readonly_paths,
        seccomp=encode_profile(context.seccomp) if context.seccomp else None,
        apparmor=encode_profile(context.apparmor) if context.apparmor else None,
    )
