"""Opens named pipes of a caller as the streams of a container's first process."""

import contextlib
import os
from collections.abc import Iterator
from typing import Final

from crishim.errors import InvalidArgument
from crishim.interfaces.oci_runtime import Stdio
from crishim.logs.stdio import ChildEnds
from crishim.monitor.conmon import has_pipes

_STREAMS: Final = (("stdin", os.O_RDONLY | os.O_NONBLOCK), ("stdout", os.O_RDWR), ("stderr", os.O_RDWR))
"""Outputs are opened for reading too, or the open would block until there is a reader; the input only for reading, for its
EOF.
"""


@contextlib.contextmanager
def opened(stdio: Stdio) -> Iterator[ChildEnds]:
    """Descriptors for the three streams, closed on exit; /dev/null for a stream without a pipe.

    Raises `InvalidArgument` for a pipe that does not exist.
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
