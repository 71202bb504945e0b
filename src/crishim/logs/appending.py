"""Appending to log files by bare system calls. Imports nothing big: the keeper has this module too."""

import os

_MODE = 0o640

_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def open_log(path: str) -> int:
    """A descriptor of the log file at `path`, which is created with mode 0640 where it is missing. Raises `OSError`.

    A symbolic link is refused, and opening does not block on a special file (a named pipe).
    """
    try:
        fd = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, _MODE)
    except FileExistsError:
        return os.open(path, _FLAGS)
    try:
        os.fchmod(fd, _MODE)
    except OSError:
        os.close(fd)
        os.unlink(path)  # noqa: PTH108 - pathlib is too big for the keeper
        raise
    return fd


def append(fd: int, lines: bytes) -> OSError | None:
    """Append whole lines; the error where they cannot be written, as on a full disk: a partly written line is removed then."""
    rest = memoryview(lines)
    try:
        while rest:
            rest = rest[os.write(fd, rest) :]
    except OSError as error:
        written = lines[: len(lines) - len(rest)]
        torn = len(written) - (written.rfind(b"\n") + 1)
        try:
            if torn:
                os.ftruncate(fd, os.fstat(fd).st_size - torn)
        except OSError:
            pass  # the torn line stays
        return error
    return None
