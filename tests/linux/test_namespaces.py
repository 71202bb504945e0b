"""Threads in namespaces of pods."""

import socket
from pathlib import Path

import pytest

from crishim.errors import NotFound, PermissionDenied
from crishim.linux.mounts import MS_BIND, mount, unmount
from crishim.linux.namespaces import inside, unshared
from tests.backends.runc.world import needs

pytestmark = [pytest.mark.node, needs()]


def links() -> dict[str, Path]:
    return {kind: Path(f"/proc/thread-self/ns/{kind}").readlink() for kind in ("net", "ipc", "uts")}


def test_new_namespaces_are_one_thread_s() -> None:
    """A process in new namespaces of some kinds shares the others, and no other process is in them."""
    before = links()
    within = unshared(["net", "uts"], links)
    assert (before["ipc"], before) == (within["ipc"], links())
    assert not {before["net"], before["uts"]} & {within["net"], within["uts"]}


def test_a_bound_namespace_lasts_and_can_be_entered(tmp_path: Path) -> None:
    """A namespace that was bound to a file is the same for every process that enters it later, alone or with others."""
    pins = [tmp_path / kind for kind in ("uts", "ipc")]

    def pin() -> dict[str, Path]:
        socket.sethostname("pinned")
        for path in pins:
            path.touch()
            mount(f"/proc/thread-self/ns/{path.name}", path, flags=MS_BIND)
        return links()

    bound = unshared(["uts", "ipc"], pin)
    try:
        assert (bound, "pinned") == inside([str(path) for path in pins], lambda: (links(), socket.gethostname()))
        assert "pinned" == inside(str(pins[0]), socket.gethostname) != socket.gethostname()
    finally:
        for path in pins:
            unmount(path)


def test_what_is_no_namespace_is_not_entered(tmp_path: Path) -> None:
    """A path without a namespace is NotFound, and nothing is done."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "nothing"):
        with pytest.raises(NotFound, match="namespace"):
            inside(str(path), lambda: pytest.fail("not to be run"))


def test_what_work_raises_comes_out() -> None:
    """The caller gets the error of the function that ran inside."""

    def work() -> None:
        raise PermissionDenied("no")

    with pytest.raises(PermissionDenied, match="no"):
        unshared(["uts"], work)
