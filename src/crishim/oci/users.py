"""Resolves a container's user: a UserSpec and the image's passwd and group files -> numeric ids.

Names are looked up in the image. A uid without an entry is accepted; its group is 0. The supplemental groups are those of the
request, with MERGE also those of the user in the group file; the primary group is always included.
"""

from collections.abc import Iterator
from typing import Final

from crishim.errors import InvalidArgument
from crishim.model.container import UserSpec
from crishim.model.security import LinuxContainerUser, SupplementalGroupsPolicy

_FIELD = "config.linux.security_context"

MAX_ID: Final = 2**31 - 1
"""The largest uid or gid that runtimes accept: crun runs 4294967295 as root."""


def resolve_user(spec: UserSpec, passwd: bytes, group: bytes) -> LinuxContainerUser:
    """The numeric ids. Raises `InvalidArgument` for a name that is not in the image's files, and for ids out of range."""
    name, uid, gid = _look_up(spec.user, passwd)
    if spec.group:
        gid = _group_id(spec.group, group)
    extra = [_bounded(str(number), "supplemental_groups") for number in spec.supplemental_groups]
    if spec.supplemental_groups_policy is SupplementalGroupsPolicy.MERGE and name:
        extra.extend(number for _, number, members in _groups(group) if name in members)
    return LinuxContainerUser(uid, gid, tuple(dict.fromkeys((gid, *extra))))


def _look_up(user: str, passwd: bytes) -> tuple[str, int, int]:
    if not user:
        user = "0"
    if _is_number(user):
        uid = _bounded(user, "run_as_user")
        return next(((name, uid, gid) for name, number, gid in _users(passwd) if number == uid), ("", uid, 0))
    for name, uid, gid in _users(passwd):
        if name == user:
            return name, uid, gid
    raise InvalidArgument(f"{_FIELD}.run_as_username", f"the image has no user {user!r}")


def _group_id(group: str, groups: bytes) -> int:
    if _is_number(group):
        return _bounded(group, "run_as_group")
    for name, number, _ in _groups(groups):
        if name == group:
            return number
    raise InvalidArgument(f"{_FIELD}.run_as_group", f"the image has no group {group!r}")


def _users(passwd: bytes) -> Iterator[tuple[str, int, int]]:
    for parts in _lines(passwd):
        if len(parts) >= 4 and _is_id(parts[2]) and _is_id(parts[3]):
            yield parts[0], int(parts[2]), int(parts[3])


def _groups(group: bytes) -> Iterator[tuple[str, int, list[str]]]:
    for parts in _lines(group):
        if len(parts) >= 3 and _is_id(parts[2]):
            yield parts[0], int(parts[2]), parts[3].split(",") if len(parts) > 3 else []


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()  # isdigit alone accepts other digits, as "²"


def _is_id(text: str) -> bool:
    """Whether a field of an image's file is a valid id; lines with invalid ids are skipped."""
    return _is_number(text) and len(text) <= 10 and int(text) <= MAX_ID


def _bounded(text: str, field: str) -> int:
    if not _is_id(text):
        raise InvalidArgument(f"{_FIELD}.{field}", f"{text[:40]} is not an id from 0 to {MAX_ID}")
    return int(text)


def _lines(text: bytes) -> Iterator[list[str]]:
    for line in text.decode("utf-8", "surrogateescape").splitlines():
        if line and not line.startswith("#"):
            yield line.split(":")
