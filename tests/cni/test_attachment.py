import json

import attrs
import pytest

from crishim.cni.attachment import EGRESS, INGRESS, attachment, bits_per_second, garbage_input, plugin_input
from crishim.cni.config import parse
from crishim.errors import InvalidArgument
from crishim.model.sandbox import DNSConfig, PodSandboxConfig, PodSandboxMetadata, PortMapping, Protocol
from tests.cni.world import sandbox

NETWORK = parse(
    "a.conf",
    b'{"cniVersion": "1.0.0", "name": "n", "type": "p", "capabilities": {"dns": true, "portMappings": true}, "own": 1}',
)


def test_capability_arguments_are_the_field_s() -> None:
    """Host ports above zero, bandwidth in bits with a burst of 2^32 - 1, DNS and annotations: as containerd gives them."""
    spec = sandbox(
        ports=(
            PortMapping(container_port=80, host_port=8080, host_ip="127.0.0.1"),
            PortMapping(protocol=Protocol.UDP, container_port=53, host_port=53),
            PortMapping(container_port=90),
        ),
        annotations={INGRESS: "10M", EGRESS: "1Ki"},
    )
    dns = DNSConfig(servers=("10.0.0.1",), searches=("x",))
    linux = attrs.evolve(spec.config.linux, cgroup_parent="/kubepods/a")
    spec = attrs.evolve(spec, config=attrs.evolve(spec.config, dns_config=dns, linux=linux))
    assert {
        "io.kubernetes.cri.pod-annotations": {INGRESS: "10M", EGRESS: "1Ki"},
        "portMappings": [
            {"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"},
            {"hostPort": 53, "containerPort": 53, "protocol": "udp"},
        ],
        "bandwidth": {
            "ingressRate": 10_000_000,
            "ingressBurst": 4_294_967_295,
            "egressRate": 1024,
            "egressBurst": 4_294_967_295,
        },
        "dns": {"servers": ["10.0.0.1"], "searches": ["x"]},
        "cgroupPath": "/kubepods/a",
    } == attachment(spec).capabilities


def test_cni_args_name_the_pod() -> None:
    """CNI_ARGS are Kubernetes' five pairs; a name that would break out of its pair is refused."""
    assert (
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", "ns"),
        ("K8S_POD_NAME", "a"),
        ("K8S_POD_INFRA_CONTAINER_ID", "aaaaaaaa"),
        ("K8S_POD_UID", "uid-a"),
    ) == attachment(sandbox()).args
    config = PodSandboxConfig(metadata=PodSandboxMetadata(name="a;K8S_POD_NAME=b", namespace="n", uid="u"))
    with pytest.raises(InvalidArgument, match="K8S_POD_NAME"):
        attachment(attrs.evolve(sandbox(), config=config))


def test_a_plugin_gets_what_it_claims() -> None:
    """A plugin reads its own keys, name, version, the capability arguments it claims, and the result before it."""
    arguments = {"dns": {"servers": ["1.1.1.1"]}, "bandwidth": {"ingressRate": 1}}
    sent = json.loads(plugin_input(NETWORK, NETWORK.plugins[0], arguments, {"ips": []}))
    assert {
        "type": "p",
        "own": 1,
        "name": "n",
        "cniVersion": "1.0.0",
        "runtimeConfig": {"dns": {"servers": ["1.1.1.1"]}},
        "prevResult": {"ips": []},
    } == sent
    assert {"type": "p", "own": 1, "name": "n", "cniVersion": "1.0.0"} == json.loads(
        plugin_input(NETWORK, NETWORK.plugins[0], {})
    )


def test_gc_names_what_stays() -> None:
    """GC gets every attachment that is to stay, by container and interface."""
    sent = json.loads(garbage_input(NETWORK, NETWORK.plugins[0], ["c1"]))
    assert [{"containerID": "c1", "ifname": "eth0"}] == sent["cni.dev/valid-attachments"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1k", 1000), ("1.5M", 1_500_000), ("1e6", 1_000_000), ("2Mi", 2 << 20), ("1P", 10**15), ("9E3", 9000)],
)
def test_quantities_are_kubernetes_s(text: str, expected: int) -> None:
    """Bandwidth is a Kubernetes quantity: decimal and binary suffixes, and exponents."""
    assert expected == bits_per_second(INGRESS, text)


@pytest.mark.parametrize("text", ["1", "999", "2P", "-1M", "1 M", "fast", "", "1e999", "100m"])
def test_bad_quantities_are_refused(text: str) -> None:
    """What is no quantity, or not between 1k and 1P, is refused with the annotation's name."""
    with pytest.raises(InvalidArgument, match=INGRESS):
        bits_per_second(INGRESS, text)
