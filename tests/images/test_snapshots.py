import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from crishim.errors import InvalidArgument
from crishim.images.snapshots import Snapshots, overlay_options, refuse_marks
from crishim.images.tree import OPAQUE
from crishim.linux.mounts import unmount_below
from crishim.model.values import ContainerId, ImageId
from tests.backends.runc.world import needs

pytestmark = [pytest.mark.node, needs()]

C1 = ContainerId("1" * 64)
IMAGE = ImageId("sha256:" + "e" * 64)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    for name in ("snapshots", "trash"):
        (tmp_path / name).mkdir()
    yield tmp_path
    unmount_below(tmp_path)


def snapshots_in(place: Path) -> Snapshots:
    return Snapshots(place / "snapshots", place / "trash", lambda layer: place / "layers" / layer)


def layer(place: Path, name: str, *files: str) -> str:
    folder = place / "layers" / name
    folder.mkdir(parents=True)
    for file in files:
        (folder / file).write_text(name)
    return name


def names(folder: str | Path) -> set[str]:
    return {path.name for path in Path(folder).iterdir()}


@pytest.mark.parametrize("count", [0, 1, 2, 150])
def test_layers_lie_over_one_another(place: Path, count: int) -> None:
    """Any number of layers, none and more than one page of mount options among them, make one root; the topmost wins."""
    snapshots = snapshots_in(place)
    long = "x" * 60
    layers = tuple(layer(place, f"{long}{number}", "same", f"f{number}") for number in range(count))
    snapshots.hold(C1, layers)
    root = snapshots.prepare(C1)
    view = snapshots.view(C1, IMAGE, layers)
    expected = {f"f{number}" for number in range(count)} | ({"same"} if count else set())
    assert (expected, expected) == (names(root.path), names(view))
    if count:
        assert (layers[-1], layers[-1]) == ((Path(root.path) / "same").read_text(), (view / "same").read_text())
    assert set(layers) == snapshots.in_use
    snapshots.release(C1)
    assert (set(), set(), set()) == (snapshots.in_use, names(place / "snapshots"), names(place / "trash"))


def test_a_root_that_hides_all_below(place: Path) -> None:
    """An opaque whiteout in a layer's root hides every layer below it, as one in any folder does (image-spec, layer.md)."""
    snapshots = snapshots_in(place)
    layers = tuple(layer(place, name, name) for name in ("low", "opaque", "high"))
    os.setxattr(place / "layers" / "opaque", OPAQUE, b"y")
    snapshots.hold(C1, layers)
    root = snapshots.prepare(C1)
    assert [{"opaque", "high"}] * 2 == [names(root.path), names(snapshots.view(C1, IMAGE, layers))]
    snapshots.release(C1)


