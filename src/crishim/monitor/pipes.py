"""Named pipes that a caller has made for a container, opened to become its first process's own streams."""

import contextlib
import os
from collections.abc import Iterator
from typing import Final

from crishim.errors import InvalidArgument
from crishim.interfaces.oci_runtime import Stdio
from crishim.logs.stdio import ChildEnds
from crishim.monitor.conmon import has_pipes

_STREAMS: Final = (("stdin", os.O_RDONLY | os.O_NONBLOCK), ("stdout", os.O_RDWR), ("stderr", os.O_RDWR))
"""Outputs are opened for reading too, or the open would wait for somebody who reads; an input without, or it had no end."""


@contextlib.contextmanager
def opened(stdio: Stdio) -> Iterator[ChildEnds]:
    """Descriptors for the three streams, closed afterwards; /dev/null for what there is no pipe for.

    Raises `InvalidArgument` for a pipe that is not there.
    """
    pipes = stdio if has_pipes(stdio) else Stdio()
    with contextlib.ExitStack() as stack:
        yield ChildEnds(*(_opened(getattr(pipes, name), flags, name, stack) for name, flags in _STREAMS))


def _opened(path: str, flags: int, name: str, stack: contextlib.ExitStack) -> int:
    try:
        descriptor = os.open(path or os.devnull, (flags if path else os.O_RDWR) | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidArgument(name, f"{path}: {error.strerror}") from error
    stack.callback(os.close, descriptor)
    os.set_blocking(descriptor, True)
    return descriptor
