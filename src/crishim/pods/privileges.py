"""Capabilities of a container's process, for engines that run it themselves."""

import ctypes
from collections.abc import Collection
from typing import Final

from crishim.linux.syscalls import last_error, libc
from crishim.oci.facts import CAPABILITIES

__all__ = ["limit_capabilities"]

_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_VERSION: Final = 0x20080522
"""_LINUX_CAPABILITY_VERSION_3 of capset(2), with two words of 32 bits for each set."""


def limit_capabilities(names: Collection[str]) -> None:
    """Give up all capabilities but these (`CAP_CHOWN`, ...), for this process, its programs and their children, for good.

    To be called as root, last before the program. Raises `PermissionDenied`.
    """
    kept = 0
    number = 0
    while (bounded := libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0)) >= 0:  # EINVAL behind the kernel's last one
        if number < len(CAPABILITIES) and CAPABILITIES[number] in names:
            kept |= bounded << number
        elif bounded and libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0):
            raise last_error("dropping a capability")
        number += 1
    words = [word for shift in (0, 32) for word in (kept >> shift & 0xFFFFFFFF, kept >> shift & 0xFFFFFFFF, 0)]
    if libc.capset((ctypes.c_uint32 * 2)(_VERSION, 0), (ctypes.c_uint32 * 6)(*words)):
        raise last_error("setting the capabilities")