def test_the_root_folder_is_the_image_s(place: Path) -> None:
    """The root's own mode and owner are those of the topmost layer, until the container changes them."""
    snapshots = snapshots_in(place)
    name = layer(place, "low")
    (place / "layers" / name).chmod(0o750)
    os.chown(place / "layers" / name, 3, 4)
    snapshots.hold(C1, (name,))
    root = Path(snapshots.prepare(C1).path)
    status = root.stat()
    assert (0o750, 3, 4) == (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
    root.chmod(0o700)
    unmount_below(place)
    snapshots.prepare(C1)
    assert 0o700 == stat.S_IMODE(root.stat().st_mode)


def test_a_restart(place: Path) -> None:
    """What a container had is found again by its record, mounted or not; a folder without a record is garbage."""
    before = snapshots_in(place)
    layers = (layer(place, "low", "f"),)
    before.hold(C1, layers)
    root = before.prepare(C1)
    before.view(C1, IMAGE, layers)
    (Path(root.path) / "mine").write_text("x")
    (place / "snapshots" / "garbage" / "upper").mkdir(parents=True)
    assert root == snapshots_in(place).prepare(C1)
    unmount_below(place)
    after = snapshots_in(place)
    assert ((C1,), {"low"}, True) == (after.containers, after.in_use, after.has_root(C1))
    after.prepare(C1)
    assert ({"f", "mine"}, {C1}) == (names(root.path), names(place / "snapshots"))


def test_what_a_container_wrote(place: Path) -> None:
    """Usage counts blocks and inodes of the upper folder, a file with two names once."""
    snapshots = snapshots_in(place)
    snapshots.hold(C1, (layer(place, "low", "f"),))
    root = Path(snapshots.prepare(C1).path)
    before = snapshots.usage(C1)
    (root / "a").mkdir()
    (root / "a" / "big").write_bytes(b"x" * 100_000)
    (root / "a" / "again").hardlink_to(root / "a" / "big")
    used, inodes = snapshots.usage(C1)
    assert (1, 3, True) == (before[1], inodes, 100_000 <= used - before[0] <= 120_000)


def test_release_is_repeatable(place: Path) -> None:
    """Unknown and removed containers can be released, with their views."""
    snapshots = snapshots_in(place)
    snapshots.unview(C1, IMAGE)
    snapshots.release(C1)
    snapshots.view(C1, IMAGE, (layer(place, "low"),))
    snapshots.unview(C1, IMAGE)
    assert set() == snapshots.in_use
    snapshots.release(C1)
    snapshots.release(C1)


def test_other_users_stay_outside(place: Path) -> None:
    """No other user of the machine can reach a container's files, where its root user is the machine's."""
    snapshots = snapshots_in(place)
    snapshots.hold(C1, (layer(place, "one", "file"),))
    snapshots.prepare(C1)
    assert 0o700 == stat.S_IMODE((place / "snapshots" / C1).stat().st_mode)
    snapshots.release(C1)


def test_folders_that_overlayfs_cannot_name() -> None:
    """A folder with a colon, a comma or a backslash is refused when the store is created."""
    for name in ("a:b", "a,b", "a\\b"):
        with pytest.raises(InvalidArgument):
            refuse_marks(Path("/store") / name)


def test_volumes_belong_to_the_container(place: Path) -> None:
    """The folder for an image's volumes is on the store's disk, counts as what the container wrote, and goes with the root."""
    snapshots = snapshots_in(place)
    snapshots.hold(C1, (layer(place, "low", "low"),))
    root = snapshots.prepare(C1)
    before, _ = snapshots.usage(C1)
    volume = Path(root.volumes) / "0"
    volume.mkdir(parents=True)
    (volume / "f").write_bytes(b"x" * 100_000)
    after, inodes = snapshots.usage(C1)
    assert (True, 3) == (100_000 <= after - before < 200_000, inodes)
    snapshots.release(C1)
    assert not volume.exists()


def test_a_root_with_a_label() -> None:
    """The label of a container's files is an option of the overlay, quoted, as levels have commas; without one it has none."""
    label = "system_u:object_r:container_file_t:s0:c3,c7"
    writable = overlay_options(["/two", "/one", "/upper", "/work"], label, writable=True)
    assert writable.endswith(f'lowerdir=/two:/one,upperdir=/upper,workdir=/work,context="{label}"')
    assert overlay_options(["/one", "/empty"], label, writable=False).endswith(f'lowerdir=/one:/empty,context="{label}"')
    assert "context" not in overlay_options(["/one", "/upper", "/work"], "", writable=True)


def test_containers_while_threads_work(place: Path) -> None:
    """What is in the store can be listed while other threads add to it; a Python with a GIL cannot show the contrary."""
    snapshots = snapshots_in(place)
    ids = [ContainerId(f"{number:064}") for number in range(20_000)]

    def add() -> None:
        for container_id in ids:
            snapshots.hold(container_id, ("a",))

    thread = threading.Thread(target=add)
    thread.start()
    while thread.is_alive():
        assert len(snapshots.containers) <= len(ids)
    thread.join()
    assert (tuple(ids), {"a"}) == (snapshots.containers, snapshots.in_use)
