"""The C library: system calls that Python has no function for."""

import ctypes
import os
from typing import Final

from crishim.errors import CrishimError, of_system

libc: Final = ctypes.CDLL(None, use_errno=True)
"""Its calls answer -1 where they failed, and then `refusal` tells why."""


def refusal() -> OSError:
    """The error of a call that has just failed in this thread."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def failure(what: str) -> CrishimError:
    """The same in our words; `what` the call was for."""
    return of_system(refusal(), what)
