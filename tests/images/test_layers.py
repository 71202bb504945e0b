import gzip
import json
import os
import stat
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from crishim.errors import DataLoss, ResourceExhausted
from crishim.images.layers import Unpacked, found_below, settle, unpack
from crishim.images.tree import Tree
from crishim.linux.mounts import mount, unmount
from tests.backends.runc.world import needs
from tests.node.registry import File, digest_of, folder, hardlink, symlink, tar_of

pytestmark = [pytest.mark.node, needs()]

Unpack = Callable[..., Path]


@pytest.fixture
def unpacked(tmp_path: Path) -> Unpack:
    """Unpacks and settles layers given as plain tar, bottom first; the folder of the last."""

    def run(*layers: bytes) -> Path:
        lowers: list[Path] = []
        for number, data in enumerate(layers):
            layer = raw(tmp_path, str(number), data)
            settle(reloaded(layer), lowers)
            lowers.insert(0, Path(layer.tree.root))
        return lowers[0]

    return run


def raw(place: Path, name: str, data: bytes) -> Unpacked:
    blob, root = place / f"blob{name}", place / f"root{name}"
    blob.write_bytes(data)
    root.mkdir()
    return unpack(blob, root)


def reloaded(layer: Unpacked) -> Tree:
    """The layer's tree as another process knows it."""
    return Tree.load(layer.tree.root, json.loads(json.dumps(layer.tree.dump())))


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def is_whiteout(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(path: Path) -> bool:
    return "trusted.overlay.opaque" in os.listxattr(path)


def test_files_get_all_they_had(unpacked: Unpack) -> None:
    """Content, owner, mode with its special bits, times, and extended attributes with file capabilities are the layer's."""
    capability = b"\1\0\0\2\0\4\0\0\0\0\0\0\0\0\0\0\0\0\0\0".decode()
    root = unpacked(
        tar_of(
            folder("d", 0o1777, uid=5, gid=6, mtime=1.5),
            File("d/f", b"abc", mode=0o4755, uid=1000, gid=1001, mtime=2.25, xattrs={"security.capability": capability}),
            symlink("d/s", "/anywhere"),
            hardlink("d/h", "d/f"),
            File("d/p", kind=tarfile.FIFOTYPE, mode=0o600),
        )
    )
    file, place = (root / "d/f").lstat(), (root / "d").lstat()
    assert b"abc" == (root / "d/f").read_bytes()
    assert (0o4755, 1000, 1001, 2_250_000_000) == (stat.S_IMODE(file.st_mode), file.st_uid, file.st_gid, file.st_mtime_ns)
    assert capability.encode() == os.getxattr(root / "d/f", "security.capability")
    assert (0o1777, 5, 6, 1_500_000_000) == (stat.S_IMODE(place.st_mode), place.st_uid, place.st_gid, place.st_mtime_ns)
    assert ("/anywhere", file.st_ino) == (str((root / "d/s").readlink()), (root / "d/h").lstat().st_ino)
    assert stat.S_ISFIFO((root / "d/p").lstat().st_mode)


def test_the_diff_id_is_that_of_the_whole_stream(tmp_path: Path) -> None:
    """The digest covers every byte of the plain archive, also what follows its end, however it was packed."""
    data = tar_of(File("f", b"x")) + b"after the end"
    assert digest_of(data) == raw(tmp_path, "plain", data).diff_id
    assert digest_of(data) == raw(tmp_path, "gzip", gzip.compress(data)).diff_id


def test_a_module_is_one_file(tmp_path: Path) -> None:
    """A blob with the first bytes of a WebAssembly module is a file, and its digest the diff id."""
    data = b"\0asm\1\0\0\0" + b"x" * 5000
    layer = raw(tmp_path, "wasm", data)
    (file,) = Path(layer.tree.root).iterdir()
    assert ("module.wasm", data, 0o644) == (file.name, file.read_bytes(), file.stat().st_mode & 0o7777)
    assert (digest_of(data), 8192, 1) == (layer.diff_id, layer.bytes, layer.inodes)


@pytest.mark.parametrize("name", ["../../etc/x", "a/../../x", "..", "/../x", "a/../../../x/"])
def test_a_path_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    """`..` beyond the layer's root is `DataLoss`, and nothing is written outside."""
    place = tmp_path / "deep" / "deeper"
    place.mkdir(parents=True)
    with pytest.raises(DataLoss, match="leads out"):
        raw(place, "", tar_of(File(name, b"x")))
    assert {"deep", "deep/deeper", "deep/deeper/blob", "deep/deeper/root"} == tree(tmp_path)


def test_an_absolute_path_is_one_within(unpacked: Unpack) -> None:
    """A leading slash means the layer's root."""
    root = unpacked(tar_of(File("/etc/x", b"x"), File("//etc/./y", b"y")))
    assert {"etc", "etc/x", "etc/y"} == tree(root)


@pytest.mark.parametrize("to", ["/victim", "../../../victim", "../victim", "x/../../../victim"])
def test_a_symbolic_link_leads_nowhere_outside(tmp_path: Path, to: str) -> None:
    """What is written through a link lands within the layer, wherever the link points to."""
    (tmp_path / "victim").mkdir()
    layer = raw(tmp_path, "", tar_of(symlink("out", to), File("out/x", b"x"), folder("out/y")))
    assert [] == list((tmp_path / "victim").iterdir())
    root = Path(layer.tree.root)
    assert {"out", "victim", "victim/x", "victim/y"} == tree(root) - {"x"}


def test_a_file_replaces_a_link_and_does_not_follow_it(tmp_path: Path) -> None:
    """A file, device, or folder named as an earlier symbolic link takes its place."""
    victim = tmp_path / "victim"
    victim.write_text("whole")
    names = [File("f", b"x"), folder("f"), File("f", kind=tarfile.CHRTYPE, device=(1, 3)), File("f", kind=tarfile.FIFOTYPE)]
    for number, file in enumerate(names):
        layer = raw(tmp_path, str(number), tar_of(symlink("f", str(victim)), file))
        assert False is Path(layer.tree.root, "f").is_symlink()
    assert ("whole", 0o644) == (victim.read_text(), stat.S_IMODE(victim.stat().st_mode))


@pytest.mark.parametrize("to", ["/etc/passwd", "../../../../../../etc/passwd", "nowhere"])
def test_a_hard_link_to_what_is_not_in_the_image(unpacked: Unpack, to: str) -> None:
    """A hard link leads to a file of this layer or one below, and is `DataLoss` otherwise."""
    with pytest.raises(DataLoss):
        unpacked(tar_of(hardlink("x", to)))


def test_a_hard_link_through_a_symbolic_link(tmp_path: Path) -> None:
    """A hard link's target is looked for within the layer, also where a symbolic link on its way points out."""
    (tmp_path / "secret").write_text("secret")
    layer = raw(tmp_path, "", tar_of(symlink("out", str(tmp_path)), hardlink("x", "out/secret")))
    with pytest.raises(DataLoss):
        settle(layer.tree, ())
    assert False is os.path.lexists(Path(layer.tree.root, "x"))


def test_a_hard_link_to_a_folder(unpacked: Unpack) -> None:
    """A hard link to a folder is `DataLoss`."""
    with pytest.raises(DataLoss):
        unpacked(tar_of(folder("d"), hardlink("x", "d")))


def test_a_hard_link_into_a_lower_layer(unpacked: Unpack) -> None:
    """The file of the lower layer is copied with its metadata, found through the lower layers' links."""
    low = tar_of(folder("usr/lib"), File("usr/lib/f", b"low", mode=0o640, uid=7), symlink("lib", "usr/lib"))
    root = unpacked(low, tar_of(hardlink("x", "lib/f")))
    status = (root / "x").lstat()
    assert (b"low", 0o640, 7) == ((root / "x").read_bytes(), stat.S_IMODE(status.st_mode), status.st_uid)


def test_devices_are_created(unpacked: Unpack) -> None:
    """Device nodes get their numbers; whether a container may use them is for its cgroup."""
    root = unpacked(tar_of(File("dev/null", kind=tarfile.CHRTYPE, device=(1, 3), mode=0o666)))
    status = (root / "dev/null").lstat()
    assert (True, os.makedev(1, 3), 0o666) == (stat.S_ISCHR(status.st_mode), status.st_rdev, stat.S_IMODE(status.st_mode))


def test_marks_of_overlayfs_are_not_taken_from_layers(unpacked: Unpack) -> None:
    """Attributes that would steer overlayfs, or label files for another host, are left out; those of users are unpacked."""
    taken = {"trusted.overlay.redirect": "/etc", "user.overlay.opaque": "y", "security.selinux": "a:b:c:d", "user.mine": "yes"}
    root = unpacked(tar_of(folder("d", xattrs=taken), File("d/f", xattrs=taken)))
    assert (["user.mine"], ["user.mine"]) == (os.listxattr(root / "d"), os.listxattr(root / "d/f"))


def test_whiteouts_become_overlayfs_own(unpacked: Unpack) -> None:
    """`.wh.NAME` is a device 0:0, `.wh..wh..opq` an opaque folder, and other reserved names are nothing."""
    root = unpacked(tar_of(File("a/.wh.gone"), File("b/.wh..wh..opq"), File("b/kept"), File(".wh..wh.plnk")))
    assert {"a", "a/gone", "b", "b/kept"} == tree(root)
    assert (True, True, False) == (is_whiteout(root / "a/gone"), is_opaque(root / "b"), is_opaque(root / "a"))


@pytest.mark.parametrize("order", [1, -1])
def test_a_whiteout_hides_lower_layers_only(unpacked: Unpack, order: int) -> None:
    """A file that the same layer adds at a removed name stays, in either order, without the removed content."""
    files = [File(".wh.f"), File("f", b"new")][::order]
    folders = [[File(".wh.d")], [folder("d"), File("d/x")]][::order]
    implied = [File(".wh.i"), File("i/x")][::order]
    root = unpacked(tar_of(*files, *folders[0], *folders[1], *implied))
    assert {"f", "d", "d/x", "i", "i/x"} == tree(root)
    assert (b"new", True, True) == ((root / "f").read_bytes(), is_opaque(root / "d"), is_opaque(root / "i"))


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "d/.wh..."])
def test_a_whiteout_of_nothing(unpacked: Unpack, name: str) -> None:
    """A whiteout that names its own folder or the one above is `DataLoss`."""
    with pytest.raises(DataLoss):
        unpacked(tar_of(File(name)))


