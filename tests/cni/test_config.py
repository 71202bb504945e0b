import json
from typing import Any

import pytest

from crishim.cni.config import NetworkList, choose, parse
from crishim.errors import InvalidArgument


def conflist(**keys: Any) -> bytes:
    return json.dumps({"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge"}], **keys}).encode()


def test_a_conf_makes_a_list_of_its_own() -> None:
    """A .conf is one plugin: the list around it takes its name and version."""
    network = parse(
        "a.conf", b'{"cniVersion": "0.4.0", "name": "n", "type": "bridge", "capabilities": {"dns": true, "x": false}}'
    )
    assert ("n", "0.4.0", ["bridge"]) == (network.name, network.version, [plugin.type for plugin in network.plugins])
    assert frozenset({"dns"}) == network.plugins[0].capabilities


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"cniVersion": "0.3.1"}, "0.3.1"),
        ({"cniVersion": ""}, "0.1.0"),
        ({"cniVersions": ["0.4.0", "1.1.0", "9.9.9"]}, "1.1.0"),
        ({"cniVersion": "9.9.9", "cniVersions": ["0.4.0"]}, "0.4.0"),
    ],
)
def test_the_highest_version_in_common_is_spoken(keys: dict[str, Any], expected: str) -> None:
    """Of cniVersion and cniVersions the highest that we know is taken; a list without a word of it speaks 0.1.0."""
    assert expected == parse("a.conflist", conflist(**keys)).version


@pytest.mark.parametrize(
    ("file", "data", "words"),
    [
        ("a.conf", b"{", "is not JSON"),
        ("a.conf", b"[]", "is not a JSON object"),
        ("a.conf", b'{"name": "n", "cniVersion": "1.0.0"}', "is not a valid plugin type"),
        ("a.conf", conflist(), "must be named .conflist"),
        ("a.conflist", conflist(name="a/b"), "is not a valid network name"),
        ("a.conflist", conflist(name=None), "is not a valid network name"),
        ("a.conflist", conflist(plugins=[]), "has no plugins"),
        ("a.conflist", conflist(plugins=["bridge"]), "is not an object"),
        ("a.conflist", conflist(plugins=[{"type": "../sh"}]), "is not a valid plugin type"),
        ("a.conflist", conflist(plugins=[{"type": "x", "capabilities": [1]}]), "are not an object"),
        ("a.conflist", conflist(cniVersion="9.0"), "9.0 is not supported"),
        ("a.conflist", conflist(disableGC=3), "neither true nor false"),
    ],
)
def test_bad_files_are_refused_with_their_name(file: str, data: bytes, words: str) -> None:
    """An invalid network is refused with the file's name and the error."""
    with pytest.raises(InvalidArgument, match=words) as caught:
        parse(file, data)
    assert file == caught.value.field


def test_the_first_valid_file_is_the_network() -> None:
    """Files are sorted by their names; an invalid one is ignored and reported."""
    network, problems = choose([("20.conflist", conflist(name="second")), ("30.conflist", conflist()), ("10.conf", b"")])
    assert isinstance(network, NetworkList)
    assert "second" == network.name
    assert ["10.conf"] == [problem.split(":")[0] for problem in problems]
    assert (None, ()) == choose([])


def test_flags_may_be_text() -> None:
    """DisableGC may be written as text, as libcni takes it."""
    assert [True, True, False] == [
        parse("a.conflist", conflist(disableGC=value)).disable_gc for value in (True, "true", "false")
    ]
