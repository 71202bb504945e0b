import json
from typing import Any

import pytest

from crishim.cni.attachment import attachment
from crishim.cni.config import parse
from crishim.cni.results import CachedResult, PluginFailed, addresses, decode, encode, failure, means_gone, result_of
from crishim.errors import DataLoss, Unavailable
from tests.cni.world import sandbox

NETWORK = parse("a.conf", b'{"cniVersion": "1.0.0", "name": "n", "type": "p"}')
BRIDGE = {"name": "cni0", "mac": "x"}
HOST = {"name": "veth1", "mac": "x"}
POD = {"name": "eth0", "sandbox": "/run/netns/x"}


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"ip4": {"ip": "10.1.0.2/16"}, "ip6": {"ip": "fd00::2/64"}}, ("10.1.0.2", "fd00::2")),
        ({"interfaces": [POD], "ips": [{"version": "4", "address": "10.1.0.2/16", "interface": 0}]}, ("10.1.0.2",)),
        ({"ips": [{"address": "10.1.0.2/16"}]}, ("10.1.0.2",)),
        (
            {
                "interfaces": [BRIDGE, HOST, POD, {"name": "eth1", "sandbox": "/run/netns/x"}],
                "ips": [
                    {"address": "10.9.0.1/16", "interface": 0},
                    {"address": "fd00:0::2/64", "interface": 2},
                    {"address": "10.8.0.1/16", "interface": 3},
                    {"address": "10.1.0.2/16", "interface": 2},
                    {"address": "10.1.0.3/16", "interface": 2},
                ],
            },
            ("10.1.0.2", "fd00::2"),
        ),
        ({"ips": [{"address": "fd00::2/64"}]}, ("fd00::2",)),
    ],
)
def test_addresses_of_every_version(result: dict[str, Any], expected: tuple[str, ...]) -> None:
    """The pod's are the first IPv4 and the first IPv6 address of its eth0, IPv4 first, in the results of all versions."""
    assert expected == addresses(result)


@pytest.mark.parametrize("result", [{}, {"ips": []}, {"ips": [{"address": "nowhere"}]}])
def test_no_address_is_an_error(result: dict[str, Any]) -> None:
    """A network that gives no address, or a wrong one, has failed: an empty ip would make the kubelet try for ever."""
    with pytest.raises(PluginFailed):
        addresses(result)


def test_errors_keep_the_plugin_s_words() -> None:
    """An error object's message and details are shown with plugin and command; without one, what the plugin wrote."""
    output = json.dumps({"cniVersion": "1.0.0", "code": 7, "msg": "bad config", "details": "no bridge"}).encode()
    error = failure("bridge", "ADD", 1, output, b"noise")
    assert isinstance(error, PluginFailed)
    assert (7, "CNI plugin bridge failed (ADD): bad config; no bridge") == (error.number, error.message)
    assert "CNI plugin p failed (DEL): panic: x" == failure("p", "DEL", 2, b"", b"panic: x\n").message
    assert "CNI plugin p failed (DEL): exit code -9, no output" == failure("p", "DEL", -9, b"", b"").message


@pytest.mark.parametrize("code", [11, 50, 51])
def test_codes_that_may_pass_are_unavailable(code: int) -> None:
    """Try again later, plugin not available and limited connectivity are Unavailable (CNI specification, Error)."""
    assert isinstance(failure("p", "ADD", 1, json.dumps({"code": code, "msg": "later"}).encode(), b""), Unavailable)


def test_what_means_gone() -> None:
    """Code 3 and a missing file say that there is nothing to undo; anything else does not."""
    said = [
        failure("p", "DEL", 1, b'{"code": 3, "msg": "unknown container"}', b""),
        failure("p", "DEL", 1, b'{"code": 999, "msg": "failed to Statfs: No such file or directory"}', b""),
        failure("p", "DEL", 1, b'{"code": 999, "msg": "permission denied"}', b""),
    ]
    assert [True, True, False] == [means_gone(error) for error in said]


@pytest.mark.parametrize("out", [b"", b"[]", b"done"])
def test_a_result_is_an_object(out: bytes) -> None:
    """A plugin that ends well and prints no object has failed."""
    with pytest.raises(PluginFailed, match="printed no result"):
        result_of("p", out)


def test_a_cached_result_is_libcni_s() -> None:
    """The file has libcni's keys, with the list's JSON in base64, and is read back as it was."""
    cached = CachedResult(network=NETWORK, attachment=attachment(sandbox(netns="/n")), result={"ips": []})
    content = json.loads(encode(cached))
    assert ("cniCacheV1", "aaaaaaaa", "eth0", "n", "/n") == tuple(
        content[key] for key in ("kind", "containerId", "ifName", "networkName", "netns")
    )
    assert ["K8S_POD_NAME", "a"] in content["cniArgs"]
    assert cached == decode("file", encode(cached))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"kind": "other"}', b'{"kind": "cniCacheV1", "config": "e30="}'])
def test_a_spoiled_file_is_data_loss(data: bytes) -> None:
    """What cannot be read back is DataLoss."""
    with pytest.raises(DataLoss, match="file"):
        decode("file", data)