def test_a_folder_passed_through_is_as_below(unpacked: Unpack) -> None:
    """A folder that a layer does not name keeps owner, mode and time of the layers below, the root's among them."""
    low = tar_of(folder(".", 0o711, uid=3), folder("tmp", 0o1777, uid=4, mtime=1_000_000_000))
    root = unpacked(low, tar_of(), tar_of(File("tmp/x", b"x")))
    top, tmp = root.lstat(), (root / "tmp").lstat()
    assert (0o711, 3) == (stat.S_IMODE(top.st_mode), top.st_uid)
    assert (0o1777, 4, 10**18) == (stat.S_IMODE(tmp.st_mode), tmp.st_uid, tmp.st_mtime_ns)


def test_a_folder_below_a_whiteout_is_new(unpacked: Unpack) -> None:
    """A folder that was removed between takes nothing from the one that it once was."""
    root = unpacked(tar_of(folder("d", 0o1777)), tar_of(File(".wh.d")), tar_of(File("d/x")))
    assert 0o755 == stat.S_IMODE((root / "d").lstat().st_mode)


def test_files_go_where_a_lower_link_leads(unpacked: Unpack) -> None:
    """Where a lower layer has a symbolic link to a folder, what a layer puts below the link's name lands in that folder."""
    low = tar_of(folder("usr/lib", 0o750), symlink("lib", "usr/lib"), symlink("lib64", "/lib"))
    top = tar_of(File("lib/a/x", b"x"), File("usr/lib/a/y", b"y"), File("lib64/z", b"z"), File("lib/.wh.old"))
    root = unpacked(low, top)
    assert {"usr", "usr/lib", "usr/lib/a", "usr/lib/a/x", "usr/lib/a/y", "usr/lib/z", "usr/lib/old"} == tree(root)
    assert (0o750, True) == (stat.S_IMODE((root / "usr/lib").lstat().st_mode), is_whiteout(root / "usr/lib/old"))


