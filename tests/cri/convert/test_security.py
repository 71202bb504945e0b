import pytest

from crishim.cri import pb
from crishim.cri.convert import security
from crishim.model.security import (
    IDMapping,
    LinuxContainerSecurityContext,
    LinuxContainerUser,
    LinuxSandboxSecurityContext,
    NamespaceMode,
    NamespaceOption,
    ProfileType,
    SecurityProfile,
    UserNamespace,
)
from tests.cri.refusals import refused

ROOT = pb.IDMapping(host_id=65536, container_id=0, length=65536)
NODE, POD, TARGET = pb.NamespaceMode.NODE, pb.NamespaceMode.POD, pb.NamespaceMode.TARGET
RUNTIME_DEFAULT = SecurityProfile(ProfileType.RUNTIME_DEFAULT)


def test_an_empty_sandbox_context_is_all_zero() -> None:
    """Nothing said means the pod's own namespaces, no user, no profile."""
    expected = LinuxSandboxSecurityContext()
    assert expected == security.decode_sandbox_context(pb.LinuxSandboxSecurityContext(), "s")


def test_an_empty_container_context_is_all_zero() -> None:
    """Nothing said means the pod's own namespaces, no user, no profile, nothing masked."""
    expected = LinuxContainerSecurityContext()
    assert expected == security.decode_container_context(pb.LinuxContainerSecurityContext(), "s")


def test_user_zero_is_not_an_absent_user() -> None:
    """An empty wrapped number is zero, an absent one is None."""
    context = security.decode_container_context(pb.LinuxContainerSecurityContext(run_as_user=pb.Int64Value()), "s")
    assert context.run_as_user == 0
    assert context.run_as_group is None


def test_an_empty_profile_is_not_an_absent_one() -> None:
    """An empty seccomp message means the runtime's default, an absent one means None."""
    context = security.decode_sandbox_context(pb.LinuxSandboxSecurityContext(seccomp=pb.SecurityProfile()), "s")
    assert RUNTIME_DEFAULT == context.seccomp
    assert context.apparmor is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("runtime/default", RUNTIME_DEFAULT),
        ("docker/default", RUNTIME_DEFAULT),
        ("unconfined", SecurityProfile(ProfileType.UNCONFINED)),
        ("localhost/profiles/x.json", SecurityProfile(ProfileType.LOCALHOST, "profiles/x.json")),
        ("localhost//var/x.json", SecurityProfile(ProfileType.LOCALHOST, "/var/x.json")),
    ],
)
def test_the_older_text_of_a_profile_is_understood(text: str, expected: SecurityProfile | None) -> None:
    """The text fields mean the same as the messages that came after them."""
    container = pb.LinuxContainerSecurityContext(seccomp_profile_path=text, apparmor_profile=text)
    decoded = security.decode_container_context(container, "s")
    assert expected == decoded.seccomp
    assert expected == decoded.apparmor
    sandbox = pb.LinuxSandboxSecurityContext(seccomp_profile_path=text)
    assert expected == security.decode_sandbox_context(sandbox, "s").seccomp


def test_the_message_of_a_profile_beats_the_text() -> None:
    """The text is read only where the message is absent."""
    message = pb.LinuxContainerSecurityContext(
        seccomp=pb.SecurityProfile(),
        seccomp_profile_path="unconfined",
        apparmor=pb.SecurityProfile(),
        apparmor_profile="nonsense",
    )
    decoded = security.decode_container_context(message, "s")
    assert (RUNTIME_DEFAULT, RUNTIME_DEFAULT) == (decoded.seccomp, decoded.apparmor)


def test_the_front_of_the_text_form_is_left_out_of_messages() -> None:
    """A `localhost/` that a client writes into the newer form too, as critest does, is no part of a path or name."""
    message = pb.SecurityProfile(profile_type=pb.SecurityProfile.Localhost, localhost_ref="localhost/mine")
    context = pb.LinuxContainerSecurityContext(seccomp=message, apparmor=message)
    decoded = security.decode_container_context(context, "s")
    assert [SecurityProfile(ProfileType.LOCALHOST, "mine")] * 2 == [decoded.seccomp, decoded.apparmor]
    message.localhost_ref = "localhost/"
    with refused("s.apparmor.localhost_ref"):
        security.decode_container_context(pb.LinuxContainerSecurityContext(apparmor=message), "s")


@pytest.mark.parametrize("text", ["default", "localhost/", "localhost", "runtime/other"])
def test_other_texts_are_no_profile(text: str) -> None:
    """A text that names no profile is refused by its own field."""
    with refused("s.apparmor_profile"):
        security.decode_container_context(pb.LinuxContainerSecurityContext(apparmor_profile=text), "s")
    with refused("s.seccomp_profile_path"):
        security.decode_sandbox_context(pb.LinuxSandboxSecurityContext(seccomp_profile_path=text), "s")


