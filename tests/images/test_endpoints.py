import json
import tomllib

import pytest

from crishim.images.endpoints import Endpoint, endpoints, location, registries_conf
from crishim.images.reference import parse

NAME = "up.example/a/b:1"
MAIN = """
credential-helpers = ["secretservice"]
[[registry]]
prefix = "up.example"
location = "real.example/cache"
insecure = true
[[registry.mirror]]
location = "m1.example:5000"
[[registry.mirror]]
location = "m2.example/p"
insecure = true
"""


def found(text: str, name: str = NAME, *more: str) -> list[str]:
    """The repositories, those that are insecure with a mark."""
    files = [part.encode() for part in (text, *more)]
    return [item.repository + "!" * item.insecure for item in endpoints(files, parse(name))]


def mirrored(prefix: str, mirror: str = "m.example", more: str = "", per_mirror: str = "") -> str:
    return f'[[registry]]\nprefix = "{prefix}"\n{more}\n[[registry.mirror]]\nlocation = "{mirror}"\n{per_mirror}\n'


def test_mirrors_before_the_location() -> None:
    """Mirrors in their order, then the location; each takes the place of the prefix."""
    assert ["m1.example:5000/a/b", "m2.example/p/a/b!", "real.example/cache/a/b!"] == found(MAIN)
    assert ["m1.example:5000", "m2.example/p", "real.example/cache"] == [
        name.removesuffix("!").removesuffix("/c") for name in found(MAIN, "up.example/c")
    ]


@pytest.mark.parametrize(
    ("prefix", "name", "expected"),
    [
        ("up.example/a", NAME, ["m.example/b", "up.example/a/b"]),
        ("up.example/a/b", NAME, ["m.example", "up.example/a/b"]),
        ("up.example/", NAME, []),
        ("up.example/a/", NAME, []),
        ("up.exam", NAME, []),
        ("other.example", NAME, []),
        ("*.example", NAME, ["m.example/a/b", "up.example/a/b"]),
        ("*.example", "deep.up.example:5000/a", ["m.example:5000/a", "deep.up.example:5000/a"]),
        ("*.example", "other.org/up.example/a", []),
        ("docker.io", "busybox", ["m.example/library/busybox", "docker.io/library/busybox"]),
        ("up.example/a/b:1", NAME, []),
    ],
)
def test_prefixes(prefix: str, name: str, expected: list[str]) -> None:
    """A prefix ends where a component of the name ends, or at its port, tag or digest (containers-registries.conf(5))."""
    assert expected == found(mirrored(prefix), name)


def test_the_longest_prefix_and_the_last_file() -> None:
    """The longest prefix counts, and of one prefix the last file's."""
    longer = mirrored("up.example/a", "longer.example")
    assert ["longer.example/b", "up.example/a/b"] == found(longer, NAME, MAIN)
    assert ["last.example/a/b", "up.example/a/b"] == found(MAIN, NAME, mirrored("up.example", "last.example"))
    assert [] == found(MAIN, NAME, '[[registry]]\nprefix = "up.example"\n')


@pytest.mark.parametrize(
    ("registry", "mirror", "by_tag", "by_digest"),
    [
        ("", "", True, True),
        ("mirror-by-digest-only = true", "", False, True),
        ("", 'pull-from-mirror = "digest-only"', False, True),
        ("", 'pull-from-mirror = "tag-only"', True, False),
        ("", 'pull-from-mirror = "all"', True, True),
        ("", 'pull-from-mirror = "nonsense"', False, False),
        ("blocked = true", "", False, False),
    ],
)
def test_what_a_mirror_is_for(registry: str, mirror: str, by_tag: bool, by_digest: bool) -> None:
    """A mirror may be for tags or for digests alone; what skopeo refuses is left to skopeo."""
    text = mirrored("up.example", more=registry, per_mirror=mirror)
    names = (NAME, "up.example/a/b@sha256:" + "a" * 64)
    assert [by_tag, by_digest] == [bool(found(text, name)) for name in names]


@pytest.mark.parametrize(
    "text", ["", "no toml [", "\x00", "registry = 3", "[[registry]]\n[[registry.mirror]]\n", "[registries.search]\n"]
)
def test_what_has_no_mirrors_or_is_broken(text: str) -> None:
    """Without mirrors, and with a file that skopeo will complain about, there is nothing to order."""
    assert [] == found(text)


def test_the_location_without_mirrors() -> None:
    """The registry's own location is what its table says, or the name; plain HTTP is for this machine alone."""
    assert Endpoint("real.example/cache/a/b", insecure=True) == location([MAIN.encode()], parse(NAME))
    assert Endpoint("other.example/a", insecure=False) == location([MAIN.encode()], parse("other.example/a"))
    assert Endpoint("127.0.0.1:5000/a", insecure=True) == location([], parse("127.0.0.1:5000/a"))


def test_a_configuration_for_one_endpoint() -> None:
    """The image keeps its name; credential helpers stay, and no other file's prefix can be longer."""
    conf = tomllib.loads(registries_conf([MAIN.encode(), b""], parse(NAME), Endpoint("m.example/a/b", insecure=True)))
    assert {
        "credential-helpers": ["secretservice"],
        "registry": [{"prefix": "up.example/a/b", "location": "m.example/a/b", "insecure": True}],
    } == conf
    assert json.dumps("x") in registries_conf([], parse(NAME), Endpoint("x", insecure=False))
