import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crishim.errors import InvalidArgument
from crishim.images.reference import id_prefix, is_loopback, parse

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("me/tool", "docker.io/me/tool:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("index.docker.io/me/tool:1", "docker.io/me/tool:1"),
        ("localhost/tool", "localhost/tool:latest"),
        ("localhost:5000/tool:v1", "localhost:5000/tool:v1"),
        ("UPPER/tool", "UPPER/tool:latest"),
        ("registry.example/a/b_c/d--e.f__g:T-1.x", "registry.example/a/b_c/d--e.f__g:T-1.x"),
        ("[::1]:5000/tool", "[::1]:5000/tool:latest"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}"),
        (f"registry.example/a/b:1@{DIGEST}", f"registry.example/a/b@{DIGEST}"),
    ],
)
def test_short_names_mean_full_ones(text: str, name: str) -> None:
    """Short references mean docker.io, library and latest; a digest makes a tag void; a full name means itself."""
    assert name == str(parse(text))
    assert name == str(parse(name))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Busybox",
        "a//b",
        "a/b/",
        "/a",
        "a:",
        "a:-x",
        "a:b:c",
        "a b",
        "-a",
        "a..b",
        "a___b",
        "registry.example/",
        "-registry.example/a",
        "a@",
        "a@sha256:ab",
        "a@sha256:" + "AB" * 32,
        "a@nothing",
        "a\n",
        "ä",
        "a:" + "x" * 129,
        "a/" * 128 + "b",
        "--help",
        "ab" * 32,
        DIGEST,
    ],
)
def test_what_no_image_can_be_called(text: str) -> None:
    """What breaks the grammar, and ids, are no references."""
    with pytest.raises(InvalidArgument):
        parse(text)


@settings(deadline=None)
@given(st.text(max_size=40))
def test_a_name_that_is_read_is_read_again_as_itself(text: str) -> None:
    """Whatever is accepted is printable, without spaces, and its full name means itself."""
    try:
        reference = parse(text)
    except InvalidArgument:
        return
    full = str(reference)
    assert (reference, True, False) == (parse(full), full.isascii() and full.isprintable(), " " in full)


def test_beginnings_of_ids() -> None:
    """Up to 64 small hexadecimal digits, with or without `sha256:`, may be the beginning of an id."""
    texts = ("ab", "sha256:ab", "xy", "", "ab" * 33, "sha256:", "AB")
    assert ["sha256:ab", "sha256:ab", "", "", "", "", ""] == [id_prefix(text) for text in texts]


def test_registries_of_this_machine() -> None:
    """Loopback addresses and localhost are this machine, with any port; names that begin so are not."""
    here = ("localhost", "localhost:5000", "127.0.0.1:5000", "127.8.9.1", "[::1]:5000", "[::1]")
    elsewhere = ("localhost.example", "127.0.0.1.example:5000", "10.0.0.1:5000", "registry.example", "[::2]:5000")
    assert [True] * 6 + [False] * 5 == [is_loopback(registry) for registry in (*here, *elsewhere)]