def test_a_reference_goes_with_localhost_alone() -> None:
    """A reference is refused with any other type, and needed with Localhost."""
    with refused("s.seccomp.localhost_ref"):
        security.decode_profile(pb.SecurityProfile(localhost_ref="x"), "s.seccomp")
    with refused("s.seccomp.localhost_ref"):
        security.decode_profile(pb.SecurityProfile(profile_type=pb.SecurityProfile.Localhost), "s.seccomp")


def test_unknown_modes_and_types_are_refused() -> None:
    """A number that an enumeration does not have is refused by its field."""
    with refused("s.profile_type"):
        security.decode_profile(pb.SecurityProfile(profile_type=3), "s")  # type: ignore[arg-type]
    for field in ("network", "pid", "ipc"):
        with refused(f"n.{field}"):
            security.decode_namespaces(pb.NamespaceOption(**{field: 4}), "n")  # type: ignore[arg-type]
    with refused("s.supplemental_groups_policy"):
        security.decode_container_context(
            pb.LinuxContainerSecurityContext(supplemental_groups_policy=2),  # type: ignore[arg-type]
            "s",
        )


@pytest.mark.parametrize("mode", ["CONTAINER", "TARGET"])
@pytest.mark.parametrize("field", ["network", "ipc"])
def test_network_and_ipc_are_the_pods_or_the_nodes(field: str, mode: str) -> None:
    """Another mode would be treated as the pod's own, and is refused instead."""
    with refused(f"n.{field}"):
        security.decode_namespaces(pb.NamespaceOption(**{field: mode}), "n")  # type: ignore[arg-type]


def test_a_target_must_be_named() -> None:
    """Pid mode TARGET needs `target_id`."""
    expected = NamespaceOption(pid=NamespaceMode.TARGET, target_id="c1")
    assert expected == security.decode_namespaces(pb.NamespaceOption(pid=TARGET, target_id="c1"), "n")
    with refused("n.target_id"):
        security.decode_namespaces(pb.NamespaceOption(pid=TARGET), "n")


def test_a_user_namespace_has_one_mapping_of_each_kind() -> None:
    """One run of uids and one of gids, both with container id 0, are a user namespace."""
    expected = UserNamespace(NamespaceMode.POD, (IDMapping(65536, 0, 65536),), (IDMapping(65536, 0, 65536),))
    assert expected == security.decode_user_namespace(pb.UserNamespace(uids=[ROOT], gids=[ROOT]), "u")


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.UserNamespace(mode=pb.NamespaceMode.CONTAINER), "u.mode"),
        (pb.UserNamespace(mode=TARGET), "u.mode"),
        (pb.UserNamespace(mode=9), "u.mode"),  # type: ignore[arg-type]
        (pb.UserNamespace(mode=NODE, uids=[ROOT]), "u.uids"),
        (pb.UserNamespace(mode=NODE, gids=[ROOT]), "u.gids"),
        (pb.UserNamespace(mode=POD), "u.uids"),
        (pb.UserNamespace(uids=[ROOT]), "u.gids"),
        (pb.UserNamespace(uids=[ROOT, ROOT], gids=[ROOT]), "u.uids"),
        (pb.UserNamespace(uids=[ROOT], gids=[pb.IDMapping(container_id=1, length=5)]), "u.gids"),
        (pb.UserNamespace(uids=[pb.IDMapping()], gids=[ROOT]), "u.uids"),
    ],
)
def test_other_user_namespaces_are_refused(message: pb.UserNamespace, field: str) -> None:
    """Two mappings, none, one without id 0, and modes of containers make no user namespace of a pod."""
    with refused(field):
        security.decode_user_namespace(message, "u")


def test_a_sandbox_group_needs_a_user() -> None:
    """A group alone is refused, as are ids that Linux has not."""
    one, below, above = pb.Int64Value(value=1), pb.Int64Value(value=-1), pb.Int64Value(value=2**31)
    with refused("s.run_as_group"):
        security.decode_sandbox_context(pb.LinuxSandboxSecurityContext(run_as_group=one), "s")
    with refused("s.run_as_group"):
        security.decode_sandbox_context(pb.LinuxSandboxSecurityContext(run_as_user=one, run_as_group=above), "s")
    with refused("s.run_as_user"):
        security.decode_sandbox_context(pb.LinuxSandboxSecurityContext(run_as_user=below), "s")


def test_supplemental_groups_are_ids() -> None:
    """A negative group is refused by its place."""
    with refused("s.supplemental_groups[1]"):
        security.decode_sandbox_context(pb.LinuxSandboxSecurityContext(supplemental_groups=[1, -1]), "s")
    with refused("s.supplemental_groups[0]"):
        security.decode_container_context(pb.LinuxContainerSecurityContext(supplemental_groups=[2**31]), "s")


def test_no_change_of_capabilities_is_no_message() -> None:
    """Capabilities are written only where some are changed, as the kubelet does."""
    message = security.encode_container_context(LinuxContainerSecurityContext())
    assert not message.HasField("capabilities")


def test_a_user_is_encoded_by_ids() -> None:
    """User, group and groups are written."""
    expected = pb.LinuxContainerUser(uid=1, gid=2, supplemental_groups=[2, 3])
    assert expected == security.encode_user(LinuxContainerUser(1, 2, (2, 3)))
