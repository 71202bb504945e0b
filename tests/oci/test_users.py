"""Who a container runs as."""

import pytest

from crishim.errors import InvalidArgument
from crishim.model.container import UserSpec
from crishim.model.security import LinuxContainerUser, SupplementalGroupsPolicy
from crishim.oci.users import MAX_ID, resolve_user

PASSWD = b"root:x:0:0:root:/root:/bin/sh\nwww:x:33:44::/var/www:/bin/sh\n# a comment\nbroken line\n"
GROUP = b"root:x:0:\nwww:x:44:\nextra:x:50000:www,root\n"
STRICT = SupplementalGroupsPolicy.STRICT


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (UserSpec(), LinuxContainerUser(0, 0, (0, 50000))),
        (UserSpec(user="33"), LinuxContainerUser(33, 44, (44, 50000))),
        (UserSpec(user="www"), LinuxContainerUser(33, 44, (44, 50000))),
        (UserSpec(user="www", group="extra"), LinuxContainerUser(33, 50000, (50000,))),
        (UserSpec(user="1234"), LinuxContainerUser(1234, 0, (0,))),
        (UserSpec(user="1234", group="77"), LinuxContainerUser(1234, 77, (77,))),
        (UserSpec(user=str(MAX_ID)), LinuxContainerUser(MAX_ID, 0, (0,))),
        (UserSpec(user="33", supplemental_groups=(1, 2, 1)), LinuxContainerUser(33, 44, (44, 1, 2, 50000))),
        (
            UserSpec(user="www", supplemental_groups=(1,), supplemental_groups_policy=STRICT),
            LinuxContainerUser(33, 44, (44, 1)),
        ),
    ],
)
def test_users_are_looked_up_in_the_image(spec: UserSpec, expected: LinuxContainerUser) -> None:
    """Names and groups come from the image's files; a number need not be there; STRICT adds none (mapping.md 3)."""
    assert expected == resolve_user(spec, PASSWD, GROUP)


@pytest.mark.parametrize("spec", [UserSpec(user="nobody"), UserSpec(user="www", group="nobody")])
def test_unknown_names_are_refused(spec: UserSpec) -> None:
    """A name that the image does not know is an error at creation (mapping.md 3)."""
    with pytest.raises(InvalidArgument):
        resolve_user(spec, PASSWD, GROUP)


@pytest.mark.parametrize("number", ["²", "٣", "2147483648", "4294967295", "9" * 5000])
def test_ids_that_no_runtime_takes(number: str) -> None:
    """A digit of another script is no number, and an id above the largest is refused: as a C int it would be another user."""
    for spec in (UserSpec(user=number), UserSpec(user="www", group=number)):
        with pytest.raises(InvalidArgument):
            resolve_user(spec, PASSWD, GROUP)


@pytest.mark.parametrize("number", [-1, MAX_ID + 1, 2**32 - 1])
def test_supplemental_groups_that_no_runtime_takes(number: int) -> None:
    """A supplemental group outside the range is refused as the other ids are."""
    with pytest.raises(InvalidArgument, match="supplemental_groups"):
        resolve_user(UserSpec(user="www", supplemental_groups=(number,)), PASSWD, GROUP)


def test_lines_with_ids_that_no_runtime_takes_are_passed_over() -> None:
    """An image's files may hold anything; a name is not found on a line whose ids cannot be used."""
    passwd = "www:x:²:44::/:\nwww:x:4294967295:44::/:\n".encode() + PASSWD
    group = "www:x:²:\nwww:x:99999999999:www\n".encode() + GROUP
    assert LinuxContainerUser(33, 44, (44, 50000)) == resolve_user(UserSpec(user="www"), passwd, group)
