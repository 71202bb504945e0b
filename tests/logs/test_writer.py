import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from crishim.errors import FailedPrecondition, PermissionDenied, ResourceExhausted, Unknown
from crishim.logs.writer import LogFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pods" / "main" / "0.log"


def test_the_file_is_created_with_its_folders(path: Path) -> None:
    """Opening makes the folders and an empty file of mode 0640, whatever the umask."""
    before = os.umask(0o777)
    try:
        os.umask(0o077)
        log = LogFile(path)
    finally:
        os.umask(before)
    assert (b"", 0o640) == (path.read_bytes(), path.stat().st_mode & 0o777)
    log.close()
    log.close()


def test_lines_are_appended(path: Path) -> None:
    """What is in the file stays, and lines go behind it; after the close nothing more is written."""
    first = LogFile(path)
    first.append(b"one\n")
    second = LogFile(path)
    second.append(b"two\n")
    first.append(b"three\nfour\n")
    first.close()
    second.close()
    first.append(b"five\n")
    assert path.read_bytes() == b"one\ntwo\nthree\nfour\n"


def test_reopen_goes_on_in_a_new_file(path: Path) -> None:
    """Until a reopen the renamed file is written on; the new one is there when the reopen returns."""
    log = LogFile(path)
    log.append(b"one\n")
    rotated = path.rename(path.with_suffix(".old"))
    log.append(b"two\n")
    log.reopen()
    assert path.exists()
    log.append(b"three\n")
    log.reopen()
    log.append(b"four\n")
    log.close()
    assert (b"one\ntwo\n", b"three\nfour\n") == (rotated.read_bytes(), path.read_bytes())
    with pytest.raises(FailedPrecondition):
        log.reopen()


@pytest.mark.parametrize("failing", ["open", "fchmod"])
def test_a_failed_reopen_leaves_no_file(path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    """A reopen that fails leaves no new file and no descriptor, and the old file is written on."""
    log = LogFile(path)
    rotated = path.rename(path.with_suffix(".old"))
    descriptors = len(list(Path("/proc/self/fd").iterdir()))

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, refuse)
        with pytest.raises(ResourceExhausted, match=str(path)):
            log.reopen()
    assert not path.exists()
    assert descriptors == len(list(Path("/proc/self/fd").iterdir()))
    log.append(b"one\n")
    log.close()
    assert rotated.read_bytes() == b"one\n"


def test_a_reopen_without_its_folder_fails(path: Path) -> None:
    """A reopen does not bring back a pod's folder that was removed."""
    log = LogFile(path)
    path.unlink()
    path.parent.rmdir()
    with pytest.raises(Unknown, match=str(path)):
        log.reopen()
    log.close()
    assert not path.parent.exists()


def test_what_is_no_file_is_refused(path: Path, tmp_path: Path) -> None:
    """A folder, a symbolic link or a pipe in place of the log is an error that names the path, and never hangs."""
    path.parent.mkdir(parents=True)
    path.mkdir()
    with pytest.raises(Unknown, match=str(path)):
        LogFile(path)
    path.rmdir()
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unknown, match=str(path)):
        LogFile(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(Unknown, match=str(path)):
        LogFile(path)


def test_errors_have_their_names(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel forbids is PermissionDenied."""

    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionDenied, match=str(path)):
        LogFile(path)


_FILLER = """
import sys
from pathlib import Path
from crishim.logs.writer import LogFile
log = LogFile(Path(sys.argv[1]))
log.append(b"a" * 99 + b"\\n" + b"b" * 99 + b"\\n")
log.append(b"c" * 99 + b"\\n" + b"d" * 899 + b"\\n")
log.append(b"e" * 899 + b"\\n")
log.append(b"f" * 99 + b"\\n")
log.close()
"""


def test_a_full_disk_tears_no_line(path: Path) -> None:
    """Lines that cannot be written are lost whole and logged once; later ones are written."""
    path.parent.mkdir(parents=True)
    result = subprocess.run(
        [sys.executable, "-c", _FILLER, str(path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, signal.Signals(-result.returncode)
    assert [line[:1] * 99 for line in (b"a", b"b", b"c", b"f")] == path.read_bytes().splitlines()
    assert result.stderr.count("output of a container is lost") == 1
