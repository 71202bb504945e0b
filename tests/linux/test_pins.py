"""Namespaces bound to files: only of the process that is meant, and never our own."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from crishim.linux import processes
from crishim.linux.pins import pin, unpin
from tests.backends.runc.world import needs

pytestmark = [pytest.mark.node, needs("unshare")]


@pytest.fixture
def apart() -> Iterator[processes.Identity]:
    """A process in a UTS namespace of its own."""
    stay = ["unshare", "--uts", "sh", "-c", "echo; read x"]
    with subprocess.Popen(stay, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = processes.read(process.pid)
        assert found is not None
        yield found.identity


def test_a_pin_is_the_process_s_namespace(apart: processes.Identity, tmp_path: Path) -> None:
    """The file is the same namespace, by device and inode, until it is unpinned; then there is no file."""
    file = tmp_path / "uts"
    assert pin(apart, "uts", file)
    assert file.samefile(f"/proc/{apart.pid}/ns/uts")
    unpin(file)
    unpin(file)
    assert not file.exists()


def test_a_pid_that_is_used_again_is_not_pinned(apart: processes.Identity, tmp_path: Path) -> None:
    """A process with another start time is another process."""
    assert not pin(processes.Identity(apart.pid, apart.start - 1), "uts", tmp_path / "uts")
    assert [] == list(tmp_path.iterdir())


def test_our_own_namespace_is_not_pinned(tmp_path: Path) -> None:
    """A process that shares the namespace with us has none to join."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        found = processes.read(process.pid)
        assert found is not None
        assert not pin(found.identity, "uts", tmp_path / "uts")
    assert [] == list(tmp_path.iterdir())