def test_a_folder_that_a_layer_names_replaces_a_lower_link(unpacked: Unpack) -> None:
    """A folder entry takes the place of a lower symbolic link, since it says so."""
    root = unpacked(tar_of(folder("usr"), symlink("lib", "usr")), tar_of(folder("lib"), File("lib/x")))
    assert {"lib", "lib/x"} == tree(root)


def test_links_in_a_circle(unpacked: Unpack) -> None:
    """Symbolic links that lead in a circle are `DataLoss`, within a layer and across layers."""
    with pytest.raises(DataLoss):
        unpacked(tar_of(symlink("a", "b"), symlink("b", "a"), File("a/x")))


def test_links_in_a_circle_across_layers(unpacked: Unpack) -> None:
    """A lower link into what lies below itself is `DataLoss`."""
    with pytest.raises(DataLoss):
        unpacked(tar_of(symlink("a", "a/b")), tar_of(File("a/x")))


def test_a_file_is_no_folder(unpacked: Unpack) -> None:
    """Something below a file of the same layer is `DataLoss`; a folder in a file's place is not."""
    with pytest.raises(DataLoss):
        unpacked(tar_of(File("f"), File("f/x")))


def test_later_entries_win(unpacked: Unpack) -> None:
    """A name that occurs twice is the later entry; a folder that occurs twice keeps its content."""
    root = unpacked(
        tar_of(folder("d"), File("d/x"), folder("d", 0o700), File("f"), folder("f"), folder("g"), File("g/x"), File("g"))
    )
    assert {"d", "d/x", "f", "g"} == tree(root)
    assert (0o700, True, True) == (stat.S_IMODE((root / "d").lstat().st_mode), (root / "f").is_dir(), (root / "g").is_file())


