"""What is claimed."""

from typing import Any

import pytest

from crishim.errors import InvalidArgument
from crishim.lifecycle.features import check_container
from crishim.model.container import ContainerMetadata, ContainerSpec
from crishim.model.features import OCI, PROCESS, VM
from crishim.model.resources import Resources
from crishim.model.sandbox import PodSandboxConfig, PodSandboxMetadata, SandboxSpec
from crishim.model.values import ContainerId, FrozenDict, ImageId, SandboxId


def spec(**changes: Any) -> ContainerSpec:
    config = PodSandboxConfig(metadata=PodSandboxMetadata(name="p", namespace="n", uid="u"))
    sandbox = SandboxSpec(id=SandboxId("s"), config=config)
    values: dict[str, Any] = {"sandbox": sandbox, "metadata": ContainerMetadata("c"), "argv": ("x",), **changes}
    return ContainerSpec(id=ContainerId("c"), image_id=ImageId("i"), **values)


@pytest.mark.parametrize("supported", [PROCESS, VM])
def test_cdi_devices_need_support(supported: frozenset[Any]) -> None:
    """CDI devices are refused by name where they are not looked up, and taken by OCI runtimes (mapping.md 6)."""
    requested = spec(cdi_devices=("vendor.example/class=dev",))
    with pytest.raises(InvalidArgument, match="CDI_devices"):
        check_container(requested, supported)
    check_container(requested, OCI)
    check_container(spec(), supported)


@pytest.mark.parametrize("supported", [PROCESS, VM])
def test_what_every_container_has_needs_no_support(supported: frozenset[Any]) -> None:
    """The group kill that the kubelet asks for in every container on cgroup v2 is not refused; another key of `unified` is."""
    check_container(spec(resources=Resources(unified=FrozenDict({"memory.oom.group": "1"}))), supported)
    with pytest.raises(InvalidArgument, match="unified"):
        check_container(spec(resources=Resources(unified=FrozenDict({"memory.high": "1"}))), supported)
