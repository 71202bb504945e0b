"""The options of mount(8)."""

import pytest

from crishim.linux.mount_options import parse_options
from crishim.linux.mounts import MS_BIND, MS_NODEV, MS_RDONLY, MS_REC

RELATIME = 1 << 21


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), (0, [])),
        (("rbind", "ro"), (MS_BIND | MS_REC | MS_RDONLY, [])),
        (("ro", "rw"), (0, [])),
        (("rw", "ro"), (MS_RDONLY, [])),
        (("relatime", "nodev", "norelatime"), (MS_NODEV, [])),
        (("relatime", "defaults", "index=off", "lowerdir=/a:/b"), (RELATIME, ["index=off", "lowerdir=/a:/b"])),
        (("nomand", "diratime", "nostrictatime", "async", "atime", "suid", "dev", "exec"), (0, [])),
    ],
)
def test_options(options: tuple[str, ...], expected: tuple[int, list[str]]) -> None:
    """The options of mount(8) become flags, of which the last counts; the rest are the file system's own, in order."""
    assert expected == parse_options(options)
