import os
import stat
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from crishim.errors import FailedPrecondition, PermissionDenied
from crishim.images.content import Content, LayerSize, UnpackedLayer
from tests.backends.runc.world import needs

pytestmark = [pytest.mark.node, needs()]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """The folders are locked until they are closed, which may be repeated."""
    content = Content(tmp_path / "store")
    with pytest.raises(FailedPrecondition):
        Content(tmp_path / "store")
    content.close()
    content.close()
    Content(tmp_path / "store").close()


def test_who_may_look(tmp_path: Path) -> None:
    """Only root can read blobs and layers; the folder of roots can be traversed, which user namespaces need."""
    content = Content(tmp_path / "store")
    rooms = (content.folder, content.snapshots, content.layers, content.blobs, content.tmp)
    assert [0o711, 0o711, 0o700, 0o700, 0o700] == [stat.S_IMODE(room.stat().st_mode) for room in rooms]
    content.close()


def test_a_place_where_no_folder_can_be(tmp_path: Path) -> None:
    """A folder that cannot be created is `PermissionDenied`, with its name."""
    (tmp_path / "file").write_text("")
    with pytest.raises(PermissionDenied, match="file"):
        Content(tmp_path / "file" / "store")


def test_sweeping(tmp_path: Path) -> None:
    """Unreferenced layers are deleted at once; unreferenced blobs when they are doomed or a day old."""
    content = Content(tmp_path / "store")
    for name in ("kept", "old", "unknown"):
        (content.layers / name).mkdir()
    content.sizes = {"sha256:kept": LayerSize(1, 1), "sha256:old": LayerSize(1, 1)}
    (content.blobs / "sha256").mkdir()
    for name, age in (("named", 10**6), ("doomed", 0), ("ancient", 10**6), ("young", 10)):
        path = content.blob(f"sha256:{name}")
        path.write_text(name)
        os.utime(path, (10**9 - age, 10**9 - age))
    delete = content.sweep({"sha256:kept"}, {"sha256:named"}, {"sha256:doomed"}, 10**9)
    assert ({"kept"}, {"named", "young"}) == (names(content.layers), names(content.blobs / "sha256"))
    assert {"sha256:kept": LayerSize(1, 1)} == content.sizes
    delete()
    assert set() == names(content.tmp)
    content.close()


def test_a_sweep_waits_for_names(tmp_path: Path) -> None:
    """Layers that a thread adopts meanwhile are no leftovers, and both changes of `sizes` stay."""
    content = Content(tmp_path / "store")
    with ThreadPoolExecutor() as threads:
        with content._naming:
            sweep = threads.submit(content.sweep, ("sha256:new",), (), (), 0)
            wait([sweep], timeout=0.2)
            assert not sweep.done()
            (content.layers / "new").mkdir()
            content.sizes = {"sha256:new": LayerSize(1, 1)}
        sweep.result(30)()
    assert {"new"} == names(content.layers)
    assert {"sha256:new": LayerSize(1, 1)} == content.sizes
    content.close()


def test_sizes_are_replaced(tmp_path: Path) -> None:
    """The event loop may iterate over `sizes` while a thread adopts, sweeps or loads."""
    content = Content(tmp_path / "store")
    seen = [content.sizes]
    place = content.work()
    content.adopt({"sha256:new": UnpackedLayer(place=place, diff_id="", bytes=1, inodes=1)})
    seen.append(content.sizes)
    content.load()
    seen.append(content.sizes)
    content.sweep((), (), (), 0)()
    new = {"sha256:new": LayerSize(1, 1)}
    assert [{}, new, new, {}] == [*seen, content.sizes]
    content.close()
