import os
from pathlib import Path

import attrs
import pytest

from crishim.interfaces.seats import Rootfs
from crishim.model.container import Mount
from crishim.model.image import ImageConfig
from crishim.model.security import IDMapping
from crishim.oci.facts import NamespacePaths
from crishim.pods.volumes import make_volumes, real_path
from tests.backends.runc.world import needs
from tests.pods.test_sources import container_spec

pytestmark = [pytest.mark.node, needs()]

HOST = NamespacePaths()
LINES = (IDMapping(100000, 0, 65536),)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root file system whose /var/run is a link, with something at /seeded."""
    root = tmp_path / "root"
    for name in ("run", "var", "seeded/below", "data"):
        (root / name).mkdir(parents=True)
    (root / "var" / "run").symlink_to("/run")
    (root / "file").write_text("x")
    (root / "seeded" / "f").write_text("seed")
    (root / "seeded" / "link").symlink_to("/f")
    (root / "seeded" / "hard").hardlink_to(root / "seeded" / "f")
    os.mkfifo(root / "seeded" / "pipe")
    (root / "seeded").chmod(0o1777)
    os.chown(root / "seeded", 5, 6)
    os.setxattr(root / "seeded" / "f", "user.a", b"b")
    return root


async def volumes_of(root: Path, *volumes: str, mounts: tuple[str, ...] = (), namespaces: NamespacePaths = HOST) -> set[str]:
    requested = tuple(Mount(container_path=path, host_path="/x") for path in mounts)
    spec = attrs.evolve(container_spec(*requested), image_config=ImageConfig(volumes=volumes))
    return set(await make_volumes(spec, Rootfs(path=str(root)), root.with_name("bundle"), ("/etc/hosts",), namespaces))


async def test_a_volume_has_what_the_image_has(root: Path) -> None:
    """Content, owner, mode, links, pipes and attributes are copied, and the copy is the container's own."""
    assert {"/seeded"} == await volumes_of(root, "/seeded")
    copy, source = root.with_name("bundle") / "volumes" / "0", root / "seeded"
    assert ({"below", "f", "hard", "link", "pipe"}, b"b") == (
        {path.name for path in copy.iterdir()},
        os.getxattr(copy / "f", "user.a"),
    )
    assert ("seed", Path("/f"), True) == ((copy / "f").read_text(), (copy / "link").readlink(), (copy / "pipe").is_fifo())
    found = [(path.stat().st_mode, path.stat().st_uid, path.stat().st_gid, path.stat().st_mtime_ns) for path in (copy, source)]
    assert found[0] == found[1]
    assert (2, False) == ((copy / "f").stat().st_nlink, (copy / "f").samefile(source / "f"))


@pytest.mark.parametrize(("namespaces", "owner"), [(HOST, 0), (NamespacePaths(user="/u", uids=LINES, gids=LINES), 100000)])
async def test_a_volume_that_the_image_has_no_folder_for(root: Path, namespaces: NamespacePaths, owner: int) -> None:
    """It is an empty folder of the container's root user, also at a link to nothing. A file of the image stays one."""
    (root / "dangling").symlink_to("/no/where")
    assert {"/none/at/all", "/dangling"} == await volumes_of(root, "/none/at/all", "/file", "/dangling", namespaces=namespaces)
    for folder in (root.with_name("bundle") / "volumes").iterdir():
        status = folder.stat()
        assert (0o40755, owner, owner, []) == (status.st_mode, status.st_uid, status.st_gid, list(folder.iterdir()))


@pytest.mark.parametrize(
    ("volumes", "mounts", "expected"),
    [
        (("/", "/proc/x", "/sys/fs/cgroup", "/dev", "/etc/hosts", "../../proc"), (), set()),
        (("/data", "/data/", "//data"), (), {"/data"}),
        (("/data", "/run"), ("/data",), {"/run"}),
        (("/data/below", "/database"), ("/data/",), {"/database"}),
        (("/var/run",), ("/run",), set()),
        (("/run",), ("/var/run",), set()),
        (("/run",), ("/var/run/secrets",), {"/run"}),
        (("/var/run/new",), (), {"/run/new"}),
        (("a\0b",), (), set()),
    ],
)
async def test_what_a_request_mounts_is_not_covered(
    root: Path, volumes: tuple[str, ...], mounts: tuple[str, ...], expected: set[str]
) -> None:
    """A volume is left out at and below mounts of the request, the pod's files and the kernel's, by way of links too."""
    assert expected == await volumes_of(root, *volumes, mounts=mounts)


def test_real_paths(root: Path) -> None:
    """Links on the way are the image's; what is missing stays as it is written, at any depth."""
    (root / "up").symlink_to("../../../var/run/x")
    paths = {
        "": "/",
        "var/run": "/run",
        "/var/run/a/b": "/run/a/b",
        "/up/y": "/up/y",
        "/../run/..": "/",
        "/" + "a/" * 1500: "/" + "a/" * 1499 + "a",
    }
    assert paths == {path: real_path(root, path) for path in paths}
