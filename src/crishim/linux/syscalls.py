"""The C library, for system calls that Python has no function for."""

import ctypes
import os
from typing import Final

from crishim.errors import CrishimError, from_os_error

libc: Final = ctypes.CDLL(None, use_errno=True)
"""Calls return -1 on failure; `last_os_error` then returns the error."""


def last_os_error() -> OSError:
    """The error of a call that has just failed in this thread."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def last_error(what: str) -> CrishimError:
    """The same as a `CrishimError`; `what` names the failed operation."""
    return from_os_error(last_os_error(), what)