def test_names_that_are_no_utf8(unpacked: Unpack) -> None:
    """Names are bytes: those that are no UTF-8 come out as they went in."""
    root = unpacked(tar_of(File("caf\udce9", b"x")))
    assert [b"caf\xe9"] == [os.fsencode(path.name) for path in root.iterdir()]


@pytest.mark.parametrize("mtime", [-5.0, float(2**40)])
def test_times_beyond_sense_are_the_epoch(unpacked: Unpack, mtime: float) -> None:
    """A time that no file system keeps becomes the epoch."""
    assert 0 == (unpacked(tar_of(File("f", mtime=mtime))) / "f").lstat().st_mtime_ns


def broken(data: bytes, at: int) -> bytes:
    return data[:at] + b"\xff" * 512 + data[at + 512 :]


@pytest.mark.parametrize(
    "data",
    [
        tar_of(File("f", b"x" * 5000))[:3000],
        broken(tar_of(File("f", b"x"), File("g", b"x")), 1024),
        broken(tar_of(File("f", b"x")), 0),
        gzip.compress(tar_of(File("f", b"x" * 5000)))[:-20],
        gzip.compress(tar_of(File("f")))[:-8] + b"12345678",
        gzip.compress(tar_of(File("f"))) + b"garbage",
        b"\x28\xb5\x2f\xfd" + b"no zstd at all",
        b"no archive at all",
    ],
    ids=["cut", "middle", "beginning", "gzip cut", "gzip sum", "gzip garbage", "zstd", "text"],
)
def test_broken_layers(tmp_path: Path, data: bytes) -> None:
    """A layer that is cut off or spoilt anywhere is `DataLoss`, and not an archive that ends early."""
    with pytest.raises(DataLoss):
        raw(tmp_path, "", data)


def test_an_empty_layer(unpacked: Unpack) -> None:
    """A layer without entries, or without a single byte, is an empty folder."""
    assert set() == tree(unpacked(tar_of(), b""))


def test_a_full_disk(tmp_path: Path) -> None:
    """A file system that fills up is `ResourceExhausted`."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("tmpfs", disk, "tmpfs", 0, "size=1m")
    try:
        blob = tmp_path / "blob"
        blob.write_bytes(tar_of(File("f", bytes(3_000_000))))
        with pytest.raises(ResourceExhausted):
            unpack(blob, disk)
    finally:
        unmount(disk)


def test_sizes_are_counted_in_blocks(tmp_path: Path) -> None:
    """Bytes are whole blocks of files and folders; hard links are no inodes."""
    layer = raw(tmp_path, "", tar_of(folder("d"), File("d/f", b"x" * 4097), hardlink("d/h", "d/f"), File(".wh.x")))
    assert (4096 * 3, 3) == (layer.bytes, layer.inodes)


def test_what_a_stack_shows(tmp_path: Path) -> None:
    """The topmost layer with a path determines its content; whiteouts, opaque folders and files on the way hide the rest."""
    low, high = tmp_path / "low", tmp_path / "high"
    for place in (low / "a", low / "b", low / "c", high / "b"):
        place.mkdir(parents=True)
    for name in ("a/f", "b/f", "c/f", "d"):
        (low / name).write_text("low")
    os.mknod(high / "a", stat.S_IFCHR, 0)
    os.setxattr(high / "b", "trusted.overlay.opaque", b"y")
    (high / "c").write_text("a file now")
    (low / "out").symlink_to(low)
    found = {name: found_below((high, low), name) for name in ("", "a/f", "b/f", "b", "c/f", "d", "e", "out/d", "out")}
    shown = {"": high, "b": high / "b", "d": low / "d", "out": low / "out"}
    assert shown == {name: path for name, path in found.items() if path is not None}


@pytest.mark.parametrize("replaced", [False, True])
def test_the_work_grows_with_the_layer_only(tmp_path: Path, replaced: bool) -> None:
    """Twice as many folders that no entry names, or that a file replaces, are about twice the calls: counted, not timed."""

    def calls(number: int) -> int:
        files = [File(f"a/d{index}/f", b"x") for index in range(number)]
        files += [File(f"a/d{index}", b"x") for index in range(number)] if replaced else []
        archive, root = tmp_path / f"{number}.tar", tmp_path / str(number)
        archive.write_bytes(tar_of(*files))
        root.mkdir()
        count = 0

        def note(*_: object) -> None:
            nonlocal count
            count += 1

        sys.setprofile(note)
        try:
            settle(unpack(archive, root).tree, [])
        finally:
            sys.setprofile(None)
        return count

    assert calls(400) < 3 * calls(200)
