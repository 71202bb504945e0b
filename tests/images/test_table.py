import attrs
import pytest

from crishim.errors import DataLoss
from crishim.images.reference import parse
from crishim.images.table import ImageEntry, dump, find, load, named, pinned, shown
from crishim.model.values import ImageId

D1, D2 = "sha256:" + "d1" * 32, "sha256:" + "d2" * 32


def entry(digits: str) -> ImageEntry:
    return ImageEntry(id=ImageId("sha256:" + digits * 32), manifest=D1, blobs=(D1,), layers=(D2,), size=5)


ONE, TWO = entry("a1"), entry("a2")


def test_names_of_a_pulled_image() -> None:
    """A pull by tag gives tag and repo digest, one by digest the repo digest alone, without duplicates."""
    table = named({}, ONE, parse("registry.example/x:1"), D1)
    table = named(table, attrs.evolve(ONE, blobs=(D2,)), parse(f"other.example/y@{D2}"), D2)
    table = named(table, ONE, parse("registry.example/x:1"), D1)
    expected = attrs.evolve(
        ONE, tags=("registry.example/x:1",), digests=(f"registry.example/x@{D1}", f"other.example/y@{D2}"), blobs=(D1, D2)
    )
    assert {ONE.id: expected} == table


def test_a_tag_names_one_image() -> None:
    """A tag that was pushed again leaves the image that had it; its repo digest stays."""
    table = named(named({}, ONE, parse("x:1"), D1), TWO, parse("x:1"), D2)
    assert ((), ("docker.io/library/x:1",)) == (table[ONE.id].tags, table[TWO.id].tags)
    assert (f"docker.io/library/x@{D1}",) == table[ONE.id].digests


def test_finding() -> None:
    """Ids, short names, digests and beginnings of exactly one id find an image; a tag wins over the beginning of an id."""
    table = named(named({}, ONE, parse("x:1"), D1), TWO, parse("a1"), D2)
    assert [ONE, ONE, ONE, ONE] == [
        attrs.evolve(found, tags=(), digests=())
        for text in (ONE.id, "x:1", f"x:2@{D1}", "a1a1")
        if (found := find(table, text)) is not None
    ]
    assert [table[TWO.id]] * 2 == [find(table, "a1"), find(table, "sha256:a2")]
    assert [None] * 4 == [find(table, text) for text in ("sha256:a", "x", "", "No Name")]


USERS = [
    ("", None, ""),
    ("1002:5", 1002, ""),
    ("www:1", None, "www"),
    ("0", 0, ""),
    ("²", None, "²"),
    ("9" * 5000, None, "9" * 5000),
]


@pytest.mark.parametrize(("user", "uid", "name"), USERS)
def test_the_user_of_an_image(user: str, uid: int | None, name: str) -> None:
    """A number is `uid`, a name `username`, never both, and the group is left out."""
    image = shown(ONE, user, is_pinned=False)
    assert (uid, name) == (image.uid, image.username)


def test_pinning() -> None:
    """A pattern pins by any of an image's names."""
    (entry,) = named({}, ONE, parse("registry.example/pause:3"), D1).values()
    fits = [("*/pause:*",), (ONE.id,), ("nothing", "registry.example/*"), ("pause",), ()]
    assert [True, True, True, False, False] == [pinned(entry, patterns) for patterns in fits]


def test_the_file() -> None:
    """What is written is read again; broken files and those of other versions are `DataLoss`."""
    table = named({}, ONE, parse("x:1"), D1)
    assert table == load(dump(table))
    for data in (b"", b"{", b"[]", b'{"version": 2}', b'{"version": 1, "images": [{}]}'):
        with pytest.raises(DataLoss):
            load(data)
