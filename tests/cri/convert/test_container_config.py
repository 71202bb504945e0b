import pytest

from crishim.cri import pb
from crishim.cri.convert.container import decode_config, encode_config
from crishim.model.container import ContainerConfig, ContainerMetadata, KeyValue, LinuxContainerConfig
from crishim.model.security import LinuxContainerSecurityContext
from tests.cri.refusals import refused

METADATA = pb.ContainerMetadata(name="n")


def test_a_named_container_is_enough() -> None:
    """Everything but the name has a default; no Linux part is None."""
    expected = ContainerConfig(metadata=ContainerMetadata("n"))
    assert expected == decode_config(pb.ContainerConfig(metadata=METADATA), "config")


def test_an_absent_security_context_stays_absent() -> None:
    """Nothing said about security differs from an empty context."""
    linux = pb.LinuxContainerConfig()
    absent = decode_config(pb.ContainerConfig(metadata=METADATA, linux=linux), "config")
    assert LinuxContainerConfig(security_context=None) == absent.linux
    linux.security_context.SetInParent()
    empty = decode_config(pb.ContainerConfig(metadata=METADATA, linux=linux), "config")
    assert LinuxContainerConfig(security_context=LinuxContainerSecurityContext()) == empty.linux


def test_variables_may_hold_any_bytes() -> None:
    """A value that is no UTF-8 becomes surrogate escapes, and goes back as it came."""
    message = pb.ContainerConfig(metadata=METADATA, envs=[pb.KeyValue(key="K", value=b"\xff=\n")])
    config = decode_config(message, "config")
    assert (KeyValue("K", "\udcff=\n"),) == config.envs
    expected = message.envs[0]
    assert expected == encode_config(config).envs[0]


def test_windows_is_passed_over() -> None:
    """What is said to Windows changes nothing."""
    windows = pb.WindowsContainerConfig(resources=pb.WindowsContainerResources(cpu_count=2))
    expected = decode_config(pb.ContainerConfig(metadata=METADATA), "config")
    assert expected == decode_config(pb.ContainerConfig(metadata=METADATA, windows=windows), "config")


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.ContainerConfig(), "metadata"),
        (pb.ContainerConfig(metadata=pb.ContainerMetadata()), "metadata.name"),
        (pb.ContainerConfig(metadata=METADATA, stop_signal=66), "stop_signal"),  # type: ignore[arg-type]
        (pb.ContainerConfig(metadata=METADATA, CDI_devices=[pb.CDIDevice()]), "CDI_devices[0].name"),
        (pb.ContainerConfig(metadata=METADATA, mounts=[pb.Mount()]), "mounts[0].host_path"),
        (pb.ContainerConfig(metadata=METADATA, devices=[pb.Device()]), "devices[0].container_path"),
    ],
)
def test_configurations_that_make_no_sense_are_refused(message: pb.ContainerConfig, field: str) -> None:
    """What lacks a name, or has a number that CRI does not know, is refused by its field."""
    with refused(f"config.{field}"):
        decode_config(message, "config")
