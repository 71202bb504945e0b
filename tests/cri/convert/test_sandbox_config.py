import pytest

from crishim.cri import pb
from crishim.cri.convert.sandbox_config import decode_config
from crishim.model.resources import Resources
from crishim.model.sandbox import LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata
from tests.cri.refusals import refused

METADATA = pb.PodSandboxMetadata(name="n", namespace="ns", uid="u")


def test_a_named_sandbox_is_enough() -> None:
    """Everything but the name has a default."""
    expected = PodSandboxConfig(metadata=PodSandboxMetadata("n", "ns", "u"))
    assert expected == decode_config(pb.PodSandboxConfig(metadata=METADATA), "config")


def test_metadata_is_needed() -> None:
    """A configuration without metadata is refused, unless the caller needs no name."""
    with refused("config.metadata"):
        decode_config(pb.PodSandboxConfig(), "config")
    expected = PodSandboxConfig(metadata=PodSandboxMetadata("", "", ""), labels={"a": "b"})
    assert expected == decode_config(pb.PodSandboxConfig(labels={"a": "b"}), "config", named=False)


def test_empty_overhead_is_not_absent_overhead() -> None:
    """An empty message of limits is a value, an absent one is None."""
    message = pb.PodSandboxConfig(metadata=METADATA, linux=pb.LinuxPodSandboxConfig(overhead=pb.LinuxContainerResources()))
    expected = LinuxPodSandboxConfig(overhead=Resources(), resources=None)
    assert expected == decode_config(message, "config").linux


def test_an_absent_dns_configuration_is_the_nodes() -> None:
    """Absent and empty differ: None is the node's own resolv.conf."""
    assert decode_config(pb.PodSandboxConfig(metadata=METADATA), "config").dns_config is None
    message = pb.PodSandboxConfig(metadata=METADATA, dns_config=pb.DNSConfig())
    assert decode_config(message, "config").dns_config is not None


def test_windows_is_passed_over() -> None:
    """What is said to Windows changes nothing."""
    plain = pb.PodSandboxConfig(metadata=METADATA)
    windows = pb.PodSandboxConfig(
        metadata=METADATA,
        windows=pb.WindowsPodSandboxConfig(security_context=pb.WindowsSandboxSecurityContext(host_process=True)),
    )
    assert decode_config(plain, "config") == decode_config(windows, "config")


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.PodSandboxConfig(metadata=METADATA, log_directory="var/log"), "log_directory"),
        (
            pb.PodSandboxConfig(metadata=METADATA, port_mappings=[pb.PortMapping(), pb.PortMapping(host_port=-1)]),
            "port_mappings[1].host_port",
        ),
        (
            pb.PodSandboxConfig(metadata=METADATA, port_mappings=[pb.PortMapping(container_port=65536)]),
            "port_mappings[0].container_port",
        ),
        (
            pb.PodSandboxConfig(metadata=METADATA, port_mappings=[pb.PortMapping(protocol=3)]),  # type: ignore[arg-type]
            "port_mappings[0].protocol",
        ),
    ],
)
def test_configurations_that_make_no_sense_are_refused(message: pb.PodSandboxConfig, field: str) -> None:
    """A relative log folder, a port that is none, and an unknown protocol are refused by their fields."""
    with refused(f"config.{field}"):
        decode_config(message, "config")
