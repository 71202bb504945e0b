"""The C library: system calls that Python has no function for."""

import ctypes
import os
from typing import Final

from crishim.errors import CrishimError, from_os_error

libc: Final = ctypes.CDLL(None, use_errno=True)
"""Its calls answer -1 where they failed, and then `last_os_error` tells why."""


def last_os_error() -> OSError:
    """The error of a call that has just failed in this thread."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def last_error(what: str) -> CrishimError:
    """The same in our words; `what` the call was for."""
    return from_os_error(last_os_error(), what)
