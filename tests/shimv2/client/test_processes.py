import os
import signal
import socket
import subprocess
from pathlib import Path

from crishim.shimv2.client.cleanup import born, end_process, end_shim, remove_socket, working_in


def test_a_process_is_distinguished_from_its_pids_next_owner() -> None:
    """The process that began at that time is ended, and no other."""
    with subprocess.Popen(["sleep", "600"]) as process:
        began = born(process.pid)
        assert began > 0
        assert not end_process(process.pid, began + 1)
        assert not end_process(process.pid, 0)
        assert process.poll() is None
        assert end_process(process.pid, began)
        assert -signal.SIGKILL == process.wait()
    assert 0 == born(process.pid)
    assert not end_process(process.pid, began)
    assert not end_process(1, born(1))


def test_a_shim_without_a_pid_is_who_works_in_the_bundle(tmp_path: Path) -> None:
    """Processes that work in the bundle are ended, and none that work elsewhere, and never this process."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    with subprocess.Popen(["sleep", "600"], cwd=bundle) as there, subprocess.Popen(["sleep", "600"], cwd=tmp_path) as elsewhere:
        assert [there.pid] == [process.pid for process in working_in(bundle)]
        assert end_shim(0, 0, bundle)
        assert -signal.SIGKILL == there.wait()
        assert elsewhere.poll() is None
        elsewhere.kill()
    assert not end_shim(0, 0, bundle)
    assert os.getpid() not in [process.pid for process in working_in(Path.cwd())]


def test_only_sockets_are_removed(tmp_path: Path) -> None:
    """A dead shim's socket is removed; a path that is no socket, or is missing, is left alone."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
    file = tmp_path / "file"
    file.touch()
    for address in (f"unix://{path}", f"unix://{path}", f"unix://{file}", "abstract", "vsock://3:1024", ""):
        remove_socket(address)
    assert [file] == list(tmp_path.iterdir())
