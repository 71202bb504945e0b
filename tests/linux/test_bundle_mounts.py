"""The mounts of a bundle, in a mount namespace of each test's own."""

from pathlib import Path
from typing import Any

import pytest

from crishim.errors import InvalidArgument
from crishim.linux.bundle_mounts import make_read_only, mount_bundle, place
from crishim.linux.mounts import mount, unmount_below
from tests.backends.runc.world import needs
from tests.own_mounts import run_in_own_mounts

pytestmark = [pytest.mark.node, needs("unshare")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty root file system."""
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


def test_mounts_of_a_bundle(request: pytest.FixtureRequest, root: Path, tmp_path: Path) -> None:
    """Folders and files are bound at places that are made, read-only where that is asked for; other kinds only if named."""
    if run_in_own_mounts(request):
        return
    (tmp_path / "volume").mkdir()
    (tmp_path / "hosts").write_text("127.0.0.1 me\n")
    mounts: list[dict[str, Any]] = [
        {"destination": "/a/b", "type": "bind", "source": str(tmp_path / "volume"), "options": ["rbind", "ro", "rprivate"]},
        {"destination": "/etc/hosts", "type": "bind", "source": str(tmp_path / "hosts"), "options": ["bind"]},
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=700", "size=65536k"]},
        {"destination": "/proc", "type": "proc", "source": "proc"},
    ]
    mount_bundle(root, mounts, kinds=frozenset({"tmpfs"}))
    try:
        assert "127.0.0.1 me\n" == (root / "etc" / "hosts").read_text()
        assert 0o700 == (root / "tmp").stat().st_mode & 0o777
        assert not (root / "proc").exists()
        with pytest.raises(OSError, match="Read-only"):
            (root / "a" / "b" / "new").touch()
    finally:
        unmount_below(root)


def test_a_read_only_root(request: pytest.FixtureRequest, root: Path, tmp_path: Path) -> None:
    """Nothing of the root can be written, but what is mounted into it."""
    if run_in_own_mounts(request):
        return
    (root / "data").mkdir()
    (tmp_path / "volume").mkdir()
    make_read_only(root)
    mount_bundle(root, [{"destination": "/data", "source": str(tmp_path / "volume"), "options": ["bind"]}])
    try:
        with pytest.raises(OSError, match="Read-only"):
            (root / "new").touch()
        (root / "data" / "new").touch()
    finally:
        unmount_below(root)
    assert ["new"] == [path.name for path in (tmp_path / "volume").iterdir()]


def test_links_lead_nowhere_outside(root: Path, tmp_path: Path) -> None:
    """A place behind an absolute link of the image is in the root."""
    (root / "inside").mkdir()
    (root / "etc").symlink_to("/inside")
    (root / "up").symlink_to("../../..")
    assert root / "inside" / "hosts" == place(root, "/etc/hosts", folder=False)
    assert root / "made" == place(root, "/up/made", folder=True)
    assert ["root"] == [path.name for path in tmp_path.iterdir()]


@pytest.mark.parametrize("target", ["/outside/new", "../../../outside/new", "chain", "/run/systemd/resolve/stub"])
def test_a_link_that_leads_nowhere(root: Path, tmp_path: Path, target: str) -> None:
    """Its target is made in the root, and never on the node."""
    (root / "etc").mkdir()
    (root / "etc" / "hosts").symlink_to(target)
    (root / "etc" / "chain").symlink_to("/far/away")
    made = place(root, "/etc/hosts", folder=False)
    assert (True, True) == (made.is_relative_to(root), made.is_file())
    assert ["root"] == [path.name for path in tmp_path.iterdir()]


def test_links_in_a_circle(root: Path) -> None:
    """They are an error, as for the kernel."""
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        place(root, "/a", folder=True)


@pytest.mark.parametrize("path", ["/", "", "etc/hosts", "//"])
def test_what_is_no_place(root: Path, path: str) -> None:
    """The root itself and relative paths are refused."""
    with pytest.raises(InvalidArgument, match="absolute path"):
        place(root, path, folder=True)


def test_read_only_to_the_bottom(request: pytest.FixtureRequest, root: Path, tmp_path: Path) -> None:
    """Rro reaches the mounts below a mount; options without a flag are no file system's."""
    if run_in_own_mounts(request):
        return
    (tmp_path / "volume" / "below").mkdir(parents=True)
    mount("tmpfs", tmp_path / "volume" / "below", "tmpfs")
    options = ["rbind", "rro", "rprivate", "defaults", "exec"]
    mount_bundle(root, [{"destination": "/data", "source": str(tmp_path / "volume"), "options": options}])
    (tmpfs,) = [{"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nodev", "suid", "size=1m"]}]
    mount_bundle(root, [tmpfs], kinds=frozenset({"tmpfs"}))
    try:
        for folder in ("data", "data/below"):
            with pytest.raises(OSError, match="Read-only"):
                (root / folder / "new").touch()
    finally:
        unmount_below(root)
        unmount_below(tmp_path / "volume")
