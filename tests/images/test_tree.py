from pathlib import Path

import pytest

from crishim.errors import DataLoss
from crishim.images.tree import Metadata, Tree, cleaned, is_unpacked_xattr
from tests.backends.runc.world import needs

pytestmark = [pytest.mark.node, needs()]


@pytest.mark.parametrize(
    ("name", "place"),
    [("", ""), (".", ""), ("/", ""), ("./a/", "a"), ("//a/./b", "a/b"), ("a/../b", "b"), ("..a/b..", "..a/b..")],
)
def test_names_are_relative_to_the_root(name: str, place: str) -> None:
    """Leading slashes, dots and detours within mean nothing."""
    assert place == cleaned(name)


def test_moving_a_folder_merges(tmp_path: Path) -> None:
    """What two folders have is put together; where both have a file, that of the folder moved to stays."""
    tree = Tree(str(tmp_path))
    for name in ("a/x/one", "a/same", "b/x/two", "b/same", "a/new/f"):
        Path(tree.at(tree.place(name))).write_text(name)
    tree.link_below("a/x/link", "elsewhere")
    tree.make_folder("b", Metadata(mtime_ns=5))
    tree.move_folder("a", "b")
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert {"b", "b/x", "b/x/one", "b/x/two", "b/same", "b/new", "b/new/f"} == found
    assert ("b/same", {"b/x/link": "elsewhere"}, {"b": 5}) == ((tmp_path / "b/same").read_text(), tree.links, tree.times)
    assert {"", "b/x", "b/new"} == tree.implied


def test_the_root_cannot_be_replaced(tmp_path: Path) -> None:
    """A layer that puts anything but a folder in the place of its root is refused."""
    with pytest.raises(DataLoss):
        Tree(str(tmp_path)).clear("")


def test_a_removed_folder_is_forgotten(tmp_path: Path) -> None:
    """A folder that was replaced by a link is not followed."""
    tree = Tree(str(tmp_path))
    tree.make_folder("d", Metadata())
    tree.clear(tree.place("d"))
    (tmp_path / "d").symlink_to("elsewhere")
    assert "elsewhere/x" == tree.place("d/x")


def test_which_attributes_count() -> None:
    """Capabilities, access lists and users' own count."""
    names = ("security.capability", "system.posix_acl_access", "user.x", "user.overlay.x", "trusted.x", "security.ima")
    assert [True, True, True, False, False, False] == [is_unpacked_xattr(name) for name in names]
