"""The mounts of a bundle, in a mount namespace of each test's own."""

from pathlib import Path
from typing import Any

import pytest

from crishim.linux.bundle_mounts import make_read_only, mount_bundle, place
from crishim.linux.mounts import unmount_below
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
