"""Who a container runs as: a UserSpec and the image's own passwd and group files -> numbers.

Names are looked up in the image. A number need not be there; its group is then 0. Supplemental groups are those asked for, with
MERGE also those that the group file gives the user; the primary group is always among them.
"""

from collections.abc import Iterator

from crishim.errors import InvalidArgument
from crishim.model.container import UserSpec
from crishim.model.security import LinuxContainerUser, SupplementalGroupsPolicy

_FIELD = "config.linux.security_context"


def resolve_user(spec: UserSpec, passwd: bytes, group: bytes) -> LinuxContainerUser:
    """The user's numbers. Raises `InvalidArgument` for a name that the image does not know."""
    name, uid, gid = _look_up(spec.user, passwd)
    if spec.group:
        gid = _group_id(spec.group, group)
    extra = list(spec.supplemental_groups)
    if spec.supplemental_groups_policy is SupplementalGroupsPolicy.MERGE and name:
        extra.extend(number for _, number, members in _groups(group) if name in members)
    return LinuxContainerUser(uid, gid, tuple(dict.fromkeys((gid, *extra))))


def _look_up(user: str, passwd: bytes) -> tuple[str, int, int]:
    if not user:
        user = "0"
    if user.isdigit():
        uid = int(user)
        return next(((name, uid, gid) for name, number, gid in _users(passwd) if number == uid), ("", uid, 0))
    for name, uid, gid in _users(passwd):
        if name == user:
            return name, uid, gid
    raise InvalidArgument(f"{_FIELD}.run_as_username", f"the image knows no user {user!r}")


def _group_id(group: str, groups: bytes) -> int:
    if group.isdigit():
        return int(group)
    for name, number, _ in _groups(groups):
        if name == group:
            return number
    raise InvalidArgument(f"{_FIELD}.run_as_group", f"the image knows no group {group!r}")


def _users(passwd: bytes) -> Iterator[tuple[str, int, int]]:
    for parts in _lines(passwd):
        if len(parts) >= 4 and parts[2].isdigit() and parts[3].isdigit():
            yield parts[0], int(parts[2]), int(parts[3])


def _groups(group: bytes) -> Iterator[tuple[str, int, list[str]]]:
    for parts in _lines(group):
        if len(parts) >= 3 and parts[2].isdigit():
            yield parts[0], int(parts[2]), parts[3].split(",") if len(parts) > 3 else []


def _lines(text: bytes) -> Iterator[list[str]]:
    for line in text.decode("utf-8", "surrogateescape").splitlines():
        if line and not line.startswith("#"):
            yield line.split(":")
